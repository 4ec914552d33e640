"""The six preference losses with knobs, for tests that go through all of them."""

from __future__ import annotations

from functools import partial
from typing import Any

from leyden.problem import losses

PAIR_LOSSES: dict[str, Any] = {
    "dpo": partial(losses.dpo, beta=0.2),
    "hinge": partial(losses.hinge, beta=0.2, average=True),
    "ipo": partial(losses.ipo, beta=0.2),
    "kto_pair": partial(losses.kto_pair, beta=0.2, detach_kl=False),
    "cpo": partial(losses.cpo, beta=0.2, nll_weight=0.5),
    "simpo": partial(losses.simpo, beta=0.2, gamma=1.0),
}
