"""Generation against plain calls of the library, row by row; stopping, order, settings, and what is left behind."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from leyden.backbone.answer_text import AnswerText
from leyden.backbone.attention import choose_attention
from leyden.backbone.generate import (
    check_room,
    generate_texts,
    generation_config,
    pad_id,
    start_id,
    stop_strings,
)
from leyden.backbone.tiny import MAX_LENGTH, tiny_model, tiny_tokenizer
from leyden.settings.errors import ConfigError, ModelError
from leyden.settings.model_groups import Generation

PROMPTS = [list(b"a question"), list(b"why"), list(b"something much longer than the others, to be padded to"), [65]]
EOS = 260


def settings(**changes: object) -> Generation:
    values: dict[str, object] = {
        "min_length_inference": 0, "max_length_inference": 12, "batch_size_inference": 0, "max_time": 0.0,
        "do_sample": False, "num_beams": 1, "temperature": 0.0, "repetition_penalty": 1.0, "stop_tokens": "",
        "top_k": 0, "top_p": 1.0,
    }  # fmt: skip
    return Generation.model_validate(values | changes)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return tiny_tokenizer()


@pytest.fixture
def model() -> nn.Module:
    model = tiny_model("llama")
    choose_attention(model, "segments")
    return model.train()


def texts(model: nn.Module, tokenizer: PreTrainedTokenizerBase, wanted: Generation, **options: Any) -> list[str]:
    stops = options.pop("stops", ())
    return generate_texts(model, tokenizer, PROMPTS, wanted, stops, batch_size=options.pop("batch_size", 2), **options)


def plain(tokenizer: PreTrainedTokenizerBase, **options: Any) -> list[str]:
    """One prompt at a time through the library's own generate, decoded without special tokens."""
    model = tiny_model("llama")
    found = []
    for prompt in PROMPTS:
        ids = torch.tensor([prompt])
        output = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=12,
                                eos_token_id=EOS, pad_token_id=257, **options)  # fmt: skip
        found.append(tokenizer.decode(output[0, len(prompt) :], skip_special_tokens=True).strip())
    return found


@pytest.mark.parametrize(
    ("changes", "options"),
    [
        ({}, {}),
        ({"num_beams": 3}, {"num_beams": 3}),
        ({"repetition_penalty": 1.5}, {"repetition_penalty": 1.5}),
        ({"min_length_inference": 12}, {"min_new_tokens": 12}),
    ],
)
def test_any_batch_size_gives_the_library_answers_in_order(
    changes: dict[str, object], options: dict[str, Any], model: nn.Module, tokenizer: PreTrainedTokenizerBase
) -> None:
    expected = plain(tokenizer, **options)
    assert len(set(expected)) > 1
    for batch_size in (1, 2, 4):
        assert texts(model, tokenizer, settings(**changes), batch_size=batch_size) == expected


def test_padding_is_not_repetition(tokenizer: PreTrainedTokenizerBase) -> None:
    """A repetition penalty must not see the padding of a row, even where the padding is a token that the row wants."""
    model, wanted = tiny_model("llama"), settings(repetition_penalty=30.0)
    ids = torch.tensor([PROMPTS[-1]])
    new = model.generate(ids, attention_mask=ids > 0, do_sample=False, repetition_penalty=30.0, max_new_tokens=2)[0, 1:]
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(int(new[1]))
    try:
        assert texts(model, tokenizer, wanted, batch_size=4) == texts(model, tokenizer, wanted, batch_size=1)
    finally:
        tokenizer.pad_token = "<pad>"


class Scripted(nn.Module):
    """Makes a model say given tokens: one script per prompt, told apart by the last token of the prompt."""

    def __init__(self, scripts: dict[int, list[int]]) -> None:
        super().__init__()
        self.scripts = scripts

    def on(self, model: Any) -> Any:
        forward = model.forward
        last: dict[int, list[int]] = {}

        def scripted(input_ids: torch.Tensor, **options: Any) -> Any:
            output = forward(input_ids=input_ids, **options)
            for row, tokens in enumerate(input_ids.tolist()):
                if input_ids.shape[1] > 1:
                    last[row] = list(self.scripts[tokens[-1]])
                output.logits[row] = -50.0
                output.logits[row, -1, last[row].pop(0) if last[row] else 33] = 50.0
            return output

        model.forward = scripted
        return model


def test_each_row_stops_at_its_own_end(tokenizer: PreTrainedTokenizerBase) -> None:
    start = tokenizer.convert_tokens_to_ids("<|im_start|>")

    def spelled(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    scripts = {
        1: spelled("one STOP two"),
        2: [*spelled("two"), start, *spelled("user")],
        3: [*spelled(" three "), EOS, *spelled("never")],
        4: spelled("four ST OP and on and on"),
        5: [*spelled("STOP at once")],
    }
    prompts = [[9] * size + [size] for size in scripts]
    wanted = settings(max_length_inference=20, stop_tokens="STOP")
    stops = stop_strings(wanted, ("<|im_start|>",))
    model = Scripted(scripts).on(tiny_model("llama"))
    done: list[int] = []
    found = generate_texts(model, tokenizer, prompts, wanted, stops, batch_size=5, advance=done.append)
    assert found == ["one", "two", "three", "four ST OP and on an", ""]
    assert done == [5]
    found = generate_texts(model, tokenizer, prompts, wanted, stops, batch_size=2, advance=done.append)
    assert found == ["one", "two", "three", "four ST OP and on an", ""]
    assert done == [5, 2, 2, 1]


def test_a_stopped_batch_is_not_generated_any_further(tokenizer: PreTrainedTokenizerBase) -> None:
    model = Scripted({1: list(range(60, 90)), 2: list(range(61, 91))}).on(tiny_model("llama"))
    calls = []
    model.register_forward_hook(lambda *_: calls.append(1))
    stop = str(tokenizer.decode([64]))
    generate_texts(model, tokenizer, [[9, 1], [9, 2]], settings(max_length_inference=25), [stop], batch_size=2)
    assert len(calls) == 5


def test_lengths(model: nn.Module, tokenizer: PreTrainedTokenizerBase) -> None:
    ended = Scripted({prompt[-1]: [EOS] * 9 for prompt in PROMPTS}).on(tiny_model("llama"))
    assert texts(ended, tokenizer, settings(max_length_inference=3)) == [""] * 4
    config = generation_config(settings(min_length_inference=2, max_length_inference=7), tokenizer)
    assert (config.min_new_tokens, config.max_new_tokens) == (2, 7)


def test_sampling_repeats_per_seed_and_leaves_the_global_state(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase
) -> None:
    wanted = settings(do_sample=True, temperature=1.0)
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    first = texts(model, tokenizer, wanted, seed=1)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.rand(3)
    assert texts(model, tokenizer, wanted, seed=1) == first
    assert texts(model, tokenizer, wanted, seed=2) != first


@pytest.mark.parametrize(
    "changes", [{"temperature": 1e-4}, {"temperature": 1.0, "top_k": 1}, {"temperature": 1, "top_p": 1e-6}]
)
def test_the_limits_of_sampling_are_greedy(
    changes: dict[str, object], model: nn.Module, tokenizer: PreTrainedTokenizerBase
) -> None:
    changes = {name: float(value) if name != "top_k" else value for name, value in changes.items()}  # type: ignore[arg-type]
    assert texts(model, tokenizer, settings(do_sample=True, **changes), seed=3) == plain(tokenizer)


def test_settings_are_mapped(tokenizer: PreTrainedTokenizerBase) -> None:
    wanted = settings(
        do_sample=True, temperature=1.0, top_k=7, top_p=0.5, num_beams=2, repetition_penalty=1.2, max_time=3.0
    )
    config = generation_config(wanted, tokenizer)
    assert (config.temperature, config.top_k, config.top_p) == (1.0, 7, 0.5)
    assert (config.num_beams, config.repetition_penalty, config.max_time) == (2, 1.2, 3.0)
    assert (config.eos_token_id, config.pad_token_id, config.bos_token_id) == ([EOS], 257, 258)
    assert config.use_cache
    plain_config = generation_config(settings(), tokenizer)
    assert plain_config.max_time is None
    assert plain_config.min_new_tokens is None


def test_stop_strings_are_decoded_trimmed_and_unique() -> None:
    assert stop_strings(settings(stop_tokens=r"END, \u4e2d ,,END"), ("<|p|>", "END")) == ("END", "中", "<|p|>")
    assert stop_strings(settings(), ()) == ()


def test_text_is_cleaned(tokenizer: PreTrainedTokenizerBase) -> None:
    letters = tokenizer("hello", add_special_tokens=False)["input_ids"]
    assert AnswerText(tokenizer, ()).whole([258, *letters, 259, 257, EOS, *letters]) == "hello"
    assert AnswerText(tokenizer, ("lo", "el")).whole(letters) == "h"


def test_padding_falls_back(tokenizer: PreTrainedTokenizerBase) -> None:
    other = tiny_tokenizer()
    assert pad_id(other) == 257
    other.pad_token = None
    assert pad_id(other) == 256
    other.unk_token = None
    assert pad_id(other) == EOS
    other.eos_token = None
    assert pad_id(other) == 0


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_model_is_left_as_it_was(checkpointing: bool, model: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    model.config.use_cache = False
    if checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()
    model.model.layers[0].eval()
    modes = [module.training for module in model.modules()]
    attention = model.config._attn_implementation
    assert attention == "leyden_segments"
    assert texts(model, tokenizer, settings()) == plain(tokenizer)
    assert [module.training for module in model.modules()] == modes
    assert model.config._attn_implementation == attention
    assert model.config.use_cache is False


@pytest.mark.parametrize(("bos", "start"), [("<bos>", 258), (None, EOS)])
def test_an_empty_prompt_starts_from_the_begin_token_or_else_from_the_end_token(
    bos: str | None, start: int, model: nn.Module
) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.bos_token = bos
    assert start_id(tokenizer) == start
    ids = torch.tensor([[start]])
    alone = tiny_model("llama").generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=12,
        bos_token_id=None, eos_token_id=EOS, pad_token_id=257,
    )  # fmt: skip
    expected = AnswerText(tokenizer, ()).whole(alone[0, 1:].tolist())
    assert expected
    for batch_size in (1, 3):
        found = generate_texts(model, tokenizer, [PROMPTS[0], [], PROMPTS[1]], settings(), (), batch_size=batch_size)
        assert found[1] == expected
        assert [found[0], found[2]] == plain(tokenizer)[:2]


def test_an_empty_prompt_without_a_token_to_start_from_is_refused(model: nn.Module) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.bos_token = tokenizer.eos_token = None
    with pytest.raises(ModelError, match="neither a begin nor an end token"):
        generate_texts(model, tokenizer, [[65], []], settings(), (), batch_size=2)
    assert generate_texts(model, tokenizer, [[65]], settings(), (), batch_size=2)


def test_an_answer_beyond_rotary_positions_is_a_warning() -> None:
    model, room = tiny_model("llama"), MAX_LENGTH - 12 + 1  # the last of the twelve new tokens is not read
    assert check_room(model, room, settings()) is None
    warning = check_room(model, room + 1, settings())
    assert warning is not None
    assert f"generation.max_length_inference=12 after a prompt of {room + 1} tokens" in warning


def test_an_answer_beyond_learned_positions_is_refused_where_the_library_fails(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    model = tiny_model("gpt2", n_positions=32, max_position_embeddings=32)
    room = 32 - 12 + 1
    assert check_room(model, room, settings()) is None
    generate_texts(model, tokenizer, [[65] * room], settings(min_length_inference=12), (), batch_size=1)
    with pytest.raises(ConfigError, match=r"there are only 32\. Lower generation\.max_length_inference"):
        check_room(model, room + 1, settings())
    with pytest.raises(IndexError):
        generate_texts(model, tokenizer, [[65] * (room + 1)], settings(min_length_inference=12), (), batch_size=1)
