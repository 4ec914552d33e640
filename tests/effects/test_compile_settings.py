"""Compiled layers (E3): the same numbers, no new graph for a new batch, and no silent way back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch._dynamo
from tests.effects.small_runs import Columns, results, settings_of, trained
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch._inductor.exc import InductorError

from leyden.artifacts.job import run_job
from leyden.backbone import compiled
from leyden.backbone.compiled import compile_errors, is_compiled
from leyden.backbone.scoring import base_model, target_logps
from leyden.backbone.tiny import tiny_model, tiny_tokenizer
from leyden.data.batches import Batch
from leyden.data.collation import pack
from leyden.data.trees import Segment, build_tree
from leyden.settings.errors import ConfigError, ModelError
from leyden.training.assembly import load_backbone
from leyden.training.prepare import prepare

COLUMNS: Columns = {"p": ["one", "two", "three", "four"], "a": ["eins", "zwei", "drei", "vier"],
                    "r": ["uno", "dos", "tres", "cuatro"]}  # fmt: skip


@pytest.fixture(autouse=True)
def traced_only(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Graphs are made and guarded as always, and run as they are: a compiler for each takes most of a minute."""
    monkeypatch.setattr(compiled, "BACKEND", "eager")
    torch._dynamo.reset()
    before = torch._dynamo.config.fail_on_recompile_limit_hit
    yield
    torch._dynamo.config.fail_on_recompile_limit_hit = before
    torch._dynamo.reset()


def loaded(folder: Path, *words: str) -> Any:
    settings = settings_of(folder, COLUMNS, *words)
    torch.manual_seed(0)
    return load_backbone(settings, prepare(settings))[0]


@pytest.fixture
def one_layer(tmp_path: Path) -> str:
    """A checkpoint with half the layers: making graphs takes the time, and each layer has its own."""
    folder = tmp_path / "one_layer"
    tiny_model("llama", num_hidden_layers=1).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return f"backbone.name={folder}"


def batches(count: int) -> list[Batch]:
    """Packed rows of other trees and other lengths each time."""
    generator = np.random.default_rng(0)
    found = []
    for _ in range(count):
        trees = []
        for _ in range(int(generator.integers(1, 5))):
            prompt, *answers = (generator.integers(0, 250, length).tolist() for length in generator.integers(2, 12, 3))
            pair = [Segment(answer, True, 0, number) for number, answer in enumerate(answers)]
            trees.append(build_tree([Segment(prompt, False), *pair], 2))
        found.append(pack(trees, range(len(trees))))
    return found


def step(model: nn.Module, batch: Batch) -> tuple[Tensor, list[Tensor]]:
    model.zero_grad()
    loss = -target_logps(model, batch).mean()
    loss.backward()
    return loss.detach(), [weight.grad for weight in model.parameters() if weight.grad is not None]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_e3_compiled_steps_equal_eager_ones_and_share_their_graphs(tmp_path: Path) -> None:
    words = ("lora.dropout=0", "lora.target_modules=[q_proj,down_proj]")
    eager, model = loaded(tmp_path, *words), loaded(tmp_path, *words, "backbone.compile=true")
    assert is_compiled(model)
    assert not is_compiled(eager)
    assert list(model.state_dict()) == list(eager.state_dict())
    graphs = []
    for batch in batches(6):
        torch.testing.assert_close(step(model, batch), step(eager, batch), rtol=1e-5, atol=1e-6)
        graphs.append(counters["stats"]["unique_graphs"])
    assert 0 < graphs[0] == graphs[-1]  # no graph was made again for a batch of another layout
    names = [type(part).__name__ for part in compiled._parts(base_model(model))]
    assert names == ["LlamaModel"]


@pytest.mark.slow
def test_e3_a_run_evaluates_compiled_and_writes_uncompiled(tmp_path: Path, one_layer: str) -> None:
    words = (one_layer, "trainer.epochs=1", "trainer.batch_size=2", "metric=[perplexity,bleu]", "lora.dropout=0",
             "lora.target_modules=[q_proj]")  # fmt: skip
    plain = results(trained(tmp_path, COLUMNS, *words))
    own = results(trained(tmp_path, COLUMNS, *words, "backbone.compile=true", "overwrite=true"))
    assert counters["stats"]["unique_graphs"] > 0
    assert own == pytest.approx(plain, rel=1e-4)


def test_e3_a_failure_of_the_compiler_names_the_setting(
    tmp_path: Path, one_layer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no compiler is installed here")

    monkeypatch.setattr(compiled, "BACKEND", broken)
    settings = settings_of(tmp_path, COLUMNS, one_layer, "backbone.compile=true", "lora.target_modules=[q_proj]")
    said = r"backbone.compile=true: the model could not be compiled \(.*no compiler is installed here\). Set backbone.c"
    with pytest.raises(ModelError, match=said):
        run_job(settings)


def test_e3_so_does_a_failure_on_the_way_back() -> None:
    """Graphs of gradients are compiled when they are first needed, by the same compiler and with its own error."""
    with pytest.raises(ModelError, match=r"backbone.compile=true: .*gcc is not found"), compile_errors(on=True):
        raise InductorError(RuntimeError("gcc is not found"), None)


def test_e3_noise_on_embeddings_and_compiled_layers_do_not_go_together(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"backbone.compile=true does not go with augmentation.neftune_noise_alpha"):
        settings_of(tmp_path, COLUMNS, "backbone.compile=true", "augmentation.neftune_noise_alpha=5")
