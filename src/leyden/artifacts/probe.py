"""What a run's own model says of a few rows, and the tokens of some conversations: what a saved model is held against.

It is kept in the run folder, so that a model that is exported later can be held against it too.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from leyden.artifacts.fresh_process import prompt_of, tokens_of
from leyden.artifacts.whole import whole_folder
from leyden.backbone.compiled import uncompiled
from leyden.backbone.heads import head_outputs
from leyden.backbone.reference import adapter_off, evaluation_mode
from leyden.backbone.scoring import base_model, target_logits
from leyden.data.collator import Collator
from leyden.data.dataset import Sample, TreeDataset
from leyden.data.tokenization import control_tokens
from leyden.data.truncation import Conversation
from leyden.problem.base import Problem

Thing = TypeVar("Thing")

ROWS = 4  # held-out samples whose logits are compared
POSITIONS = 4  # of each answer
LOOKED_AT = 64  # samples among which the rows are chosen
CONVERSATIONS = 100  # training samples whose tokens are compared
FILE, OUTPUTS = "rows.json", "outputs.safetensors"
SAME, JOINED, OTHER = "same", "joined", "other"
KEYS = {"messages", "text", "trained", "ids", "prompt", "place", "kind", "again"}  # of a conversation


class Answers(NamedTuple):
    """What a model says of some rows.

    Attributes:
        outputs: of each row: [P, V] or [1, K], float32.
        bases: the same with its adapter switched off; empty without an adapter.
    """

    outputs: list[Tensor]
    bases: list[Tensor]


@dataclass
class Probe:
    """Rows with what the run's model says of them, and conversations with the tokens of the training.

    Attributes:
        rows: as `fresh_process.outputs_of` takes them.
        answers: what the model says of each.
        conversations: `messages` or `text`; `ids`, the tokens of the training; `trained`, the text that they are, where
            there are messages; `prompt`, how many of the tokens stand before the last answer; `place`, where the row
            stands in its table; `kind`, whether the run's own template and tokenizer give the same tokens, others for
            the same text, or another text; `again`, the tokens that they give.
        left_out: conversations that no template can write, by the reason.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    answers: Answers = field(default_factory=lambda: Answers([], []))
    conversations: list[dict[str, Any]] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        """Write `rows.json` and `outputs.safetensors`; the folder gets its name once they are whole."""
        content = {"rows": self.rows, "conversations": self.conversations, "left_out": self.left_out}
        named = {f"{name}.{n}": one for name, each in self.answers._asdict().items() for n, one in enumerate(each)}
        with whole_folder(folder) as partial:
            (partial / FILE).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
            save_file(named, partial / OUTPUTS)

    @staticmethod
    def load(folder: Path) -> Probe:
        """Read what `save` has written.

        Raises:
            Exception: it is not there, or damaged; of the readers' own kinds.
        """
        content = json.loads((folder / FILE).read_text(encoding="utf-8"))
        found = load_file(folder / OUTPUTS)
        outputs = [found[f"outputs.{n}"] for n in range(len(content["rows"]))]
        bases = [found[f"bases.{n}"] for n in range(len(found) - len(outputs))]
        if len(bases) not in (0, len(outputs)):
            raise ValueError(f"{len(bases)} outputs of the base, and {len(outputs)} of the model")
        if missing := [key for one in content["conversations"] for key in sorted(KEYS - one.keys())]:
            raise ValueError(f"a conversation without {missing[0]}")
        return Probe(answers=Answers(outputs, bases), **content)


@dataclass(frozen=True)
class Prober:
    """Makes a probe of a model.

    Attributes:
        model: the run's own, adapter or not.
        collator: makes its batches.
        problem: what it was trained for.
        tokenizer: of the run.
        jinja: the chat template that is saved with the model.
    """

    model: nn.Module
    collator: Collator
    problem: Problem
    tokenizer: PreTrainedTokenizerBase
    jinja: str

    def probe(self, train: TreeDataset, held_out: TreeDataset) -> Probe:
        """Ask the model about some held-out rows, and write some training conversations out."""
        samples = _chosen(held_out, self.problem) or _chosen(train, self.problem)
        collator, found = self.collator.for_evaluation(), Probe()
        with torch.no_grad(), evaluation_mode(self.model), uncompiled(self.model):
            for sample in samples:
                for row, output in self._asked(sample, collator):
                    found.rows.append(row)
                    found.answers.outputs.append(output.cpu().contiguous())
            if isinstance(self.model, PeftModel):
                with adapter_off(self.model):
                    asked = (output for sample in samples for _, output in self._asked(sample, collator))
                    found.answers.bases.extend(output.cpu().contiguous() for output in asked)
        self._write_out(train, found)
        return found

    def _asked(self, sample: Sample, collator: Collator) -> Iterator[tuple[dict[str, Any], Tensor]]:
        """Each path of a sample as a plain row, with what the model says of it in its own kind of batch."""
        tree, batch = sample.tree, collator([sample]).to(base_model(self.model).device)
        if self.problem.head.outputs is not None:
            row = {"input_ids": tree.tokens.tolist(), "decoder_input_ids": None, "positions": None}
            yield row, head_outputs(self.model, batch).float()
            return
        for sequence in range(tree.num_sequences):
            own = [n for n, one in enumerate(tree.sequences.tolist()) if one == sequence]
            if not own:
                continue
            kept = _spread(own, POSITIONS)
            path = next(path for path in tree.paths() if tree.targets[own[0]] in path)
            row = {"input_ids": tree.tokens[path].tolist(), "decoder_input_ids": None}
            if batch.decoder_input_ids is not None:
                row = {
                    "input_ids": tree.tokens[: tree.starts[1]].tolist(),
                    "decoder_input_ids": batch.decoder_input_ids[0].tolist(),
                }
                positions = batch.target_columns[kept].tolist()
            else:
                positions = tree.positions()[tree.sources[kept]].tolist()
            yield {**row, "positions": positions}, target_logits(self.model, batch, kept)

    def _write_out(self, trees: TreeDataset, found: Probe) -> None:
        """Training conversations as messages, with their tokens; for a head, and for plain texts, as one text."""
        control, left_out = control_tokens(self.tokenizer), Counter[str]()
        before = self.tokenizer.chat_template
        self.tokenizer.chat_template = self.jinja
        try:
            for sample in _spread(range(len(trees)), CONVERSATIONS):
                conversation = trees.conversation(sample, answered=trees.limits.answers)
                texts = {text for role in ("answer", "rejected") for _, text in _texts(trees, sample, role)}
                if conversation.cut:
                    left_out["cut to tokenizer.max_length"] += 1
                elif any(name in text for text in texts for name in control):
                    left_out["with the name of a control token in a text"] += 1
                else:
                    place = trees.part.source.table.places([trees.part.samples[sample][-1]])
                    for one in self._written(trees, sample, conversation):
                        self._add({**one, "place": place}, found, left_out)
        finally:
            self.tokenizer.chat_template = before
        found.left_out = dict(left_out)

    def _written(self, trees: TreeDataset, sample: int, conversation: Conversation) -> Iterator[dict[str, Any]]:
        """The conversation with each of its last answers."""
        last, history = conversation.turns[-1], conversation.history
        if trees.pieces is not None or not last.answers:
            ids = [*history, *(last.answers[0] if last.answers else [])]
            text = self.tokenizer.decode(ids)
            yield {"messages": None, "text": text, "trained": None, "ids": ids, "prompt": len(history)}
            return
        closing = trees.template.layout(len(conversation.turns), system=bool(conversation.system)).closing
        for role, answer in zip(("answer", "rejected"), last.answers, strict=False):
            start = history
            if role == "rejected" and last.rejected_prompt is not None:
                start = [*history[: len(history) - len(last.prompt)], *last.rejected_prompt]
            messages = [
                {"role": name, "content": text}
                for name, text in _texts(trees, sample, role)
                if name != "system" or conversation.system
            ]
            ids = [*start, *answer, *closing]
            trained = self.tokenizer.decode(ids)
            yield {"messages": messages, "text": None, "trained": trained, "ids": ids, "prompt": len(start)}

    def _add(self, one: dict[str, Any], found: Probe, left_out: Counter[str]) -> None:
        try:
            again = tokens_of(self.tokenizer, one)
            prompt_of(self.tokenizer, one)
        except Exception:  # noqa: BLE001  a template may raise anything to refuse a conversation
            left_out["that the template refuses"] += 1
            return
        kind = SAME if again == one["ids"] else JOINED if self._reads(again) == self._reads(one["ids"]) else OTHER
        found.conversations.append({**one, "kind": kind, "again": None if kind == SAME else again})

    def _reads(self, ids: Sequence[int]) -> str:
        """The text of tokens, white space aside."""
        return "".join(str(self.tokenizer.decode(list(ids))).split())


def _texts(trees: TreeDataset, sample: int, role: str) -> list[tuple[str, str]]:
    """The texts of a sample with the roles of their messages; `role` says which of its last answers."""
    rows, texts = trees.part.samples[sample], trees.part.source.texts
    found = [("system", texts["system"][rows[0]])] if "system" in texts else []
    for row in rows:
        last = row == rows[-1]
        prompt = "rejected_prompt" if last and role == "rejected" and "rejected_prompt" in texts else "prompt"
        found.append(("user", _text(texts, prompt, row)))
        found.append(("assistant", _text(texts, role if last else "answer", row)))
    return found


def _text(texts: Mapping[str, Sequence[str]], role: str, row: int) -> str:
    return texts[role][row] if role in texts else ""


def _chosen(trees: TreeDataset, problem: Problem) -> list[Sample]:
    """A few samples with something to compare, of the shorter half of those that are looked at."""
    looked = [trees[sample] for sample in _spread(range(len(trees)), LOOKED_AT)]
    usable = [one for one in looked if problem.head.outputs is not None or len(one.tree.targets)]
    usable.sort(key=lambda one: len(one.tree.tokens))
    return _spread(usable[: max(ROWS, (len(usable) + 1) // 2)], ROWS)


def _spread(things: Sequence[Thing], count: int) -> list[Thing]:
    """At most so many of the things, evenly, the first and the last among them."""
    if len(things) <= count:
        return list(things)
    return [things[round(n * (len(things) - 1) / (count - 1))] for n in range(count)]
