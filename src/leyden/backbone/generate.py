"""Batched generation: sorted by length, stopped row by row, returned in order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedTokenizerBase, StoppingCriteria, StoppingCriteriaList

from leyden.backbone.answer_text import AnswerText, end_ids
from leyden.backbone.attention import attention_for_generation
from leyden.backbone.compiled import uncompiled
from leyden.backbone.load import check_positions
from leyden.backbone.reference import evaluation_mode
from leyden.backbone.scoring import base_model
from leyden.settings.errors import ConfigError, ModelError
from leyden.settings.escapes import decode_escapes
from leyden.settings.model_groups import Generation

PLAIN = {"sdpa", "eager", "flash_attention_2"}
Follow = Callable[[str], bool]


class StopStrings(StoppingCriteria):
    """End a row as soon as its new text contains a stop string, also one that is a special token.

    Args:
        tokenizer: to read the new tokens.
        stops: strings, at least one.
        prompt_length: tokens of the padded prompt, which are not searched.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stops: Sequence[str], prompt_length: int) -> None:
        self.tokenizer, self.stops, self.prompt_length = tokenizer, tuple(stops), prompt_length
        # a token is at least one byte, so this many of them hold any stop string that the newest token completes
        self.window = max(len(stop.encode()) for stop in stops) + 1

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Tensor:  # noqa: ARG002
        """Which rows are done: bool [B]."""
        tails = input_ids[:, self.prompt_length :][:, -self.window :].tolist()
        texts = self.tokenizer.batch_decode(tails, skip_special_tokens=False)
        done = [any(stop in text for stop in self.stops) for text in texts]
        return torch.tensor(done, dtype=torch.bool, device=input_ids.device)


class Followed(StoppingCriteria):
    """Tells how far the one answer that is being written has come, token by token, and ends it on demand.

    Args:
        text: reads the new tokens.
        follow: told what is certain of the answer; true ends it.
        prompt_length: tokens of the prompt, which are not told.
        beams: several answers are being written, and which one it will be is not known: no text is told.
    """

    def __init__(self, text: AnswerText, follow: Follow, prompt_length: int, *, beams: bool) -> None:
        self.text, self.follow, self.prompt_length, self.beams = text, follow, prompt_length, beams

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Tensor:  # noqa: ARG002
        """Whether to end: bool [B]."""
        done = self.follow("" if self.beams else self.text.so_far(input_ids[0, self.prompt_length :].tolist()))
        return torch.full((len(input_ids),), done, dtype=torch.bool, device=input_ids.device)


def stop_strings(settings: Generation, template_stops: Sequence[str]) -> tuple[str, ...]:
    """The strings that end an answer: those of the settings, decoded and trimmed, and those of the template."""
    own = [decode_escapes(part).strip() for part in settings.stop_tokens.split(",")]
    return tuple(dict.fromkeys(stop for stop in (*own, *template_stops) if stop))


def generate_texts(  # noqa: PLR0913
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    settings: Generation,
    stops: Sequence[str],
    *,
    batch_size: int,
    seed: int | None = None,
    advance: Callable[[int], None] = lambda rows: None,
    follow: Follow | None = None,
) -> list[str]:
    """One answer per prompt, in the order of the prompts.

    Args:
        model: a causal language model, adapter or not.
        tokenizer: of the model.
        prompts: token ids; one without any starts from the begin token, else the end token (see `start_id`).
        settings: how to choose tokens, and how many.
        stops: strings that end an answer; the answer ends before the first of them.
        batch_size: prompts at a time; the result does not depend on it in float32, unless sampling.
        seed: of the sampling; None draws from the global random state.
        advance: told after each batch how many prompts are done.
        follow: told after each token of a batch what is certain of its first answer; true ends the batch. For one
            prompt; with beams it is told the empty text.

    Raises:
        ModelError: a prompt is empty, and the tokenizer has no token to start from.
    """
    answers, text = [""] * len(prompts), AnswerText(tokenizer, stops)
    prompts = [prompt or [start_id(tokenizer)] for prompt in prompts]
    order = sorted(range(len(prompts)), key=lambda place: (-len(prompts[place]), place))
    with (
        torch.inference_mode(),
        evaluation_mode(model),
        attention_for_generation(model, _implementation(model)),
        uncompiled(model),
        _seeded(seed, base_model(model).device),
    ):
        for start in range(0, len(order), batch_size):
            places = order[start : start + batch_size]
            new = _generate([prompts[place] for place in places], model, settings, text, follow)
            for place, ids in zip(places, new, strict=True):
                answers[place] = text.whole(ids)
            advance(len(places))
    return answers


def generation_config(settings: Generation, tokenizer: PreTrainedTokenizerBase) -> GenerationConfig:
    """The settings in the library's words."""
    options: dict[str, Any] = {
        "max_new_tokens": settings.max_length_inference,
        "min_new_tokens": settings.min_length_inference or None,
        "do_sample": settings.do_sample,
        "num_beams": settings.num_beams,
        "repetition_penalty": settings.repetition_penalty,
        "max_time": settings.max_time or None,
        "eos_token_id": sorted(end_ids(tokenizer)) or None,
        "pad_token_id": pad_id(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "use_cache": True,
    }
    if settings.do_sample:
        options |= {"temperature": float(settings.temperature), "top_k": settings.top_k, "top_p": settings.top_p}
    return GenerationConfig(**options)


def pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id of padding: the tokenizer's own, else unknown, else end of sequence, else 0 (rule N20)."""
    for token in (tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    return 0


def start_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id that an answer without a prompt starts from: begin of sequence, else end of sequence.

    After the end of one text comes the beginning of another, so that is what a model saw in its pretraining.

    Raises:
        ModelError: the tokenizer has neither.
    """
    for token in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    raise ModelError(
        "An answer cannot start from an empty prompt: the tokenizer has neither a begin nor an end token. Give every "
        "row a prompt, or choose another backbone."
    )


def check_room(model: nn.Module, longest_prompt: int, settings: Generation) -> str | None:
    """Compare the longest prompt and its answer with the positions the model was made for.

    Args:
        model: that writes, adapter or not.
        longest_prompt: tokens of the longest prompt that will be answered.
        settings: `max_length_inference` new tokens come on top, or of an encoder-decoder stand apart.

    Returns:
        A warning when the model may count further than it was made for; None when all is well.

    Raises:
        ConfigError: positions are learned, and there is none for the last tokens.
    """
    base = base_model(model)
    fault = (
        f"generation.max_length_inference={settings.max_length_inference} after a prompt of {longest_prompt} tokens "
        f"goes beyond the positions of {type(base).__name__}"
    )
    new = settings.max_length_inference
    apart = bool(base.config.is_encoder_decoder)  # its decoder begins with a token of its own
    try:  # the last new token is not read by the model
        warning = check_positions(base, max(longest_prompt, new) if apart else longest_prompt + new - 1)
    except ConfigError as error:
        raise ConfigError(
            f"{fault}, which are learned: there are only {base.config.max_position_embeddings}. Lower "
            "generation.max_length_inference or tokenizer.max_length."
        ) from error
    return f"{fault}; the end of longer answers may be poor." if warning else None


def _implementation(model: nn.Module) -> str:
    current = str(base_model(model).config._attn_implementation)
    return current if current in PLAIN else str(base_model(model).get_correct_attn_implementation(None))


@contextmanager
def _seeded(seed: int | None, device: torch.device) -> Iterator[None]:
    """Draw from this seed inside, and leave the global random state as it was."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def _generate(
    prompts: Sequence[Sequence[int]],
    model: nn.Module,
    settings: Generation,
    text: AnswerText,
    follow: Follow | None,
) -> list[list[int]]:
    width = max(len(prompt) for prompt in prompts)
    device = base_model(model).device
    padding = pad_id(text.tokenizer)
    ids = torch.tensor([[padding] * (width - len(p)) + list(p) for p in prompts], device=device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=device)
    # the output of an encoder-decoder is that of the decoder: the start token and the answer
    start = 1 if base_model(model).config.is_encoder_decoder else width
    criteria = StoppingCriteriaList([StopStrings(text.tokenizer, text.stops, start)] if text.stops else [])
    if follow is not None:
        criteria.append(Followed(text, follow, start, beams=settings.num_beams > 1))
    output = model.generate(  # type: ignore[operator]
        input_ids=ids,
        attention_mask=mask,
        generation_config=generation_config(settings, text.tokenizer),
        stopping_criteria=criteria,
    )
    new: list[list[int]] = output[:, start:].tolist()
    return new
