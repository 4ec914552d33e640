"""Tokens of one pass: what `auto` stands for, where no limit may be, and what is said when the memory is not enough."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.effects.small_runs import material_of, settings_of, trained

from leyden.backbone.tiny import tiny_model
from leyden.problem import losses
from leyden.settings.checks import check
from leyden.settings.errors import ConfigError, TrainingError
from leyden.training.memory import CPU_TOKENS, Budget, bytes_per_token, choose_budget, memory_errors

TABLE = {"p": [f"question {n}" for n in range(4)], "a": [f"answer {n}" for n in range(4)], "r": list("wxyz")}
PAIRS = ["problem=dpo", "dataset.rejected_answer_column=r"]


def chosen(folder: Path, *overrides: str, loss: Any = losses.token_averaged_cross_entropy) -> Budget:
    return choose_budget(settings_of(folder, TABLE, *overrides), tiny_model("llama"), loss)


def test_what_auto_stands_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert chosen(tmp_path).tokens == CPU_TOKENS
    assert chosen(tmp_path, "trainer.tokens_per_pass=70") == (70, "as asked")
    assert chosen(tmp_path, "trainer.tokens_per_pass=null").tokens is None
    assert chosen(tmp_path, "tokenizer.padding_quantile=0").tokens is None
    assert chosen(tmp_path, loss=partial(losses.kto_pair, beta=1.0, detach_kl=True)).tokens is None
    assert chosen(tmp_path, "trainer=fsdp", "trainer.accelerator=cpu").tokens is None
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (8 * 2**30, 16 * 2**30))
    needed = bytes_per_token(tiny_model("llama"), checkpointed=False)
    assert needed
    found = choose_budget(
        settings_of(tmp_path, TABLE).model_copy(
            update={"trainer": settings_of(tmp_path, TABLE).trainer.model_copy(update={"accelerator": "auto"})}
        ),
        tiny_model("llama"),
        losses.token_averaged_cross_entropy,
    )
    assert found.tokens
    coming = sum(4 * weight.numel() * weight.element_size() for weight in tiny_model("llama").parameters())
    assert 0.45 * (8 * 2**30 - coming) < found.tokens * needed <= 0.5 * (8 * 2**30 - coming)


def test_the_estimate_of_a_token_is_near_what_a_pass_keeps() -> None:
    """Bytes that autograd saves in a forward pass of the tiny model, weights left out."""
    model = tiny_model("llama").train()
    kept: dict[int, int] = {}
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    tokens = 256
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        hidden = model.get_decoder()(input_ids=torch.randint(0, 200, (1, tokens))).last_hidden_state
    estimate = bytes_per_token(model, checkpointed=False)
    assert estimate
    assert 0.5 < sum(kept.values()) / tokens / estimate < 2
    assert hidden.requires_grad
    assert bytes_per_token(model, checkpointed=True) < estimate  # type: ignore[operator]


def test_the_manifest_says_what_it_became(tmp_path: Path) -> None:
    run = trained(tmp_path, TABLE)
    said = (run / "manifest.json").read_text(encoding="utf-8")
    assert '"trainer.tokens_per_pass": {' in said
    assert f'"effective": {CPU_TOKENS}' in said


def test_pairs_that_are_compared_are_not_split(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="trainer.tokens_per_pass=9 would split batches"):
        material_of(tmp_path, TABLE, *PAIRS, "problem/loss=kto_pair", "trainer.tokens_per_pass=9")


def test_processes_that_share_weights_make_equally_many_passes(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, TABLE, "trainer=fsdp", "trainer.accelerator=cpu", "trainer.devices=2")
    asked = settings.trainer.model_copy(update={"tokens_per_pass": 9})
    (fault,) = check(settings.model_copy(update={"trainer": asked}))
    assert fault.startswith("trainer.tokens_per_pass=9 does not go with trainer.strategy=fsdp")


def test_too_little_memory_is_answered_by_what_the_settings_admit(tmp_path: Path) -> None:
    plain = losses.token_averaged_cross_entropy
    asked, open_ = (settings_of(tmp_path, TABLE, f"trainer.tokens_per_pass={value}") for value in ("512", "null"))
    with (
        pytest.raises(TrainingError, match=r"trainer.tokens_per_pass \(it is 512\) to 256"),
        memory_errors(asked, plain),
    ):
        torch.empty(2**52)
    with pytest.raises(TrainingError, match="Set trainer.tokens_per_pass to 512"), memory_errors(open_, plain):
        raise torch.OutOfMemoryError("CUDA out of memory")
    with pytest.raises(TrainingError, match="Lower trainer.batch_size"), memory_errors(open_, losses.kto_pair):
        raise MemoryError
    with pytest.raises(RuntimeError, match="another"), memory_errors(asked, plain):
        raise RuntimeError("another")


def test_a_loss_from_elsewhere_may_compare_pairs() -> None:
    def ranked(pair: Any) -> Any:
        return pair

    assert losses.compares_pairs(ranked)
    ranked.compares_pairs = False  # type: ignore[attr-defined]
    assert not losses.compares_pairs(partial(ranked))
    assert not any(map(losses.compares_pairs, (losses.dpo, losses.token_averaged_cross_entropy)))
