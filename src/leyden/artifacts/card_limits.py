"""The part of a model card in plain words: what the model is for, and what it is not."""

from __future__ import annotations

from leyden.artifacts.markdown import bullets
from leyden.problem.base import Problem
from leyden.settings.schema import Settings


def limits(settings: Settings, problem: Problem) -> str:
    """What the model does, on what, and what nobody knows of it."""
    head, together = problem.head, ""
    if head.outputs is not None:
        numbers = head.problem_type == "regression"
        does = f"It reads one prompt, and gives {'numbers' if numbers else 'a probability for each class'}"
    else:
        does = "It writes answers to prompts like those it was trained on"
        together = ", prompt and answer together" if head.family == "decoder" else ""
        if settings.dataset.rejected_answer_column:
            does += ", and was taught which of two answers is called the better one"
    return bullets(
        [
            f"{does}. On other tasks, topics and languages than those of its data nothing is known of it.",
            "Its answers may be wrong, invented or hurtful, and carry on what is one-sided in its base and its data; "
            "let a person check them wherever something depends on it.",
            f"In training a sample had no more than {settings.tokenizer.max_length} tokens{together}; it has not "
            "learned to read longer ones.",
            "The results below are about rows like those that were held out, and say nothing about safety.",
            "No licence and no language is named here: the licences of the base and of the data say what is allowed.",
        ]
    )
