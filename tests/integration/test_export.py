"""A run and an export with a real fresh process: it cannot import Leyden, and it finds what was changed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from tests.effects.export_runs import answer
from tests.effects.small_runs import Columns, trained

from leyden import export
from leyden.artifacts import export_run, fresh_process, verification
from leyden.artifacts.comparison import Saved
from leyden.artifacts.export_source import Export
from leyden.artifacts.probe import Answers, Probe

COLUMNS: Columns = {"p": ["red", "green", "blue", "white"], "a": ["one", "two", "three", "four"]}


def test_a_fresh_process_loads_adapter_and_merged_model_and_finds_a_changed_weight(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One process loads both: the adapter as it was saved, and a merged model in which a weight was changed."""
    with monkeypatch.context() as patch:
        patch.setattr(verification, "_answer", answer)
        run = trained(
            tmp_path, COLUMNS, "checkpoint.verify=true", "backbone.dtype=float32", "optimizer.learning_rate=2e-2"
        )
    assert json.loads((run / "manifest.json").read_text())["seconds"]["verify the model"] > 0
    original = export_run.merge

    def merge(export: Export, probe: Probe, output: Path) -> tuple[Saved, Answers]:
        found = original(export, probe, output)
        path = output / "model.safetensors"
        weights = load_file(path)
        weights["model.layers.0.mlp.down_proj.weight"][0, 0] += 1.0
        save_file(weights, path, metadata={"format": "pt"})
        return found

    monkeypatch.setattr(export_run, "merge", merge)
    capsys.readouterr()
    assert export.main([f"run={run}", "merge=true"]) == 1
    said = capsys.readouterr()
    assert f"{run / 'model'}, loaded in a fresh process without Leyden: the largest difference" in said.out + said.err
    assert said.err.count("its outputs differ from those of the trained model by") == 1
    found = json.loads((run / "manifest.json").read_text())["export"]
    assert (found["max_logit_difference"] < 1e-4, found["faults"]) == (True, [])
    assert found["merged"]["max_logit_difference"] > 1e-2
    assert len(found["merged"]["faults"]) == 1
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
