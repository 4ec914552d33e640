"""`checkpoint.verify` and the settings of `leyden.export`: what is saved is what was trained, and a fault is found."""

from __future__ import annotations

import errno
import importlib.util
import json
import re
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.effects.small_runs import Columns, trained
from tests.unit.test_planted_states import Planted
from transformers import AutoConfig, AutoModelForCausalLM

from leyden import export
from leyden.artifacts import export_folder, export_run, fresh_process, job, verification
from leyden.artifacts.comparison import TOLERANCES
from leyden.artifacts.differences import difference_of
from leyden.artifacts.folder import RunFolder
from leyden.artifacts.fresh_process import outputs_of
from leyden.artifacts.probe import FILE, OUTPUTS, Probe, Prober
from leyden.settings.errors import ExportError

COLUMNS: Columns = {
    "p": ["red", "green sea", "(blue)", "white", "what is it", "why"] * 2,
    "a": ["one", "two", "three and more", "four", "five", "six"] * 2,
    "r": ["ten", "nine", "eight", "seven", "no", "never"] * 2,
    "s": ["be kind", "", "be kind", "be short", "be kind", "be short"] * 2,
    "kind": ["x", "y", "z"] * 4,
    "n": [float(number) for number in range(12)],
    "id": [str(number) for number in range(12)],
    "parent": ["", "0", "1", "", "3", "", "", "6", "7", "", "9", ""],
}
LEARN = ("optimizer.learning_rate=2e-2", "trainer.batch_size=4", "checkpoint.verify=true", "backbone.dtype=float32",
         "optimizer.differential_learning_rate_layers=[]")  # fmt: skip
DPO = ("problem=dpo", "dataset.rejected_answer_column=r")
CLASSES = ("problem=classification", "dataset.answer_column=kind", "metric=accuracy")
NUMBERS = ("problem=regression", "dataset.answer_column=n")
THREADS = ("dataset.id_column=id", "dataset.parent_id_column=parent", "dataset.system_column=s")
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


ANSWER = verification._answer


def answer(asked: Mapping[str, Any], scratch: Path) -> dict[str, Any]:
    """What the fresh process would; there a warning of a library is no error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {**fresh_process.answer(json.loads(json.dumps(asked)), scratch), "leyden": []}


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fresh process's work in this process; tests/integration/test_export.py starts one."""

    monkeypatch.setattr(verification, "_answer", answer)


def record(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "manifest.json").read_text(encoding="utf-8"))["export"]
    return found


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


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run that has learned something and was verified."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verification, "_answer", answer)
        yield trained(tmp_path_factory.mktemp("run"), COLUMNS, *LEARN, "dataset.chat_template=true")


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    shutil.copytree(run, tmp_path / "run")
    return tmp_path / "run"


def test_the_merged_model_is_whole_and_far_from_its_base(copy: Path) -> None:
    assert export.main([f"run={copy}", "merge=true", f"output={copy.parent / 'whole'}"]) == 0
    folder = copy.parent / "whole"
    probe = Probe.load(copy / verification.FOLDER)
    base = json.loads((copy / "model" / "adapter_config.json").read_text())["base_model_name_or_path"]
    plain, merged = (AutoModelForCausalLM.from_pretrained(str(place)).eval() for place in (base, folder))
    far, near = (max(map(difference_of, outputs_of(m, probe.rows), probe.answers.outputs)) for m in (plain, merged))
    assert near < 1e-4
    assert max(map(difference_of, outputs_of(plain, probe.rows), probe.answers.bases)) < 1e-4
    assert far > 100 * near
    names = {path.name for path in folder.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja",
            "generation_config.json", "README.md"} <= names  # fmt: skip
    assert "library_name: transformers" in (folder / "README.md").read_text()
    assert AutoConfig.from_pretrained(str(folder)).use_cache


def tampered_weight(run: Path) -> None:
    path = run / "model" / "adapter_model.safetensors"
    weights = load_file(path)
    name = next(name for name in weights if "lora_B" in name and "down_proj" in name)
    weights[name][0, 0] += 1.0
    save_file(weights, path, metadata={"format": "pt"})


def tampered_template(run: Path) -> None:
    path = run / "model" / "chat_template.jinja"
    text = path.read_text()
    assert "'\n'" in text or "'\\n'" in text
    path.write_text(text.replace("message['role'] + '\n'", "message['role'] + ' '"))
    assert path.read_text() != text


def tampered_token(run: Path) -> None:
    path = run / "model" / "tokenizer.json"
    tree = json.loads(path.read_text())
    names = {token["id"]: token for token in tree["added_tokens"]}
    assert names[260]["content"] == "<|im_end|>"
    names[260]["content"], names[257]["content"] = "<pad>", "<|im_end|>"
    tree["model"]["vocab"] |= {"<pad>": 260, "<|im_end|>": 257}
    path.write_text(json.dumps(tree))


def lost_adapter(run: Path) -> None:
    path = run / "model" / "adapter_model.safetensors"
    weights = {name: weight * ("lora_B" not in name) for name, weight in load_file(path).items()}
    save_file(weights, path, metadata={"format": "pt"})


FAULTS = {
    "a weight": (tampered_weight, "its outputs differ from those of the trained model by"),
    "an adapter": (lost_adapter, "its outputs have 0 % of what the training has changed"),
    "a template": (tampered_template, "its tokenizer and chat template write"),
    "a token": (tampered_token, "its tokenizer and chat template write"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_saved_model_that_was_changed_is_found_and_kept(
    name: str, copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tamper, words = FAULTS[name]
    tamper(copy)
    assert export.main([f"run={copy}", "merge=true"]) == 1
    said = capsys.readouterr().err
    assert words in said
    assert "is kept for inspection" in said
    assert (copy / "merged" / "model.safetensors").is_file()
    assert record(copy)["faults"]
    assert record(copy)["merged"]["faults"]


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


def test_a_whole_model_is_verified_copied_and_not_merged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = trained(tmp_path, COLUMNS, *LEARN, "lora=none")
    assert record(run)["max_logit_difference"] < 1e-4
    assert export.main([f"run={run}", "merge=true"]) == 2
    said = capsys.readouterr().err
    assert "lora=none" in said
    assert "Leave merge out" in said
    assert export.main([f"run={run / 'model'}", f"output={tmp_path / 'copy'}"]) == 0
    assert (tmp_path / "copy" / "model.safetensors").read_bytes() == (run / "model" / "model.safetensors").read_bytes()


@pytest.mark.parametrize("overrides", [(), DPO])
def test_weights_of_16_bits_are_compared_and_merged_in_their_type(overrides: Sequence[str], tmp_path: Path) -> None:
    run = trained(tmp_path, COLUMNS, *LEARN, *overrides, "backbone.dtype=bfloat16")
    assert export.main([f"run={run}", "merge=true"]) == 0
    for found in (record(run), record(run)["merged"]):
        assert found["tolerance"] == TOLERANCES["bfloat16"]
        assert found["max_logit_difference"] < found["tolerance"] * found["largest_logit"] / 2
    weights = load_file(run / "merged" / "model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.bfloat16}


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="the extra quantization is not installed")
@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_a_quantised_base_is_merged_through_float_weights(
    dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trained(tmp_path, COLUMNS, *LEARN, f"backbone.dtype={dtype}")
    merge, seen = export_run.merged_model, []

    def watched(model: Any) -> Any:
        layer = model.get_base_model().model.layers[0].mlp.up_proj.base_layer
        seen.append(layer.weight.detach().clone())
        return merge(model)

    monkeypatch.setattr(export_run, "merged_model", watched)
    capsys.readouterr()
    assert export.main([f"run={run}", "merge=true"]) == 0
    base = json.loads((run / "model" / "adapter_config.json").read_text())["base_model_name_or_path"]
    plain = AutoModelForCausalLM.from_pretrained(base).model.layers[0].mlp.up_proj.weight
    assert torch.equal(seen[0], plain), "the weights of the checkpoint, not those that came back from few bits"
    found, merged = record(run), record(run)["merged"]
    assert found["tolerance"] == TOLERANCES[dtype]
    assert found["max_logit_difference"] < found["tolerance"] * found["largest_logit"] / 2
    assert merged["tolerance"] == 1e-4
    assert merged["max_logit_difference"] <= 1e-4 * merged["largest_logit"]
    assert f"backbone.dtype={dtype}: the base is loaded again from its checkpoint in float32" in capsys.readouterr().err


def test_what_cannot_be_compared_is_counted_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    columns = {"p": ["short", "long " * 60, "with <|im_end|> in it", "other"], "a": ["one", "two", "three", "four"]}
    run = trained(tmp_path, columns, *LEARN, "tokenizer.max_length=64", "dataset.chat_template=true")
    found = record(run)
    assert found["conversations"] == 2
    assert found["left_out"] == {
        "cut to tokenizer.max_length": 1, "with the name of a control token in a text": 1,
    }  # fmt: skip
    assert "1 conversations cut to tokenizer.max_length were not compared" in capsys.readouterr().err


def test_texts_of_heads_and_plain_texts_are_compared_as_they_are(tmp_path: Path) -> None:
    own = ["dataset=text", "dataset.prompt_column=[]", "dataset.answer_column=p"]
    texts = {"p": ["a text of some length " * 4, "another one, quite like it"] * 3, "a": ["x"] * 6}
    found = record(trained(tmp_path, texts, *LEARN, *own, "tokenizer.max_length=32"))
    assert found["conversations"] > 6, "pieces"
    assert not found["faults"]
    assert not found["left_out"]


REFUSED: dict[str, tuple[Callable[[Path], list[str]], str]] = {
    "no run": (lambda run: ["merge=true"], "run is not set"),
    "another run": (lambda run: [f"run={run}x"], "there is no such folder. There are: "),
    "no run folder": (lambda run: [f"run={run.parent}"], "is no run folder"),
    "an unknown key": (lambda run: [f"run={run}", "merg=true"], "merg is not a setting. Did you mean merge?"),
    "no value": (lambda run: [f"run={run}", "merge"], "this is no setting"),
    "a wrong value": (lambda run: [f"run={run}", "merge=maybe"], "Allowed: true or false"),
    "several values": (lambda run: [f"run={run}", "merge=true,false"], "lists several values"),
    "a folder that is there": (lambda run: [f"run={run}", f"output={run}"], "is there already"),
    "a folder that cannot be": (lambda run: [f"run={run}", f"output={run / 'config.yaml' / 'x'}"], "is a file"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_mistakes_are_told_with_code_2(name: str, copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(copy.rglob("*"))
    arguments, words = REFUSED[name]
    assert export.main(arguments(copy)) == 2
    said = capsys.readouterr().err
    assert said.startswith("config error:\n  - ")
    assert words in said
    assert sorted(copy.rglob("*")) == before


def test_all_faults_of_a_command_come_together(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (copy / "merged").mkdir()
    shutil.rmtree(copy / "model")
    assert export.main([f"run={copy}", "merge=true"]) == 2
    said = capsys.readouterr().err
    assert "2 config errors" in said
    assert "holds no model (was it trained with checkpoint=disable" in said
    assert "is there already" in said


def test_a_disk_that_is_too_small_is_told_before_anything_is_written(
    copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    full = shutil.disk_usage(copy)._replace(free=2**20)
    monkeypatch.setattr(export_folder.shutil, "disk_usage", lambda path: full)
    assert export.main([f"run={copy}", "merge=true"]) == 2
    assert "and 1 MiB are free there" in capsys.readouterr().err
    assert not (copy / "merged").exists()


@pytest.mark.filterwarnings("ignore:.lora_bias=True", "ignore:Adapter 'default'")
def test_an_adapter_that_peft_cannot_merge_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = ["lora=ia3", "lora._target_=peft.LoraConfig", "~lora.feedforward_modules", "+lora.lora_bias=true"]
    run = trained(tmp_path, COLUMNS, *LEARN, *own)
    assert export.main([f"run={run}", "merge=true"]) == 2
    assert "peft cannot merge this adapter of the kind LORA" in capsys.readouterr().err
    assert not (run / "merged").exists()


def test_a_process_that_has_loaded_leyden_proves_nothing(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verification, "_answer", lambda asked, scratch: {
        **fresh_process.answer(asked, scratch), "leyden": ["leyden.data"],
    })  # fmt: skip
    with pytest.raises(ExportError, match="has loaded leyden.data: it proves nothing"):
        verification.verify(
            [export_run.Saved("model", copy / "model", "AutoModelForCausalLM", head=False, dtype="float32")],
            copy / verification.FOLDER, verification.Conditions(False, None, "cpu"), {},
        )  # fmt: skip


LITTLE = (*LEARN[1:], "optimizer.learning_rate=1e-4", "dataset.chat_template=true")
QUANTISED = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="the extra quantization is not installed"
)


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


def test_a_model_that_was_not_trained_is_told_to_be_its_base(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = record(trained(tmp_path, COLUMNS, *LEARN, "trainer.epochs=0"))
    assert not found["faults"]
    assert "cannot be told from its base" in " ".join(capsys.readouterr().err.split())


def test_the_first_conversation_with_other_tokens_is_shown(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tampered_template(copy)
    assert export.main([f"run={copy}"]) == 1
    said = capsys.readouterr().err
    assert re.search(r"The first: line 1: from character \d+ on '.+' stands where '.+' was trained", said)


@pytest.mark.parametrize("merge", [(), ("merge=true",)])
def test_an_adapter_that_is_a_pickle_is_not_read(
    merge: Sequence[str], copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights, mark = copy / "model" / "adapter_model.safetensors", copy.parent / "mark"
    weights.unlink()
    torch.save({"weight": torch.zeros(1), "more": Planted(mark)}, copy / "model" / "adapter_model.bin")
    assert export.main([f"run={copy}", *merge]) == 2
    assert "has no adapter_model.safetensors" in capsys.readouterr().err
    request = {"folder": str(copy / "model"), "auto_class": "AutoModelForCausalLM", "base": "none"}
    with pytest.raises(FileNotFoundError, match="has no adapter_model.safetensors"):
        fresh_process.load(request, {})
    assert not mark.exists()


def test_a_whole_model_that_is_a_pickle_is_not_read(tmp_path: Path) -> None:
    AutoConfig.for_model("llama").save_pretrained(tmp_path)
    mark = tmp_path / "mark"
    torch.save({"weight": torch.zeros(1), "more": Planted(mark)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(OSError, match="safetensors"):
        fresh_process.load({"folder": str(tmp_path), "auto_class": "AutoModelForCausalLM", "base": None}, {})
    assert not mark.exists()


ENDS = {
    "killed": ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "it was killed, as the system does it"),
    "another signal": ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "it ended with SIGSEGV"),
    "too slow": ("import time; time.sleep(60)", "it was not done after 1 s"),
    "out of memory": ("raise MemoryError('no room')", "MemoryError: no room"),
    "silent": ("import sys; sys.exit(3)", "it ended with code 3"),
}


@pytest.mark.parametrize("end", ENDS)
def test_a_check_that_could_not_be_made_is_told_apart_from_a_wrong_model(
    end: str, copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another script in the place of the fresh process's."""
    code, words = ENDS[end]
    script = copy.parent / "script.py"
    script.write_text(code)
    monkeypatch.setattr(verification, "_answer", ANSWER)
    monkeypatch.setattr(fresh_process, "__file__", str(script))
    monkeypatch.setattr(verification, "TIMEOUT_S", 1 if end == "too slow" else 60)
    assert export.main([f"run={copy}"]) == 1
    said = capsys.readouterr().err
    assert f"could not be checked in a fresh process ({words}" in said
    assert "Whether this is what was trained is not known" in said
    assert f"python -m leyden.export run={copy}" in said
    assert "checkpoint.verify=false" in said
    assert record(copy)["checked"] is False
    assert "max_logit_difference" not in record(copy), "no number of an earlier check"


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


def without_outputs(folder: Path) -> None:
    (folder / OUTPUTS).unlink()


def cut_short(folder: Path) -> None:
    path = folder / FILE
    path.write_bytes(path.read_bytes()[:100])


@pytest.mark.parametrize("harm", [without_outputs, cut_short])
def test_a_damaged_probe_is_made_again(
    harm: Callable[[Path], None], copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    harm(copy / verification.FOLDER)
    assert export.main([f"run={copy}"]) == 0
    assert "verification is damaged (" in capsys.readouterr().err
    assert Probe.load(copy / verification.FOLDER).rows
    assert record(copy)["rows"] == 4


def test_lost_results_are_told_before_the_merge(
    copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(export_run, "merged_model", None)
    (copy / "results.json").unlink()
    assert export.main([f"run={copy}", "merge=true"]) == 2
    assert "its results.json cannot be read" in capsys.readouterr().err


def test_a_copy_that_the_disk_cuts_short_leaves_nothing(
    copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    copytree = shutil.copytree

    def full(source: Path, target: Path, **options: Any) -> None:
        copytree(source, target, **options)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(export_folder.shutil, "copytree", full)
    before = sorted(copy.parent.iterdir())
    assert export.main([f"run={copy}", f"output={copy.parent / 'elsewhere'}"]) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert sorted(copy.parent.iterdir()) == before


def test_a_record_that_is_replaced_keeps_no_number_of_the_one_before(copy: Path) -> None:
    assert export.main([f"run={copy}", "merge=true"]) == 0
    merged = record(copy)["merged"]
    assert export.main([f"run={copy}"]) == 0
    assert record(copy)["merged"] == merged
