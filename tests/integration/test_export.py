"""A run and an export with a real fresh process: it cannot import Leyden, and it finds what was changed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from tests.effects.small_runs import Columns, trained

from leyden import export
from leyden.artifacts import fresh_process

COLUMNS: Columns = {"p": ["red", "green", "blue", "white"], "a": ["one", "two", "three", "four"]}


def test_a_fresh_process_loads_adapter_and_merged_model_and_finds_a_changed_weight(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trained(tmp_path, COLUMNS, "checkpoint.verify=true", "backbone.dtype=float32", "optimizer.learning_rate=2e-2")
    said = (run / "train.log").read_text(encoding="utf-8")
    assert "loaded in a fresh process without Leyden: the largest difference" in said
    found = json.loads((run / "manifest.json").read_text())
    assert found["export"]["max_logit_difference"] < 1e-4
    assert found["export"]["faults"] == []
    assert found["seconds"]["verify the model"] > 0
    path = run / "model" / "adapter_model.safetensors"
    weights = load_file(path)
    name = next(name for name in weights if "lora_B" in name and "down_proj" in name)
    weights[name][0, 0] += 1.0
    save_file(weights, path, metadata={"format": "pt"})
    assert export.main([f"run={run}", "merge=true"]) == 1
    said = capsys.readouterr().err
    assert said.count("its outputs differ from those of the trained model by") == 2
    assert (run / "merged" / "model.safetensors").is_file()


def test_no_import_of_leyden_works_there_and_a_failure_is_told(tmp_path: Path) -> None:
    """The script is run as it is, with a request whose remote code, so to speak, wants Leyden."""
    script = Path(fresh_process.__file__)
    code = (
        "import runpy, sys, json, pathlib\n"
        f"main = runpy.run_path({str(script)!r})['main']\n"
        "try:\n    main(pathlib.Path('nothing.json'), pathlib.Path('.'))\n"
        "except FileNotFoundError:\n    pass\n"
        "import leyden\n"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "import of leyden halted" in done.stderr
