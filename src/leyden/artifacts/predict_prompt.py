"""One prompt, one prediction: it alone goes to standard output, everything else to standard error."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping, Sequence

from leyden.artifacts.opened import Opened
from leyden.artifacts.predictor import evaluate
from leyden.artifacts.printable import printable
from leyden.backbone.generate import check_room, generate_texts
from leyden.data.dialogue import dialogue_part, remarks
from leyden.data.tokenization import encode
from leyden.problem.base import Cell
from leyden.settings.errors import ConfigError
from leyden.training.progress import Silence

log = logging.getLogger(__name__)


def predict_prompt(opened: Opened, prompt: str, system: str | None) -> None:
    """Print the prediction: the answer, or the class and the probability of each, or the number.

    A model that was trained on texts without prompts goes on with the text.

    Args:
        opened: the model.
        prompt: as it was typed.
        system: text in front of it; None: none.
    """
    settings, problem = opened.settings, opened.problem
    if problem.targets == "text" and not settings.dataset.prompt_columns:
        found = _continued(opened, prompt)
    else:
        trees = opened.trees(dialogue_part(settings.dataset, [prompt], [], system), cache=False)
        for remark in remarks(trees, opened.tokenizer):
            log.warning("%s", remark)
        predictor = opened.load(scores=False)
        if problem.targets == "text":
            _warn(opened.room(predictor, trees))
            found = opened.answerer(predictor, trees).generate([0])[0]
        else:
            evaluation = evaluate(predictor, trees, problem, 1, Silence())
            assert evaluation is not None
            found = "\n".join(prediction_lines(problem.tabulate(evaluation.columns)))
    print(printable(found) if sys.stdout.isatty() else found)


def prediction_lines(table: Mapping[str, Sequence[Cell]]) -> Iterator[str]:
    """The one row of a table of predictions as lines: what is predicted, then each probability, the largest first.

    A prediction of a kind of its own stands alone; of several, each has its name and a tab in front.
    """
    found = {name: cells[0] for name, cells in table.items() if name.startswith("prediction")}
    for name, cell in found.items():
        yield str(cell) if len(found) == 1 else f"{name.removeprefix('prediction_')}\t{cell}"
    chances = {name.removeprefix("probability_"): cells[0] for name, cells in table.items()
               if name.startswith("probability_")}  # fmt: skip
    for name, chance in sorted(chances.items(), key=lambda item: -float(item[1] or 0)):
        yield f"{name}\t{chance}"


def _continued(opened: Opened, text: str) -> str:
    """What follows a text, for a model of texts that have no prompts and so no frames."""
    data, limit = opened.settings.dataset, opened.settings.tokenizer.max_length
    if data.parent_id_column is not None or data.system_column is not None:
        raise ConfigError("prompt: the run was trained without dataset.prompt_column, so there is nothing to ask it.")
    part = dialogue_part(data, [text], [], None)
    written = opened.template.as_written({"answer": list(part.source.texts["prompt"])})["answer"]
    (ids,) = encode(opened.tokenizer, list(written))
    if len(ids) > limit:
        log.warning("prompt: the first %d of its %d tokens are left out (tokenizer.max_length=%d).",
                    len(ids) - limit, len(ids), limit)  # fmt: skip
    ids, predictor = ids[-limit:], opened.load(scores=False)
    answerer = opened.answerer(predictor, opened.trees(part, cache=False))
    _warn(check_room(predictor.model, max(1, len(ids)), answerer.settings))
    (found,) = generate_texts(
        predictor.model, opened.tokenizer, [ids], answerer.settings, answerer.stops, batch_size=1,
        seed=answerer.seed,
    )  # fmt: skip
    return found


def _warn(warning: str | None) -> None:
    if warning is not None:
        log.warning("%s", warning)
