"""How a conversation is written out: text markers, or the chat template that the tokenizer brings."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

from leyden.data.dates import FIXED, with_fixed_date
from leyden.data.marks import split_at_texts, trimmed_ends
from leyden.data.tokenization import encode
from leyden.settings.data_groups import Dataset
from leyden.settings.errors import ConfigError
from leyden.settings.escapes import decode_escapes

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)

Ids = tuple[int, ...]


@dataclass(frozen=True)
class Frame:
    """Token ids around the text of one part; the text itself goes between them.

    What stands after an answer ends it, so an answer that was cut does not get it (rule N18).
    """

    before: Ids = ()
    after: Ids = ()


@dataclass(frozen=True)
class Layout:
    """The frames of a conversation with a given number of turns, and what stands behind the last one."""

    system: Frame
    prompts: tuple[Frame, ...]
    answers: tuple[Frame, ...]
    closing: Ids = ()

    def before_answer(self) -> int:
        """How many tokens the frames before the last answer have together."""
        return sum(len(frame.before) + len(frame.after) for frame in (self.system, *self.prompts, *self.answers[:-1]))


class Template(Protocol):
    """Writes conversations; both kinds give the same parts, so everything after them is one code path."""

    def layout(self, turns: int, *, system: bool) -> Layout:
        """Frames for so many turns, with or without a system text."""

    def as_written(self, texts: Mapping[str, Sequence[str]]) -> Mapping[str, Sequence[str]]:
        """The texts of a table, by what they hold, as they stand between the frames."""

    @property
    def stops(self) -> tuple[str, ...]:
        """Strings that end a generated answer besides the end token."""

    @property
    def jinja(self) -> str:
        """The same template for `tokenizer.apply_chat_template`, saved with the model."""


class MarkerTemplate:
    """`[start + system + EOS]`, then per turn `[start + prompt + EOS + separator]` `[answer + EOS]` (rule N13)."""

    def __init__(self, dataset: Dataset, tokenizer: PreTrainedTokenizerBase) -> None:
        self.starts = tuple(
            decode_escapes(text)
            for text in (dataset.text_system_start, dataset.text_prompt_start, dataset.text_answer_separator)
        )
        self.ends = (
            dataset.add_eos_token_to_system,
            dataset.add_eos_token_to_prompt,
            dataset.add_eos_token_to_answer,
        )
        if any(self.ends) and tokenizer.eos_token_id is None:
            names = ("system", "prompt", "answer")
            keys = [f"dataset.add_eos_token_to_{name}" for name, on in zip(names, self.ends, strict=True) if on]
            raise ConfigError(
                f"{', '.join(keys)}: the tokenizer has no end-of-sequence token. Set them to false, or choose a "
                "backbone whose tokenizer has one."
            )
        self.eos_token = str(tokenizer.eos_token or "")
        eos: Ids = () if tokenizer.eos_token_id is None else (tokenizer.eos_token_id,)
        system, prompt, separator = (tuple(ids) for ids in encode(tokenizer, self.starts, special=True))
        end_system, end_prompt, end_answer = (eos if on else () for on in self.ends)
        self._system = Frame(system, end_system)
        self._prompt = Frame(prompt, (*end_prompt, *separator))
        self._answer = Frame((), end_answer)

    def layout(self, turns: int, *, system: bool) -> Layout:
        """The same frames for every turn; no system text, no marker for it."""
        return Layout(self._system if system else Frame(), (self._prompt,) * turns, (self._answer,) * turns)

    def as_written(self, texts: Mapping[str, Sequence[str]]) -> Mapping[str, Sequence[str]]:
        """The texts as they are."""
        return texts

    @property
    def stops(self) -> tuple[str, ...]:
        """The markers themselves: a model that starts a new turn has finished its answer."""
        return tuple(text.strip() for text in self.starts if text.strip())

    @cached_property
    def jinja(self) -> str:
        """A chat template that writes the same markers around the same texts."""
        system, prompt, separator = (_jinja_string(text) for text in self.starts)
        ends = [" + eos_token" if on else "" for on in self.ends]
        return (
            "{%- for message in messages -%}"
            "{%- if message['role'] == 'system' -%}"
            f"{{%- if message['content'] -%}}{{{{ {system} + message['content']{ends[0]} }}}}{{%- endif -%}}"
            f"{{%- elif message['role'] == 'user' -%}}{{{{ {prompt} + message['content']{ends[1]} + {separator} }}}}"
            f"{{%- elif message['role'] == 'assistant' -%}}{{{{ message['content']{ends[2]} }}}}"
            "{%- else -%}{{ raise_exception('Roles are system, user and assistant, not ' + message['role'] + '.') }}"
            "{%- endif -%}{%- endfor -%}"
        )


class ChatTemplate:
    """The tokenizer's own template, taken apart at the places where it puts the texts.

    The template is rendered with a mark in place of each text; what stands between the marks becomes the frames. So
    text of a table is never read as a control token, and every prefix of a conversation keeps its tokens. White space
    that the template trims from the ends of texts must be trimmed before they are tokenised: `as_written` does it.
    A template that asks for the date gets a fixed one, which stays with the tokenizer.

    Raises:
        ConfigError: the tokenizer has no chat template.
        ModelError: its template fails, or its texts cannot be told apart.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        if not tokenizer.chat_template:
            raise ConfigError(
                "dataset.chat_template=true, but the backbone's tokenizer has no chat template. Set it to false, or "
                "choose an instruction-tuned backbone."
            )
        self._tokenizer = tokenizer
        self.has_date = (fixed := with_fixed_date(self.jinja)) != self.jinja
        if self.has_date:
            tokenizer.chat_template = fixed
        added = tokenizer.added_tokens_decoder.items()
        self._special = {*tokenizer.all_special_ids, *(number for number, token in added if token.special)}
        self._layouts: dict[tuple[int, bool], Layout] = {}
        self.layout(1, system=False)  # a template that cannot be used is refused before any table is tokenised
        self._ends = trimmed_ends(tokenizer)

    def layout(self, turns: int, *, system: bool) -> Layout:
        """Frames for so many turns, rendered once and kept."""
        key = (turns, system)
        if key not in self._layouts:
            self._layouts[key] = self._render(turns, system)
        return self._layouts[key]

    def as_written(self, texts: Mapping[str, Sequence[str]]) -> Mapping[str, Sequence[str]]:
        """The texts without the white space that the template leaves out at their ends."""
        return self._ends.trim(texts)

    @property
    def trimmed_roles(self) -> list[str]:
        """The roles whose texts the template trims."""
        return self._ends.roles

    @property
    def stops(self) -> tuple[str, ...]:
        """What the template writes after an answer, unless that is the tokenizer's end token, which ends it anyway."""
        end = self.layout(1, system=False).answers[-1].after
        text = str(self._tokenizer.decode(list(end))).strip()
        return () if not text or end[-1] == self._tokenizer.eos_token_id else (text,)

    @property
    def jinja(self) -> str:
        """The template as it came; of several, the one that is used for plain conversations."""
        return str(self._tokenizer.get_chat_template())

    def _render(self, turns: int, system: bool) -> Layout:
        pieces = split_at_texts(self._tokenizer, turns, system=system)
        between = [tuple(ids) for ids in encode(self._tokenizer, pieces, special=True)]
        return self._frames(between, system)

    def _frames(self, between: list[Ids], system: bool) -> Layout:
        """Ids between the texts: before an answer they end its prompt, after it up to the end token they end it."""
        head = Frame(between[0]) if system else Frame()
        rest = between[1:] if system else between
        prompts, answers = [], []
        lead = rest[0]
        for place in range(1, len(rest), 2):
            size = self._size_of_end(rest[place + 1], rest[-1])
            prompts.append(Frame(lead, rest[place]))
            answers.append(Frame((), rest[place + 1][:size]))
            lead = rest[place + 1][size:]
        return Layout(head, tuple(prompts), tuple(answers), lead)

    def _size_of_end(self, ids: Ids, closing: Ids) -> int:
        """How many of the ids after an answer belong to it.

        Those up to the first special token that also stands after the last answer; without one, all that it shares
        with what stands there.
        """
        shared = 0
        for token, other in zip(ids, closing, strict=False):
            if token != other:
                break
            shared += 1
            if token in self._special:
                break
        return shared


def make_template(dataset: Dataset, tokenizer: PreTrainedTokenizerBase) -> Template:
    """The template that `dataset.chat_template` asks for.

    Raises:
        ConfigError: the tokenizer lacks what the template needs.
        ModelError: the tokenizer's own template does not take these conversations.
    """
    if not dataset.chat_template:
        return MarkerTemplate(dataset, tokenizer)
    template = ChatTemplate(tokenizer)
    if dataset.system_column is not None:
        template.layout(1, system=True)
    if template.has_date:
        log.info(
            "dataset.chat_template: the tokenizer's template writes today's date. It writes %s now, every day.", FIXED
        )
    if template.trimmed_roles:
        log.info(
            "dataset.chat_template: the tokenizer's template leaves out white space at the ends of %s texts, so it is "
            "left out of those of the table, too.",
            " and ".join(template.trimmed_roles),
        )
    return template


def _jinja_string(text: str) -> str:
    """A string literal of jinja, which reads Python's escapes; raw line ends would all become the same there."""
    return repr(text)
