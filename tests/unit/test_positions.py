"""Samples longer than the model can count, in training and in each way to predict."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import torch
from transformers import BartConfig, BartForConditionalGeneration

from leyden.artifacts import predict_prompt
from leyden.artifacts.chat import Chat
from leyden.artifacts.chat_input import talk_through_pipe
from leyden.artifacts.opened import open_model, trained_problem
from leyden.artifacts.predict import predict
from leyden.backbone.generate import check_room
from leyden.backbone.load import check_positions
from leyden.backbone.tiny import MAX_LENGTH, tiny_model
from leyden.settings.composition import compose_config
from leyden.settings.errors import ConfigError
from leyden.settings.model_groups import Generation
from leyden.settings.read_predict import read_predict
from leyden.training import answers

CONF = Path(__file__).resolve().parents[2] / "conf"


def test_rotary_positions_beyond_the_limit_are_a_warning() -> None:
    model = tiny_model("llama")
    assert check_positions(model, MAX_LENGTH) is None
    warning = check_positions(model, MAX_LENGTH + 1)
    assert warning is not None
    assert f"tokenizer.max_length={MAX_LENGTH + 1} is above the {MAX_LENGTH} positions" in warning


@pytest.mark.parametrize("architecture", ["gpt2", "opt"])
def test_learned_positions_beyond_the_limit_are_refused(architecture: str) -> None:
    model = tiny_model(architecture)
    assert check_positions(model, MAX_LENGTH) is None
    with pytest.raises(ConfigError, match=f"Set tokenizer.max_length={MAX_LENGTH} or less"):
        check_positions(model, MAX_LENGTH + 1)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """One short row, and one whose answer is longer than a model of 2,048 positions can count."""
    path = tmp_path / "new.jsonl"
    rows = [{"prompt": "Hello?", "answer": "Yes."}, {"prompt": "Hello?", "answer": "a" * (MAX_LENGTH + 1)}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def ask(table: Path, way: str, *overrides: str) -> None:
    """Ask a plain model for what `predict.py` gives: of a table, of a prompt, in a chat."""
    given = {"table": [f"dataset.path={table}", f"output={table.parent / 'out'}"], "prompt": ["prompt=Hello?"],
             "chat": ["mode=chat"]}[way]  # fmt: skip
    config, faults = compose_config("predict", [*given, *overrides], CONF)
    assert not faults
    assert config is not None
    wanted, settings, run = read_predict(config)
    if way != "chat":
        predict(wanted, settings, run)
        return
    opened = open_model(settings, trained_problem(settings, run), run, None)
    talk_through_pipe(Chat(opened, wanted.generation.num_history), io.StringIO("Hello?\n"))


@pytest.mark.parametrize("way", ["table", "prompt", "chat"])
def test_an_answer_beyond_learned_positions_is_refused_before_it_is_begun(
    table: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (answers, predict_prompt):
        monkeypatch.setattr(module, "generate_texts", lambda *_, **__: pytest.fail("it has begun"))
    said = (
        rf"generation\.max_length_inference={MAX_LENGTH} after a prompt of \d+ tokens goes beyond the positions of "
        rf"GPT2LMHeadModel, which are learned: there are only {MAX_LENGTH}\. Lower generation\.max_length_inference"
    )
    with pytest.raises(ConfigError, match=said):
        ask(table, way, "run=tiny:gpt2", f"generation.max_length_inference={MAX_LENGTH}")
    assert not (table.parent / "out").exists()


def test_a_row_beyond_learned_positions_is_refused_before_any_is_scored(table: Path) -> None:
    wide = ["run=tiny:gpt2", f"tokenizer.max_length={2 * MAX_LENGTH}", "generation.max_length_inference=4"]
    said = rf"a row of 2\d{{3}} tokens is above the {MAX_LENGTH} positions of GPT2LMHeadModel, which are learned"
    with pytest.raises(ConfigError, match=rf"{said}.* Set tokenizer\.max_length={MAX_LENGTH} or less"):
        ask(table, "table", *wide)
    table.write_text(table.read_text().splitlines()[0])
    ask(table, "table", *wide)  # what is set does not matter where no row is as long
    assert (table.parent / "out" / "predictions.csv").is_file()


def test_an_encoder_decoder_counts_prompt_and_answer_apart() -> None:
    config = BartConfig(
        vocab_size=32, max_position_embeddings=16, d_model=16, encoder_layers=1, decoder_layers=1,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16,
        forced_eos_token_id=None,
    )  # fmt: skip
    torch.manual_seed(0)
    model = BartForConditionalGeneration(config).eval()
    for prompt, new in ((16, 16), (17, 4), (4, 17)):
        settings = Generation.model_construct(max_length_inference=new)
        ids = torch.full((1, prompt), 5)
        write = {"max_new_tokens": new, "min_new_tokens": new, "do_sample": False}
        if prompt == new:
            assert check_room(model, prompt, settings) is None
            assert model.generate(ids, **write).shape[1] == new + 1
            continue
        with pytest.raises(ConfigError, match="which are learned: there are only 16"):
            check_room(model, prompt, settings)
        with pytest.raises((IndexError, ValueError, RuntimeError)):
            model.generate(ids, **write)
