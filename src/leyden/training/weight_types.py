"""`backbone.dtype=auto` on a CPU: bfloat16 where the processor multiplies it, it is faster, and the loss agrees."""

from __future__ import annotations

import gc
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from peft import PeftModel
from torch import Tensor, nn

from leyden.backbone.attention import AttentionChoice
from leyden.backbone.load import Chosen
from leyden.data.batches import Batch
from leyden.settings.schema import Settings
from leyden.training.assembly import longest_shared, make_collator, make_module
from leyden.training.devices import world_size
from leyden.training.memory import choose_budget
from leyden.training.prepare import Material
from leyden.training.update import drop_gradients, trained_weights

PRODUCTS = ("amx_bf16", "avx512_bf16", "bf16")  # what a processor calls its bfloat16 products; the last one: Arm
FASTER = 0.9  # of the time in float32
NEAR = 0.01  # relative difference of the loss; bfloat16 has 8 bits, so one rounding is up to 0.004
ALIGNED = 0.99  # cosine of the two gradients
ROUNDS = 2  # the faster one counts, since the first one warms up

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Loaded:
    """A backbone in training mode.

    Attributes:
        backbone: with its adapter.
        dtype: of its weights.
        attention: how it attends.
    """

    backbone: nn.Module
    dtype: Chosen
    attention: AttentionChoice


@dataclass(frozen=True)
class Trial:
    """One batch forward and backward.

    Attributes:
        seconds: of the faster round.
        loss: mean over the batch's targets.
        gradient: of everything that is trained, in one row, float32.
    """

    seconds: float
    loss: float
    gradient: Tensor


def choose_weights(
    settings: Settings, material: Material, load: Callable[[Settings], Loaded], *, begun: bool = False
) -> tuple[Settings, Loaded]:
    """The backbone whose weights have the better type for this machine; as it was loaded where nothing is to choose.

    With `backbone.dtype=auto` on a CPU that multiplies bfloat16, one training batch goes through both kinds of weights.
    What is returned is then the same as with the type written out, which it is in the settings that come back: so a
    resume does not measure again, and a cache of scores knows the type.

    Args:
        settings: of the run.
        material: from `prepare`.
        load: what makes a backbone from settings.
        begun: the run goes on, with the type that it began with.
    """
    loaded = load(settings)
    if begun:
        return settings, loaded
    if (why := _nothing_to_choose(settings, loaded)) is not None:
        return settings, replace(loaded, dtype=replace(loaded.dtype, reason=why))
    batch = _longest(settings, material, loaded)
    narrow = _written_out(settings, "bfloat16")
    with torch.random.fork_rng(devices=[]):
        wide_trial = trial(settings, material, loaded, batch)
        torch.manual_seed(settings.seed)
        other = load(narrow)
        narrow_trial = trial(narrow, material, other, batch)
    fits, why = verdict(wide_trial, narrow_trial)
    name: Literal["float32", "bfloat16"] = "bfloat16" if fits else "float32"
    log.info("backbone.dtype=auto is %s: %s. To repeat this run elsewhere, write the type.", name, why)
    chosen = replace(other if fits else loaded, dtype=Chosen("auto", name, why))
    del loaded, other
    gc.collect()  # the weights that were not chosen
    return _written_out(settings, name), chosen


def verdict(wide: Trial, narrow: Trial) -> tuple[bool, str]:
    """Whether bfloat16 is worth it, and what was measured.

    Args:
        wide: in float32.
        narrow: in bfloat16.
    """
    share = narrow.seconds / wide.seconds
    apart = abs(narrow.loss - wide.loss) / max(abs(wide.loss), 1e-12)
    cosine = float(torch.nn.functional.cosine_similarity(wide.gradient, narrow.gradient, dim=0))
    measured = (
        f"a batch in bfloat16 took {share:.2f} of the time in float32, with a loss that differs by {apart:.2%} and a "
        f"gradient of cosine {cosine:.4f}"
    )
    if not (apart <= NEAR and cosine >= ALIGNED):  # also where one of them is not a number
        return False, f"{measured}; allowed are {NEAR:.0%} and {ALIGNED}"
    if share > FASTER:
        return False, f"{measured}; it has to be below {FASTER}"
    return True, measured


def trial(settings: Settings, material: Material, loaded: Loaded, passes: Sequence[Batch]) -> Trial:
    """Measure one batch; the weights and their gradients are as before.

    Args:
        settings: of the run.
        material: from `prepare`.
        loaded: the backbone.
        passes: the batch, as it goes through the model.
    """
    module = make_module(settings, material, loaded.backbone, 1, 1)
    module.train()
    best, loss = math.inf, math.nan
    for _ in range(ROUNDS):
        drop_gradients(loaded.backbone)
        torch.manual_seed(settings.seed)
        clock, total, count = time.perf_counter(), 0.0, 0.0
        for part in passes:
            outcome = module.problem.compute(module, part)
            outcome.loss.total.backward()
            total, count = total + float(outcome.loss.total.detach()), count + float(outcome.loss.count)
        best, loss = min(best, time.perf_counter() - clock), total / count if count else math.nan
    weights = trained_weights(loaded.backbone).values()
    gradient = torch.cat([w.grad.flatten().float() for w in weights if w.grad is not None])
    drop_gradients(loaded.backbone)
    return Trial(best, loss, gradient)


def multiplies_bfloat16() -> bool:
    """Whether this processor has products of bfloat16 in hardware; without them they are slower than float32."""
    found = torch.cpu.get_capabilities()
    return any(found.get(name) for name in PRODUCTS)


def _written_out(settings: Settings, dtype: Literal["float32", "bfloat16"]) -> Settings:
    return settings.model_copy(update={"backbone": settings.backbone.model_copy(update={"dtype": dtype})})


def _nothing_to_choose(settings: Settings, loaded: Loaded) -> str | None:
    """Why the weights stay as they were loaded; None where bfloat16 is to be tried."""
    dtype, lora, backbone = loaded.dtype, settings.lora, settings.backbone
    if dtype.requested != "auto" or dtype.effective != "float32":  # float32 is what auto means on a CPU alone
        return dtype.reason
    base_learns = not isinstance(loaded.backbone, PeftModel) or (lora is not None and bool(lora.unfreeze_layers))
    reasons = {
        " whose processor has no bfloat16 products": not multiplies_bfloat16(),
        ", and nothing is trained": not settings.trainer.epochs,
        f", and trainer.precision={settings.trainer.precision} has a type for its products": (
            settings.trainer.precision != "32-true"
        ),
        " with several processes, which might measure differently": world_size(settings.trainer) > 1,
        ", and weights of the base are trained, whose small updates bfloat16 would lose": base_learns,
        ", and the weights do not start from a checkpoint alone": (
            not backbone.pretrained or backbone.pretrained_weights is not None
        ),
    }
    return next((f"the device is a CPU{reason}" for reason, holds in reasons.items() if holds), None)


def _longest(settings: Settings, material: Material, loaded: Loaded) -> Sequence[Batch]:
    """The longest training samples, as many as a batch has."""
    order = (-material.train.fit.lengths.array).argsort(kind="stable")[: settings.trainer.rows].tolist()
    budget = choose_budget(settings, loaded.backbone, material.problem.loss, longest_shared(settings, material))
    collator = make_collator(settings, material.tokenizer, loaded.backbone, loaded.attention, budget.tokens)
    return collator.passes([material.train.trees[number] for number in order])
