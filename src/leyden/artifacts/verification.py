"""Saved models are loaded in a fresh process, without Leyden, and held against what the run's own model said."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import load_file

from leyden.artifacts import fresh_process
from leyden.artifacts.comparison import Saved, Verification, compare
from leyden.artifacts.export import write_card
from leyden.artifacts.folder import RunFolder
from leyden.artifacts.manifest import results_of
from leyden.artifacts.probe import FILE, Answers, Probe, Prober
from leyden.backbone.load import Chosen, weight_type
from leyden.backbone.lora import base_location
from leyden.backbone.quantization import KINDS, quantization_config
from leyden.backbone.scoring import base_model
from leyden.problem.base import Problem
from leyden.settings.errors import ExportError
from leyden.settings.escapes import argument
from leyden.settings.schema import Settings
from leyden.training.assembly import make_collator
from leyden.training.outcome import Run
from leyden.training.prepare import Material

log = logging.getLogger(__name__)

FOLDER = "verification"  # in the run folder
TIMEOUT_S = 3600
NOT_INHERITED = ("LOCAL_RANK", "RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "GROUP_RANK")


@dataclass(frozen=True)
class Conditions:
    """How a fresh process loads and computes.

    Attributes:
        trust_remote_code: whether code of the checkpoint may run.
        attention: name of the library's attention; None: its own choice.
        device: where the models compute.
    """

    trust_remote_code: bool
    attention: str | None
    device: str


def verify_run(run: Run, material: Material, settings: Settings, folder: RunFolder) -> dict[str, Any]:
    """Ask the run's model about a few rows, and hold the folder that was saved against it; its card tells it, too.

    Args:
        run: as it ended, its model saved.
        material: of the run.
        settings: of the run.
        folder: of the run, where what was asked is kept for later exports.

    Returns:
        What was found, with all `faults`, as `manifest.json` keeps it; empty where the setting is off. A check that
        could not be made is a fault too, and `checked` is false then.
    """
    if not settings.checkpoint.verify or settings.checkpoint.policy == "disable":
        return {}
    clock = time.perf_counter()
    backbone, attention = run.module.backbone, run.attention
    place = base_location(backbone)
    revision = settings.backbone.revision if place == material.checkpoint.location else None
    saved = saved_run(folder.model, settings, material.problem, run.dtype, base=place, revision=revision)
    library = attention.implementation if attention.engine == "padded" else None
    device = str(base_model(backbone).device)
    conditions = Conditions(settings.backbone.trust_remote_code, library, device)
    try:
        collator = make_collator(settings, material.tokenizer, backbone, attention)
        prober = Prober(backbone, collator, material.problem, material.tokenizer, material.template.jinja)
        prober.probe(material.train.trees, material.validation.trees).save(folder.path / FOLDER)
    except Exception as error:  # noqa: BLE001  the run is saved, and is told to be, whatever the check runs into
        found = _unchecked([saved], folder.path, error)
    else:
        found = verified([saved], folder.path / FOLDER, conditions)
    write_card(run, material, settings, folder.model, results_of(run), found[saved.name])
    run.seconds["verify the model"] = time.perf_counter() - clock
    return found[saved.name]


def saved_run(  # noqa: PLR0913
    folder: Path, settings: Settings, problem: Problem, dtype: Chosen, *, base: str | None, revision: str | None
) -> Saved:
    """The model folder of a run.

    Args:
        folder: of the model.
        settings: of the run.
        problem: of the run.
        dtype: of its weights.
        base: what its adapter lies on; None without an adapter.
        revision: of the base on the hub.
    """
    compute = weight_type(dtype, settings.trainer.precision)
    quantised = base is not None and dtype.effective in KINDS
    return Saved(
        name="model",
        folder=folder,
        auto_class=problem.head.auto_class.__name__,
        head=problem.head.outputs is not None,
        dtype=dtype.effective,
        base=base,
        revision=revision,
        compute=str(compute).removeprefix("torch."),
        quantization=quantization_config(dtype.effective, compute).to_dict() if quantised else None,
    )


def verified(
    saved: Sequence[Saved],
    probe: Path,
    conditions: Conditions,
    expected: Mapping[str, Answers] | None = None,
) -> dict[str, dict[str, Any]]:
    """Verify models and say what was found; return a record of each, with its faults.

    Args:
        saved: the models.
        probe: folder of the probe, in that of the run.
        conditions: of the fresh process.
        expected: what to compare with in place of the probe's answers, by the name of the model.
    """
    try:
        found = verify(saved, probe, conditions, expected or {})
    except Exception as error:  # noqa: BLE001  a check that could not be made is told as such, whatever the reason
        return _unchecked(saved, probe.parent, error)
    for line in [line for one in found.values() for line in one.sentences()]:
        log.info("%s", line)
    return {name: {**asdict(one), "checked": True, "faults": one.faults()} for name, one in found.items()}


def verify(
    saved: Sequence[Saved], probe: Path, conditions: Conditions, expected: Mapping[str, Answers]
) -> dict[str, Verification]:
    """Load models in one fresh process and compare what they say with a probe.

    Args:
        saved: as for `verified`.
        probe: as for `verified`.
        conditions: as for `verified`.
        expected: as for `verified`.

    Raises:
        ExportError: the fresh process did not come to its end.
    """
    request = {
        "models": [one.request() for one in saved],
        "rows": str((probe / FILE).absolute()),
        "threads": torch.get_num_threads(),
        **asdict(conditions),
    }
    known = Probe.load(probe)
    with TemporaryDirectory(prefix="leyden-") as scratch:
        outcome = _answer(request, Path(scratch))
        found = {one.name: load_file(Path(scratch) / f"{one.name}.safetensors") for one in saved}
    if outcome["leyden"]:
        raise ExportError(f"The fresh process has loaded {', '.join(outcome['leyden'])}: it proves nothing.")
    compared = {}
    for one in saved:
        outputs = [found[one.name][str(n)] for n in range(len(known.rows))]
        said = outcome["models"][one.name]
        compared[one.name] = compare(one, known, expected.get(one.name, known.answers), outputs, said)
    return compared


def _answer(request: Mapping[str, Any], scratch: Path) -> dict[str, Any]:
    """What the fresh process found out.

    Raises:
        ExportError: it did not come to its end.
    """
    log.info("The saved model is loaded in a fresh process, to be compared with what was trained.")
    asked = scratch / "request.json"
    asked.write_text(json.dumps(request), encoding="utf-8")
    environment = {key: value for key, value in os.environ.items() if key not in NOT_INHERITED}
    environment |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    # -P: the folder of the script, with modules of ours, is no place to import from
    command = [sys.executable, "-P", fresh_process.__file__, str(asked), str(scratch)]
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, timeout=TIMEOUT_S,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise ExportError(f"it was not done after {TIMEOUT_S} s") from error
    if done.returncode:
        log.info("The fresh process said:\n%s", done.stderr)
        raise ExportError(_end_of(done))
    answer: dict[str, Any] = json.loads((scratch / "outcome.json").read_text(encoding="utf-8"))
    return answer


def _end_of(done: subprocess.CompletedProcess[str]) -> str:
    """Why a process failed, in one line."""
    if done.returncode == -signal.SIGKILL:
        return "it was killed, as the system does it where memory is short"
    if done.returncode < 0:
        return f"it ended with {signal.Signals(-done.returncode).name}"
    lines = done.stderr.strip().splitlines()
    return lines[-1] if lines else f"it ended with code {done.returncode}"


def _unchecked(saved: Sequence[Saved], run: Path, error: Exception) -> dict[str, dict[str, Any]]:
    """Records of models of which nothing is known, and what to do about it."""
    why = str(error)
    if not isinstance(error, ExportError):
        log.info("%s", "".join(traceback.format_exception(error)).rstrip())
        why = f"{type(error).__name__}: {(str(error).strip().splitlines() or ['nothing more is known'])[0]}"
    folders = " and ".join(str(one.folder) for one in saved)
    fault = (
        f"{folders} could not be checked in a fresh process ({why.rstrip('.')}). Whether this is what was trained is "
        "not known. The folder is kept; check it again with "
        f"`python -m leyden.export {argument('run', str(run))}`. checkpoint.verify=false trains without the check."
    )
    return {one.name: {"folder": str(one.folder), "checked": False, "faults": [fault]} for one in saved}
