"""The LightningModule beside its loop: its randomness, what it holds, what it says of a bad update."""

from __future__ import annotations

import math
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.optim.lr_scheduler import LambdaLR

from leyden.backbone.tiny import tiny_model
from leyden.problem.causal_lm import CausalLM
from leyden.problem.dpo import DPO
from leyden.problem.losses import cpo, dpo, token_averaged_cross_entropy
from leyden.settings.errors import TrainingError
from leyden.training.module import FineTuner
from leyden.training.optimizer import build_optimizer
from leyden.training.update import Window, WindowSum


def module_of(problem: Any, seed: int = 42, max_bad_steps: int = 2) -> FineTuner:
    return FineTuner(
        tiny_model("llama"),
        problem,
        make_optimizer=partial(build_optimizer, factory=partial(torch.optim.SGD, lr=0.5), weight_decay=0.0),
        make_schedule=lambda optimizer: LambdaLR(optimizer, lambda step: 1.0),
        metrics=(),
        seed=seed,
        max_bad_steps=max_bad_steps,
        places=lambda samples: f"lines {samples}",
    )


CLM = CausalLM(loss=token_averaged_cross_entropy)


def test_each_step_of_each_rank_and_seed_draws_its_own_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = set()
    for seed in (0, 1, 42, 2**32 - 1):
        module = module_of(CLM, seed)
        for step in (0, 1, 991, 2_000):
            for rank in (0, 1, 84):
                loop = SimpleNamespace(epoch_loop=SimpleNamespace(total_batch_idx=step))
                module._trainer = SimpleNamespace(fit_loop=loop, global_rank=rank, optimizers=[])  # type: ignore[assignment]
                monkeypatch.setattr(FineTuner, "global_rank", rank)
                first, again = [], []
                for found in (first, again):
                    module.on_train_batch_start(None, 0)  # type: ignore[arg-type]
                    found.append(torch.rand(()).item())
                assert first == again
                drawn.add(first[0])
    assert len(drawn) == 4 * 4 * 3


@pytest.mark.parametrize(
    ("problem", "kind"),
    [
        (CLM, None),
        (DPO(loss=partial(dpo, beta=0.2)), "frozen copy"),
        (DPO(loss=partial(cpo, beta=0.2, nll_weight=0.0)), None),
    ],
)
def test_a_reference_is_kept_only_where_it_is_read(problem: Any, kind: str | None) -> None:
    module = module_of(problem)
    assert bool(module.reference.start) is (kind is not None)
    names = {f"backbone.{name}" for name in module.backbone.state_dict()}
    assert set(module.state_dict()) == names
    assert len(list(module.parameters())) == len(list(module.backbone.parameters()))
    module.train()


def summed(total: float, count: float, scored: int) -> WindowSum:
    return WindowSum(total, count, 8, 2, scored, {})


def test_an_update_says_what_it_lacks() -> None:
    what, cure = summed(0.0, 0.0, 2).fault(0.0)
    assert what == "the weights of all its targets are 0"
    assert "dataset.weight_column" in cure
    assert "nothing to predict" in summed(0.0, 0.0, 0).fault(0.0)[0]
    assert "learning_rate" in summed(math.inf, 2.0, 2).fault(0.0)[1]


def test_bad_updates_in_a_row_are_counted_and_named(caplog: pytest.LogCaptureFixture) -> None:
    module = module_of(CLM)
    module._trainer = SimpleNamespace(global_step=6)  # type: ignore[assignment]
    module._count_bad(Window(samples=[9, 4]), *summed(float("nan"), 3.0, 2).fault(1.0))
    assert (
        "Update 7 was not applied: its loss is nan and its gradient norm 1.0. It was made of lines [4, 9]"
        in caplog.text
    )
    with pytest.raises(TrainingError, match=r"2 updates in a row .*max_bad_steps=2\): it has nothing to predict"):
        module._count_bad(Window(samples=[1]), *summed(0.0, 0.0, 0).fault(0.0))
    assert (module.bad_steps, module.skipped_updates) == (2, 2)
