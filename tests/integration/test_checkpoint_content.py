"""What a checkpoint holds and what it leaves out, what a resume takes from it, and what it costs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch.plugins.precision import MixedPrecision
from safetensors import safe_open
from safetensors.torch import load_file
from tests.integration.stopped_runs import assert_same_bits, logged, run, stop_after, stopped
from tests.integration.test_resume import overrides_of

from leyden.training import settled
from leyden.training.saved_states import STATE

FOUND = ("trainer.batch_size", "optimizer.learning_rate")
SLACK = 64 * 1024  # bytes of a checkpoint that are no tensors: names, counters, metrics, manifest


def manifest_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    return found


def state_of(checkpoint: Path) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(checkpoint / STATE, weights_only=True)
    return found


def tensors(content: Any) -> Iterator[torch.Tensor]:
    """Every tensor in containers of containers."""
    if isinstance(content, torch.Tensor):
        yield content
    elif isinstance(content, dict):
        for value in content.values():
            yield from tensors(value)
    elif isinstance(content, list | tuple):
        for value in content:
            yield from tensors(value)


@pytest.fixture(scope="module")
def lost_best(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose rate is too large, so that it was best before it began, stopped after update 7 of 12."""
    folder = tmp_path_factory.mktemp("runs")
    words = ["problem=classification", "dataset.answer_column=kind", "checkpoint=best", "optimizer.learning_rate=1"]
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, 7)
        stopped(*overrides_of(folder, "run", "metric=log_loss", *words))
    return folder / "run"


def test_what_is_trained_is_stored_and_nothing_of_the_frozen_base(lost_best: Path) -> None:
    """The adapter, the head and the optimizer's two moments of each; and the size is what the manifest says."""
    manifest, paths = manifest_of(lost_best), sorted((lost_best / "checkpoints").iterdir())
    assert manifest["parameters"]["trained"] < manifest["parameters"]["all"] / 5
    assert [path.name for path in paths] == ["step-00000000", "step-00000006", "step-00000007"]
    for path in paths:
        state = state_of(path)
        names = state["state_dict"]
        assert all("lora_" in name or ".score." in name for name in names)
        assert any(".score." in name for name in names)
        assert sum(weight.numel() for weight in names.values()) == manifest["parameters"]["trained"]
        held = sum(tensor.numel() for tensor in tensors(state))
        copies = 1 if path is paths[0] else 3  # there is no optimizer yet before the first update
        assert 0 <= held - copies * manifest["parameters"]["trained"] < len(names) * 4
        size = sum(file.stat().st_size for file in path.rglob("*"))
        assert 4 * held <= size < 4 * held + SLACK
    sizes = [sum(file.stat().st_size for file in path.rglob("*")) for path in paths]
    assert sorted(manifest["checkpoints"]["bytes"]) == sorted(sizes)
    said = (lost_best / "train.log").read_text(encoding="utf-8")
    assert f"A checkpoint takes {sizes[-1] / 2**20:.1f} MiB: what is trained, and the optimizer's state of it." in said


def test_the_time_spent_saving_is_reported_of_a_stopped_run_too(lost_best: Path) -> None:
    manifest = manifest_of(lost_best)
    assert manifest["status"] == "stopped"
    assert manifest["checkpoints"]["written"] == 4
    assert 0 < manifest["seconds"]["save checkpoints"] < manifest["seconds"]["train, with evaluations"]


def test_where_the_best_is_damaged_the_best_of_those_that_are_there_is_kept(
    lost_best: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = lost_best / "checkpoints" / "step-00000000" / STATE
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    run(f"resume={lost_best}")
    said = capfd.readouterr().err
    assert f"{file.parent} is damaged and is passed over" in said
    assert "The weights of the best evaluation, after update 0, are lost." in said
    losses = {
        int(step): float(value) for step, _, name, value in logged(lost_best)[1:] if name == "validation/log_loss"
    }
    assert min(losses, key=losses.__getitem__) == 0, "this test needs another rate"
    best = min((step for step in losses if step >= 6), key=losses.__getitem__)
    results = json.loads((lost_best / "results.json").read_text(encoding="utf-8"))
    assert results["best"]["step"] == best
    assert results["best"]["validation/log_loss"] == losses[best]
    kept = state_of(lost_best / "checkpoints" / f"step-{best:08d}")["state_dict"]
    (saved,) = (lost_best / "model").glob("*.safetensors")
    ours = {name.replace(".default", "").replace(".modules_to_save", ""): weight for name, weight in kept.items()}
    theirs = load_file(saved)
    assert len(theirs) == len(ours)
    for name, weight in theirs.items():
        (found,) = [one for other, one in ours.items() if other.endswith(name)]
        assert torch.equal(found, weight), name


def test_the_model_in_a_checkpoint_is_the_adapter_alone(tmp_path: Path) -> None:
    run(*overrides_of(tmp_path, "each", "checkpoint=each_evaluation_epoch", "trainer.epochs=1"))
    models = sorted((tmp_path / "each" / "checkpoints").glob("*/model/*.safetensors"))
    assert [model.parent.parent.name for model in models] == ["step-00000003", "step-00000006"]
    for model in models:
        with safe_open(model, "pt") as file:
            assert all("lora_" in name for name in file.keys())  # noqa: SIM118  it is no mapping


def test_what_was_found_and_drawn_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the run is, to the bit, the one with these numbers and this seed that was never stopped."""
    words = [*(f"{key}=auto" for key in FOUND), "lora.dropout=0.1"]
    words = [word for word in overrides_of(tmp_path, "NAME", *words) if word != "trainer.batch_size=2"]
    command = ["resume=auto", *(word.replace("=NAME", "=cut") for word in words), "seed=-1"]
    with monkeypatch.context() as patch:
        stop_after(patch, 1)
        stopped(*command)
    cut = tmp_path / "cut"
    before, config = manifest_of(cut), (cut / "config.yaml").read_text(encoding="utf-8")
    seed = yaml.safe_load(config)["seed"]
    with monkeypatch.context() as patch:
        for name in ("find_batch_size", "find_learning_rate"):
            patch.setattr(settled, name, lambda *rest: pytest.fail("it is looked for again"))
        run(*command)
    after = manifest_of(cut)
    numbers = {f"{key}=auto": f"{key}={after['effective'][key]['effective']}" for key in FOUND}
    whole = [numbers.get(word, word.replace("=NAME", "=whole")) for word in words]
    run(*whole, f"seed={seed}")
    assert_same_bits(tmp_path / "whole", cut)
    assert after["seed"] == before["seed"] == {"requested": -1, "effective": seed}
    assert after["updates"] == 4
    for key in FOUND:
        told = [manifest["effective"][key] for manifest in (before, after)]
        assert [entry["requested"] for entry in told] == ["auto", "auto"]
        assert told[0]["effective"] == told[1]["effective"]
        assert told[1]["reason"] == "found when the run was begun"


def test_the_scaler_of_half_precision_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning makes one on GPUs alone; torch's own works on a CPU, and grows after every second update here."""

    def half(settings: object) -> MixedPrecision:  # noqa: ARG001
        scaler = torch.amp.GradScaler("cpu", init_scale=16.0, growth_interval=2)
        return MixedPrecision("16-mixed", "cpu", scaler=scaler)  # type: ignore[arg-type]

    monkeypatch.setattr("leyden.training.trainer.make_precision", half)
    run(*overrides_of(tmp_path, "whole"))
    with monkeypatch.context() as patch:
        stop_after(patch, 5)
        stopped(*overrides_of(tmp_path, "cut"))
    (scaler,) = [state_of(path)["MixedPrecision"] for path in (tmp_path / "cut" / "checkpoints").glob("*5")]
    assert (scaler["scale"], scaler["_growth_tracker"]) == (16.0 * 2**2, 1)
    run(f"resume={tmp_path / 'cut'}")
    assert_same_bits(tmp_path / "whole", tmp_path / "cut")
    ends = [state_of(max((tmp_path / name / "checkpoints").iterdir()))["MixedPrecision"] for name in ("whole", "cut")]
    assert ends[0] == ends[1]
    assert ends[0]["scale"] == 16.0 * 2**6
