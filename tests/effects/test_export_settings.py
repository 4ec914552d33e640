"""`checkpoint.verify`: what a run saves is what was trained, and a fault is found."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.effects.export_runs import (
    CLASSES,
    COLUMNS,
    DPO,
    FAULTS,
    LEARN,
    NUMBERS,
    QUANTISED,
    THREADS,
    answer,
    lost_adapter,
    record,
)  # fmt: skip
from tests.effects.small_runs import trained

from leyden import export
from leyden.artifacts import job, verification
from leyden.artifacts.comparison import TOLERANCES
from leyden.artifacts.folder import RunFolder
from leyden.artifacts.probe import Probe, Prober
from leyden.settings.errors import ExportError

CASES = {
    "causal_lm": (),
    "causal_lm as a chat": ("dataset.chat_template=true", *THREADS),
    "causal_lm on padded rows": ("backbone.attention_implementation=eager",),
    "dpo": (*DPO, "lora=dora"),
    "dpo as a chat": (*DPO, "dataset.chat_template=true", "lora=rslora"),
    "classification": CLASSES,
    "regression": (*NUMBERS, "lora=vera", "lora.r=8"),
    "seq2seq": ("problem=seq2seq",),
    "ia3": ("lora=ia3",),
    "oft": ("lora=oft",),
    "layers beside the adapter": ("lora.unfreeze_layers=[embed,norm]",),
    "layers that share a weight": ("backbone.name=tiny:gemma", "lora.unfreeze_layers=[embed]"),
    "an adapter on one of two that share": ("backbone.name=tiny:gemma", "lora.target_modules=[lm_head,q_proj]"),
    "a grown vocabulary": ("tokenizer.add_prompt_answer_tokens=true", "lora.unfreeze_layers=[embed]"),
    "a grown vocabulary that is not trained": ("tokenizer.add_prompt_answer_tokens=true",),
    "a grown vocabulary under a head": (*CLASSES, "tokenizer.add_prompt_answer_tokens=true",
                                        "dataset.text_prompt_start='<p>'"),
    "weights that were drawn": ("backbone.pretrained=false",),
    "maps stored the other way": ("backbone.name=tiny:gpt2",),
}  # fmt: skip


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fresh process's work in this process; tests/integration/test_export.py starts one."""

    monkeypatch.setattr(verification, "_answer", answer)


@pytest.mark.parametrize("case", CASES)
def test_a_saved_model_is_what_was_trained_merged_or_not(case: str, tmp_path: Path) -> None:
    run = trained(tmp_path, COLUMNS, *LEARN, *CASES[case])
    found = record(run)
    assert not found["faults"]
    assert found["max_logit_difference"] <= 1e-4 * max(1.0, found["largest_logit"])
    assert found["rows"] >= 4
    assert found["tokens_compared"] > 50
    overrides = CASES[case]
    samples = 6 if "dataset.parent_id_column=parent" in overrides else 12
    assert found["conversations"] == samples * (2 if "problem=dpo" in overrides else 1)
    assert not found["left_out"]
    assert found["rows_joined"] == found["rows_different"] == 0
    assert export.main([f"run={run}", "merge=true"]) == 0
    merged = record(run)["merged"]
    assert merged["max_logit_difference"] <= 1e-4 * max(1.0, merged["largest_logit"])
    assert merged["tokens_compared"] == found["tokens_compared"]
    assert not list((run / "merged").glob("adapter*"))


@pytest.mark.parametrize("name", ["a weight", "a template"])
def test_a_run_whose_model_is_saved_wrong_ends_with_an_error_after_everything_is_saved(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = job.save_run

    def wrong(run: Any, material: Any, settings: Any, folder: RunFolder, results: Any) -> None:
        save(run, material, settings, folder, results)
        FAULTS[name][0](folder.path)

    monkeypatch.setattr(job, "save_run", wrong)
    with pytest.raises(ExportError, match=FAULTS[name][1]):
        trained(tmp_path, COLUMNS, *LEARN, "dataset.chat_template=true")
    assert ExportError.code == 1
    assert record(tmp_path / "run")["faults"]
    assert (tmp_path / "run" / "predictions.csv").is_file()
    assert (tmp_path / "run" / "model" / "adapter_model.safetensors").is_file()


def test_verify_off_asks_nothing_and_an_export_then_asks_the_saved_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(verification, "_answer", None)
        run = trained(tmp_path, COLUMNS, *LEARN, "checkpoint.verify=false")
    assert record(run) is None
    assert not (run / verification.FOLDER).exists()
    assert export.main([f"run={run}", "merge=true"]) == 0
    assert "checkpoint.verify=false" in capsys.readouterr().err
    assert record(run)["merged"]["rows"] == record(run)["rows"] == 4


@pytest.mark.parametrize("overrides", [(), DPO])
def test_weights_of_16_bits_are_compared_and_merged_in_their_type(overrides: Sequence[str], tmp_path: Path) -> None:
    run = trained(tmp_path, COLUMNS, *LEARN, *overrides, "backbone.dtype=bfloat16")
    assert export.main([f"run={run}", "merge=true"]) == 0
    for found in (record(run), record(run)["merged"]):
        assert found["tolerance"] == TOLERANCES["bfloat16"]
        assert found["max_logit_difference"] < found["tolerance"] * found["largest_logit"] / 2
    weights = load_file(run / "merged" / "model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.bfloat16}


def test_what_cannot_be_compared_is_counted_and_told(tmp_path: Path) -> None:
    columns = {"p": ["short", "long " * 60, "with <|im_end|> in it", "other"], "a": ["one", "two", "three", "four"]}
    run = trained(tmp_path, columns, *LEARN, "tokenizer.max_length=64", "dataset.chat_template=true")
    found = record(run)
    assert found["conversations"] == 2
    assert found["left_out"] == {
        "cut to tokenizer.max_length": 1, "with the name of a control token in a text": 1,
    }  # fmt: skip
    said = (run / "train.log").read_text(encoding="utf-8")
    assert "1 conversations cut to tokenizer.max_length were not compared" in said


def test_texts_of_heads_and_plain_texts_are_compared_as_they_are(tmp_path: Path) -> None:
    own = ["dataset=text", "dataset.prompt_column=[]", "dataset.answer_column=p"]
    texts = {"p": ["a text of some length " * 4, "another one, quite like it"] * 3, "a": ["x"] * 6}
    found = record(trained(tmp_path, texts, *LEARN, *own, "tokenizer.max_length=32"))
    assert found["conversations"] > 6, "pieces"
    assert not found["faults"]
    assert not found["left_out"]


LITTLE = (*LEARN[1:], "optimizer.learning_rate=1e-4", "dataset.chat_template=true")


@pytest.mark.parametrize("dtype", ["bfloat16", pytest.param("int8", marks=QUANTISED)])
def test_an_adapter_that_is_lost_is_found_though_rounding_is_larger_than_what_it_changes(
    dtype: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trained(tmp_path, COLUMNS, *LITTLE, f"backbone.dtype={dtype}")
    found = record(run)
    assert abs(found["share_of_training"] - 1) < 0.25
    lost_adapter(run)
    capsys.readouterr()
    assert export.main([f"run={run}"]) == 1
    said = capsys.readouterr().err
    assert "of what the training has changed of those of the base" in said
    assert "differ from those of the trained model by" not in said, "the difference alone says nothing here"
    assert abs(record(run)["share_of_training"]) < 0.25


def test_a_model_that_was_not_trained_is_told_to_be_its_base(tmp_path: Path) -> None:
    run = trained(tmp_path, COLUMNS, *LEARN, "trainer.epochs=0")
    assert not record(run)["faults"]
    assert "cannot be told from its base" in (run / "train.log").read_text(encoding="utf-8")


@pytest.mark.parametrize("step", ["probe", "save"])
def test_a_probe_that_fails_leaves_a_run_that_has_ended_and_a_later_check_mends_it(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("not enough memory")

    owner: Any = Prober if step == "probe" else Probe
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(owner, step, fail)
        with pytest.raises(ExportError, match=r"could not be checked .*RuntimeError: not enough memory"):
            trained(tmp_path, COLUMNS, *LEARN)
    assert (run / "predictions.csv").is_file()
    assert record(run)["checked"] is False
    found = json.loads((run / "manifest.json").read_text())
    assert (found["status"], len(found["faults"]["export"])) == ("failed", 1)
    assert export.main([f"run={run}"]) == 0
    found = json.loads((run / "manifest.json").read_text())
    assert (found["status"], found["faults"]["export"]) == ("done", [])
