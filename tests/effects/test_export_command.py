"""The settings of `leyden.export`: what is written is what was trained, and a fault is found."""

from __future__ import annotations

import errno
import json
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from tests.effects import llama_converter
from tests.effects.export_runs import (
    CLASSES,
    COLUMNS,
    FAULTS,
    LEARN,
    QUANTISED,
    answer,
    record,
    tampered_template,
)  # fmt: skip
from tests.effects.small_runs import trained
from tests.unit.hub_server import COMMIT, HubServer, hub_for
from tests.unit.test_planted_states import Planted
from transformers import AutoConfig, AutoModelForCausalLM

from leyden import export
from leyden.artifacts import export_folder, export_merge, fresh_process, verification
from leyden.artifacts.comparison import TOLERANCES, Saved
from leyden.artifacts.differences import difference_of
from leyden.artifacts.fresh_process import outputs_of
from leyden.artifacts.lock import locked
from leyden.artifacts.probe import FILE, OUTPUTS, Probe
from leyden.settings.errors import ExportError


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fresh process's work in this process; tests/integration/test_export.py starts one."""

    monkeypatch.setattr(verification, "_answer", answer)


ANSWER = verification._answer


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


def test_a_whole_model_is_verified_copied_and_not_merged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = trained(tmp_path, COLUMNS, *LEARN, "lora=none")
    assert record(run)["max_logit_difference"] < 1e-4
    assert export.main([f"run={run}", "merge=true"]) == 2
    said = capsys.readouterr().err
    assert "lora=none" in said
    assert "Leave merge out" in said
    assert export.main([f"run={run / 'model'}", f"output={tmp_path / 'copy'}"]) == 0
    assert (tmp_path / "copy" / "model.safetensors").read_bytes() == (run / "model" / "model.safetensors").read_bytes()


@QUANTISED
@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_a_quantised_base_is_merged_through_float_weights(
    dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trained(tmp_path, COLUMNS, *LEARN, f"backbone.dtype={dtype}")
    merge, seen = export_merge.merged_model, []

    def watched(model: Any) -> Any:
        layer = model.get_base_model().model.layers[0].mlp.up_proj.base_layer
        seen.append(layer.weight.detach().clone())
        return merge(model)

    monkeypatch.setattr(export_merge, "merged_model", watched)
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


REFUSED: dict[str, tuple[Callable[[Path], list[str]], str]] = {
    "no run": (lambda run: ["merge=true"], "run is not set"),
    "another run": (lambda run: [f"run={run}x"], "there is no such folder. There are: "),
    "no run folder": (lambda run: [f"run={run.parent}"], "is no run folder"),
    "an unknown key": (lambda run: [f"run={run}", "merg=true"], "merg is not a setting. Did you mean merge?"),
    "no value": (lambda run: [f"run={run}", "merge"], "this is no setting"),
    "a wrong value": (lambda run: [f"run={run}", "merge=maybe"], "Allowed: true or false"),
    "several values": (lambda run: [f"run={run}", "merge=true,false"], "lists several values"),
    "a folder that is there": (lambda run: [f"run={run}", f"output={run}"], "is there already"),
    "offline": (lambda run: [f"run={run}", "to=hub:model", "merge=true"], "HF_HUB_OFFLINE is set, so nothing is sent"),
    "public without a place": (lambda run: [f"run={run}", "public=true"], "public=true has no effect without to"),
    "overwrite without a place": (lambda run: [f"run={run}", "overwrite=true"], "overwrite=true has no effect"),
    "no converter": (lambda run: [f"run={run}", "format=gguf"], "format=gguf needs llama.cpp's converter, and"),
    "an unknown format": (lambda run: [f"run={run}", "format=onnx"], "Allowed: one of safetensors, gguf"),
    "a type without gguf": (lambda run: [f"run={run}", "gguf_type=f16"], "has no effect without format=gguf"),
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


def test_a_run_that_is_being_written_is_refused(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with locked(copy):
        before = (copy / "manifest.json").read_bytes()
        assert export.main([f"run={copy}", "merge=true"]) == 2
    assert "a process is writing into it. Wait for its end, or stop it." in capsys.readouterr().err
    assert (copy / "manifest.json").read_bytes() == before
    assert not (copy / "merged").exists()


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
            [Saved("model", copy / "model", "AutoModelForCausalLM", head=False, dtype="float32")],
            copy / verification.FOLDER, verification.Conditions(False, None, "cpu"), {},
        )  # fmt: skip


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
    monkeypatch.setattr(export_merge, "merged_model", None)
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


SECRET = "hf_" + "s" * 34


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    monkeypatch.setenv("OPENAI_API_KEY", f"{SECRET}-of-another")
    yield from hub_for(monkeypatch, SECRET)


@pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw bytes:DeprecationWarning")
def test_a_model_is_sent_once_it_is_checked_and_with_it_no_row_no_log_no_secret_and_no_path(
    copy: Path, hub: HubServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export.main([f"run={copy}", "merge=true", "to=hub:company/colours"]) == 0
    out = capsys.readouterr().out
    assert f"It is at {hub.url}/company/colours, private, commit {COMMIT}." in out
    found = {name: text for name, text in hub.repositories["company/colours"].files.items() if name[0] != "."}
    assert found == {path.name: path.read_bytes() for path in (copy / "merged").iterdir()}
    assert "three and more" not in (card := found["README.md"].decode())
    assert "conversations of the training were compared" in card
    everything = b"".join(hub.sent)
    for odd in (SECRET, str(copy), str(Path.home()), "three and more", constants.HF_HOME):
        assert odd.encode() not in everything
        assert not any(odd.encode() in content for content in found.values())


@pytest.mark.parametrize("name", ["me/model", "hub:me/-model-", "hub:a/b/c", "hub:", "hub:a--b", "hub:mödel"])
def test_only_names_of_the_hub_are_taken(
    name: str, copy: Path, hub: HubServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export.main([f"run={copy}", "merge=true", f"to='{name}'"]) == 2
    assert "names no repository of the hub. Write it hub:NAME or hub:OWNER/NAME" in capsys.readouterr().err
    assert not hub.calls


def test_an_adapter_whose_base_nobody_else_has_is_not_sent(
    copy: Path, hub: HubServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export.main([f"run={copy}", "to=hub:model"]) == 2
    assert "the adapter lies on a base that is only on this machine" in capsys.readouterr().err
    assert not hub.calls


def test_a_model_that_was_changed_is_not_sent(copy: Path, hub: HubServer) -> None:
    FAULTS["a weight"][0](copy)
    assert export.main([f"run={copy}", "merge=true", "to=hub:colours"]) == 1
    assert not hub.calls


def test_a_hub_that_refuses_leaves_the_folder_and_says_how_to_send_it(
    copy: Path, hub: HubServer, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.refusals["/api/repos/create"] = [403]
    assert export.main([f"run={copy}", "merge=true", "to=hub:company/colours"]) == 1
    said = capsys.readouterr().err
    assert "upload error:\n  - to=hub:company/colours: the token may not write there" in said
    assert f"`hf upload company/colours {copy / 'merged'} . --private` sends it" in said
    assert (copy / "merged" / "model.safetensors").is_file()


def test_without_a_token_nothing_begins(
    copy: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    assert export.main([f"run={copy}", "to=hub:colours", "overwrite=maybe"]) == 2
    said = capsys.readouterr().err
    assert "2 config errors" in said
    assert "there is no token of the hub. Log in with `hf auth login`, or set HF_TOKEN" in said
    assert not hub.calls


@pytest.fixture
def converter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a stand-in for llama.cpp's converter."""
    folder = tmp_path / "llama.cpp"
    folder.mkdir()
    shutil.copy(llama_converter.__file__, folder / "convert_hf_to_gguf.py")
    monkeypatch.setenv("LLAMA_CPP", str(folder))
    return folder


@pytest.mark.parametrize("kind", ["auto", "q8_0"])
def test_a_gguf_file_is_what_was_trained_with_the_adapter_merged(kind: str, copy: Path, converter: Path) -> None:
    assert export.main([f"run={copy}", "format=gguf", f"gguf_type={kind}"]) == 0
    folder = copy / "merged-gguf"
    assert {path.name for path in folder.iterdir()} == {"model.gguf", "README.md"}
    words = json.loads((converter / "words.json").read_text())
    assert words[-1] == ("f32" if kind == "auto" else "q8_0")
    found = record(copy)["gguf"]
    assert found["tolerance"] == TOLERANCES["float32" if kind == "auto" else "q8_0"]
    assert found["max_logit_difference"] <= found["tolerance"] * max(1.0, found["largest_logit"]) / 2
    assert found["rows"] == 4
    assert abs(found["share_of_training"] - 1) < 0.1
    assert "llama-server -m model.gguf --jinja" in (folder / "README.md").read_text()
    assert not (copy / "merged-gguf-weights").exists()


def test_a_gguf_file_of_another_model_is_found(copy: Path, converter: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = converter / "convert_hf_to_gguf.py"
    script.write_text(script.read_text().replace("swapaxes(1, 2)", "swapaxes(1, 1)"))
    assert export.main([f"run={copy}", "format=gguf"]) == 1
    assert "its outputs differ from those of the trained model by" in capsys.readouterr().err


def test_no_gguf_file_is_made_of_a_model_that_was_changed(copy: Path, converter: Path) -> None:
    FAULTS["a weight"][0](copy)
    assert export.main([f"run={copy}", "format=gguf"]) == 1
    assert record(copy)["faults"]
    assert not (copy / "merged-gguf").exists()
    assert (copy / "merged-gguf-weights" / "model.safetensors").is_file(), "kept for inspection"
    assert not (converter / "words.json").exists()


def test_a_converter_that_fails_is_told_and_leaves_nothing(
    copy: Path, converter: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = "import sys; sys.stderr.buffer.write(b'\\xff in no encoding\\n'); "
    (converter / "convert_hf_to_gguf.py").write_text(f"{lines}sys.exit('BPE pre-tokenizer was not recognized')")
    before = sorted(copy.iterdir())
    assert export.main([f"run={copy}", "format=gguf"]) == 2
    assert "ended with code 1: \ufffd in no encoding / BPE pre-tokenizer was not recognized" in capsys.readouterr().err
    assert sorted(copy.iterdir()) == before


def test_a_head_has_no_gguf_file(tmp_path: Path, converter: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = trained(tmp_path, COLUMNS, *CLASSES, "trainer.epochs=0")
    assert export.main([f"run={run}", "format=gguf"]) == 2
    assert "was trained with a head, and a GGUF file holds a model that writes text" in capsys.readouterr().err
