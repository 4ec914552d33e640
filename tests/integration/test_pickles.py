"""Weights come as safetensors alone: a pickle in the place of a checkpoint, an adapter or a cache is never read."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.effects.small_runs import Columns, predicted, settings_of, trained
from tests.unit.test_load import backbone, load
from tests.unit.test_planted_states import Planted

from leyden.backbone.checkpoint import find_checkpoint, load_tokenizer
from leyden.backbone.tiny import tiny_model, tiny_tokenizer
from leyden.data.cache import checksum
from leyden.data.tokenization import CHECKSUMS, tokenize_columns
from leyden.settings.errors import ConfigError, ModelError
from leyden.settings.locations import checkpoint_faults
from leyden.training.prepare import prepare

TABLE: Columns = {"p": [f"question {n}" for n in range(4)], "a": [f"answer {n}" for n in range(4)]}


def planted(path: Path, mark: Path) -> Path:
    torch.save({"weight": torch.zeros(1), "more": Planted(mark)}, path)
    return path


def test_a_folder_of_pickles_is_refused_with_a_cure(tmp_path: Path) -> None:
    folder, mark, name = tmp_path / "checkpoint", tmp_path / "mark", "pytorch_model.bin"
    tiny_model("llama").config.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    for other in ("model.pt", "consolidated.00.pth"):
        planted(folder / other, mark)
        assert f"holds its weights in {other}, " in " ".join(checkpoint_faults(str(folder), "backbone.name"))
        (folder / other).unlink()
    file = planted(folder / name, mark)
    said = rf"backbone\.name='.* holds its weights in {name}, which can run any code.*save_pretrained"
    with pytest.raises(ConfigError, match=said):
        settings_of(tmp_path, TABLE, f"backbone.name={folder}")
    with pytest.raises(ConfigError, match=r"is a \.\w+ file, which can run any code"):
        settings_of(tmp_path, TABLE, f"backbone.name={file}")
    with pytest.raises(ConfigError, match=r"is no \.safetensors file; no other kind is read"):
        settings_of(tmp_path, TABLE, f"backbone.pretrained_weights={file}")
    with pytest.raises(ConfigError, match=r"holds no \.safetensors file"):
        settings_of(tmp_path, TABLE, f"backbone.pretrained_weights={folder}")
    with pytest.raises(ModelError, match="no weights as .safetensors; others are pickles"):
        load(str(folder))  # past the check of the settings, as a checkpoint of the hub comes
    assert not mark.exists()
    torch.load(file, weights_only=False)
    assert mark.exists(), "the plant is dead"


def test_pickles_beside_safetensors_are_left_alone(tmp_path: Path) -> None:
    folder, mark = tmp_path / "checkpoint", tmp_path / "mark"
    tiny_model("llama").save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    for name in ("pytorch_model.bin", "training_args.bin", "vocab.pkl", "tokenizer.pickle", "special_tokens_map.bin"):
        planted(folder / name, mark)
    material = prepare(settings_of(tmp_path, TABLE, f"backbone.name={folder}"))
    load(str(folder))
    load_tokenizer(find_checkpoint(backbone(str(folder))), {})
    assert len(material.tokenizer) == len(tiny_tokenizer())
    assert not mark.exists()


def test_an_adapter_that_was_swapped_for_a_pickle_is_not_predicted_with(tmp_path: Path) -> None:
    run, mark = trained(tmp_path, TABLE, "trainer.epochs=0", "generation.max_length_inference=2"), tmp_path / "mark"
    (run / "model" / "adapter_model.safetensors").unlink()
    planted(run / "model" / "adapter_model.bin", mark)
    with pytest.raises(ModelError, match=r"has no adapter_model\.safetensors"):
        predicted(run, tmp_path / "table.jsonl", f"output={tmp_path / 'out'}")
    with pytest.raises(ConfigError, match=r"adapter_model\.bin, which can run any code"):
        settings_of(tmp_path / "next", TABLE, f"backbone.name={run / 'model'}")
    assert not mark.exists()


def test_arrays_of_objects_in_the_cache_of_tokens_are_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEYDEN_CACHE", str(tmp_path / "cache"))
    columns, mark = {"a": ["one", "two"]}, tmp_path / "mark"
    made, _ = tokenize_columns(columns, tiny_tokenizer(), cache=True)
    rows = [made["a"].row(row) for row in range(2)]
    (folder,) = (path for path in (tmp_path / "cache" / "tokens").iterdir() if path.is_dir())
    for part in ("values", "offsets"):
        shutil.rmtree(mark, ignore_errors=True)
        np.save(folder / f"a.{part}.npy", np.array([Planted(mark)], dtype=object), allow_pickle=True)
        sums = {"a": [checksum(folder / f"a.{one}.npy") for one in ("values", "offsets")]}
        (folder / CHECKSUMS).write_text(json.dumps(sums), encoding="utf-8")
        again, found = tokenize_columns(columns, tiny_tokenizer(), cache=True)
        assert not found
        assert [again["a"].row(row) for row in range(2)] == rows
        assert not mark.exists()


def test_the_plant_of_arrays_is_alive(tmp_path: Path) -> None:
    file: Any = tmp_path / "a.npy"
    np.save(file, np.array([Planted(tmp_path / "mark")], dtype=object), allow_pickle=True)
    np.load(file, allow_pickle=True)
    assert (tmp_path / "mark").exists()
    assert pickle.HIGHEST_PROTOCOL >= 5


def test_code_of_a_checkpoint_runs_when_it_is_allowed_and_is_said(tmp_path: Path) -> None:
    folder, mark = tmp_path / "checkpoint", tmp_path / "mark"
    tiny_model("llama").save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    code = f"open({str(mark)!r}, 'w').close()\nfrom transformers import LlamaConfig\nclass C(LlamaConfig): pass\n"
    (folder / "own.py").write_text(code, encoding="utf-8")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["auto_map"] = {"AutoConfig": "own.C"}
    config["model_type"] = "own"
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(ModelError, match=r"backbone\.trust_remote_code=true"):
        prepare(settings_of(tmp_path / "off", TABLE, f"backbone.name={folder}"))
    assert not mark.exists()
    material = prepare(
        settings_of(tmp_path / "on", TABLE, f"backbone.name={folder}", "backbone.trust_remote_code=true")
    )
    assert mark.exists()
    (said,) = [line for line in material.warnings if "trust_remote_code" in line]
    assert said.startswith(f"backbone.trust_remote_code=true: Python code that comes with {folder} may run")
