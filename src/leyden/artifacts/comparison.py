"""What a saved model says beside what was expected of it: the difference, what is allowed, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from leyden.artifacts.differences import difference_of, largest_of, parting, share_of
from leyden.artifacts.probe import OTHER, SAME, Answers, Probe
from leyden.settings.wording import counted

TOLERANCES = {
    # of the largest difference, as a share of the largest output, or of 1 where all outputs are smaller
    "float64": 1e-4, "float32": 1e-4,  # sums in another order
    "float16": 1e-2, "bfloat16": 3e-2,  # a few units in the last place of 11 and 8 bits
    "int8": 5e-2, "int4": 5e-2,  # inputs are rounded too, and by what stands beside them in a batch
    "q8_0": 5e-2,  # each weight to 8 bits of the largest of its 32
}  # fmt: skip
MISSED = 0.25  # of what the training has changed, may be missing or too much
UNCERTAIN = 0.1  # of it: with more rounding than that, nothing is said
LEAST = 1 / 8  # of the tolerance: a smaller change may itself be rounding


@dataclass(frozen=True)
class Saved:
    """A model folder, and how it is loaded.

    Attributes:
        name: of its part of the record.
        folder: of the model.
        auto_class: name of the library's class.
        head: whether it has one; then the outputs of the head are compared.
        dtype: in which its outputs were computed: of the weights, or `int8`, `int4`.
        base: folder or hub id of what an adapter lies on; None for a whole model.
        revision: of the base on the hub.
        compute: type that the base of an adapter is loaded in.
        quantization: how the base is quantised; None: not at all.
        gguf: name of the one file that holds it; then its weights are compared, and no tokens.
    """

    name: str
    folder: Path
    auto_class: str
    head: bool
    dtype: str
    base: str | None = None
    revision: str | None = None
    compute: str = "float32"
    quantization: Mapping[str, Any] | None = None
    gguf: str | None = None

    @property
    def tolerance(self) -> float:
        """Largest difference that is rounding."""
        return TOLERANCES[self.dtype]

    def request(self) -> dict[str, Any]:
        """What the fresh process is told."""
        told = {key: value for key, value in asdict(self).items() if key != "compute"}
        return {**told, "folder": str(self.folder.absolute()), "dtype": self.compute}


@dataclass(frozen=True)
class Verification:
    """How a saved model compares with the run's own.

    Attributes:
        folder: of the model.
        max_logit_difference: of all outputs.
        largest_logit: of the run's model.
        tolerance: largest difference that is rounding, as a share of the largest output or of 1.
        share_of_training: of what the adapter changes of the outputs; None for a whole model, or where it changes no
            more than rounding does.
        share_uncertain: by how much rounding may have moved that.
        has_base: whether there is a base without the adapter to compare with.
        rows: whose outputs were compared.
        conversations: whose tokens were compared.
        tokens_compared: of all conversations.
        rows_different: conversations of which the saved tokenizer or template makes something else.
        first_difference: where, and what it makes of the first of them; empty without one.
        rows_joined: conversations whose texts are tokenised differently once they are joined; the text is the same.
        prompts_different: conversations whose generation prompt differs from the one that was trained.
        left_out: conversations that no template can write, by the reason.
    """

    folder: str
    max_logit_difference: float
    largest_logit: float
    tolerance: float
    share_of_training: float | None
    share_uncertain: float | None
    has_base: bool
    rows: int
    conversations: int
    tokens_compared: int
    rows_different: int
    first_difference: str
    rows_joined: int
    prompts_different: int
    left_out: Mapping[str, int]

    @property
    def allowed(self) -> float:
        """Largest difference that is allowed."""
        return self.tolerance * max(1.0, self.largest_logit)

    @property
    def is_told_from_base(self) -> bool:
        """Whether rounding leaves a difference between what was trained and the base."""
        return self.share_uncertain is not None and self.share_uncertain <= UNCERTAIN

    def faults(self) -> list[str]:
        """What is not as it was trained."""
        kept = "The folder is kept for inspection; do not use it before you know why."
        found = []
        if not self.rows:
            found.append(f"{self.folder}: no row has an output to compare, so nothing is known of its weights. {kept}")
        if not self.max_logit_difference <= self.allowed:
            found.append(
                f"{self.folder}: loaded in a fresh process, its outputs differ from those of the trained model by "
                f"{self.max_logit_difference:.3g}, and {self.allowed:.3g} is allowed ({self.tolerance:g} of the "
                f"largest output, {self.largest_logit:.3g}). {kept}"
            )
        share = self.share_of_training
        if share is not None and self.is_told_from_base and not abs(share - 1) <= MISSED:
            found.append(
                f"{self.folder}: loaded in a fresh process, its outputs have {round(100 * share)} % of what the "
                f"training has changed of those of the base; 100 % is expected, and {100 * MISSED:.0f} % may be "
                f"missing or too much. {kept}"
            )
        if self.rows_different:
            found.append(
                f"{self.folder}: of {counted(self.conversations, 'conversations')} its tokenizer and chat template "
                f"write {self.rows_different} with other tokens than those that were trained. The first: "
                f"{self.first_difference}. {kept}"
            )
        return found

    def _same_tokens(self) -> str:
        if not self.conversations:
            return "; no tokens were compared."
        same = self.conversations - self.rows_joined
        of = (
            f"{same:,} of {counted(self.conversations, 'conversations')}"
            if self.rows_joined
            else counted(same, "conversations")
        )
        return f"; {of} of the training have the same tokens through its tokenizer and chat template."

    def sentences(self) -> list[str]:
        """What was compared, for the terminal."""
        lines = [
            f"{self.folder}, loaded in a fresh process without Leyden: the largest difference of its outputs on "
            f"{counted(self.rows, 'rows')} is {self.max_logit_difference:.2g} (allowed: {self.allowed:.2g})"
            + self._same_tokens()
            if not self.rows_different
            else f"{self.folder}, loaded in a fresh process without Leyden, differs from the trained model."
        ]
        if self.has_base and not self.is_told_from_base and self.max_logit_difference <= self.allowed:
            lines.append(
                "What the training has changed of these outputs is no more than rounding: by them the model cannot be "
                "told from its base."
            )
        if self.rows_joined:
            lines.append(
                f"Of {counted(self.rows_joined, 'conversations')} the tokens where texts meet are others, once they "
                "are written as one text; the text is the same. Leyden tokenises texts apart."
            )
        if self.prompts_different:
            lines.append(
                f"{self.prompts_different} of their prompts are another one with add_generation_prompt=True than the "
                "one that was trained."
            )
        lines += [f"{count} conversations {why} were not compared." for why, count in self.left_out.items()]
        return lines


def compare(
    saved: Saved, probe: Probe, expected: Answers, outputs: Sequence[Tensor], said: Mapping[str, Any]
) -> Verification:
    """Hold what a fresh process says of a model against what was expected.

    Args:
        saved: the model.
        probe: of the run.
        expected: of each row.
        outputs: those of the fresh process.
        said: `tokens`, `texts` and `prompts` of the conversations there.
    """
    differences = [difference_of(one, other) for one, other in zip(outputs, expected.outputs, strict=True)]
    share = share_of(outputs, expected, LEAST * saved.tolerance)
    conversations = [] if saved.gguf else probe.conversations
    joined = prompts = 0
    different: list[str] = []
    for one, tokens, text, prompt in zip(conversations, said["tokens"], said["texts"], said["prompts"], strict=True):
        if tokens != (one["ids"] if one["again"] is None else one["again"]) or one["kind"] == OTHER:
            different.append(f"{one['place']}: {parting(one, tokens, text)}")
        joined += one["kind"] not in (SAME, OTHER)
        prompts += one["kind"] == SAME and prompt is not None and prompt != one["ids"][: one["prompt"]]
    return Verification(
        folder=str(saved.folder),
        max_logit_difference=max(differences, default=0.0),
        largest_logit=max(map(largest_of, expected.outputs), default=0.0),
        tolerance=saved.tolerance,
        share_of_training=None if share is None else share.found,
        share_uncertain=None if share is None else share.uncertain,
        has_base=bool(expected.bases),
        rows=sum(bool(one.numel()) for one in expected.outputs),
        conversations=len(conversations),
        tokens_compared=sum(map(len, said["tokens"])),
        rows_different=len(different),
        first_difference=next(iter(different), ""),
        rows_joined=joined,
        prompts_different=prompts,
        left_out={} if saved.gguf else probe.left_out,
    )
