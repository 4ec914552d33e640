"""A language model as judge of generated answers, at any endpoint that speaks OpenAI's chat completions."""

from __future__ import annotations

import logging
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from importlib.util import find_spec
from threading import Thread
from typing import Any

from leyden.problem.judge_calls import Calls, JudgeError, RowError
from leyden.problem.judge_endpoint import find_endpoint
from leyden.problem.judge_template import RANGES, Case, Template, missing_columns, read_score, read_template
from leyden.problem.judge_verdicts import Verdict, averages
from leyden.problem.metrics import Rated
from leyden.settings.errors import ConfigError

__all__ = ["Case", "Judge", "JudgeError", "Verdict", "averages"]

log = logging.getLogger(__name__)

CATEGORY = "category"
_REASONS = 3


@dataclass(frozen=True)
class Judge:
    """Scores answers by asking a model, at temperature 0; it holds no key.

    Attributes:
        model: of the endpoint.
        template: `general`, `rag`, `two_turn`, or the path of a text file.
        score_range: lowest and highest score of a template of one's own; None: what the template of Leyden has.
        base_url: of the endpoint; None: OPENAI_BASE_URL, OPENAI_API_BASE, else the public one.
        max_rows: >= 1; more rows are refused, since each costs a call at each evaluation.
        parallel_calls: >= 1; calls under way at a time.
        attempts: >= 1; how often a row is tried when the endpoint is busy or does not answer.
        timeout_seconds: > 0; how long the endpoint may be silent.
        max_failed_share: 0 to 1; with more rows without a score, the evaluation fails.
        max_tokens: >= 1; of a reply.
    """

    model: str | None
    template: str
    score_range: Sequence[float] | None
    base_url: str | None
    max_rows: int
    parallel_calls: int
    attempts: int
    timeout_seconds: float
    max_failed_share: float
    max_tokens: int

    def check(self, columns: Sequence[str], rows: int) -> list[str]:
        """Every fault that shows without a call, one sentence each.

        Args:
            columns: of the validation table.
            rows: to judge at each evaluation.
        """
        faults = [*self._knob_faults(), *self._row_faults(rows)]
        if not isinstance(self.model, str) or not self.model.strip():
            faults.append("metric.gpt.model is not set. Name a model of the endpoint; its calls may cost money.")
        if find_spec("openai") is None:
            faults.append("metric=gpt needs the package openai. Run: pip install 'leyden[judge]'")
        try:
            faults += missing_columns(read_template(self.template), self.template, columns)
        except ConfigError as error:
            faults += error.faults
        try:
            find_endpoint(self.base_url, os.environ)
        except ConfigError as error:
            faults += error.faults
        return faults

    def reach(self) -> list[str]:
        """The fault of an endpoint that takes no connection; asked once, before training, and nothing is sent."""
        endpoint = find_endpoint(self.base_url, os.environ)
        why = endpoint.unreachable()
        return [] if why is None else [
            f"metric=gpt: {endpoint.where} takes no connection ({why}). Start it, mend the address, or set another by "
            "metric.gpt.base_url."
        ]  # fmt: skip

    def review(self, cases: Sequence[Case], advance: Callable[[int], object] = lambda rows: None) -> list[Verdict]:
        """The verdict on each row, in order; rows that failed are logged and counted.

        Args:
            cases: the rows, of a table that `check` has seen.
            advance: called with the number of rows that are done, from the thread of the caller.

        Raises:
            ConfigError: too many rows, or a template or an endpoint that is not there any more.
            JudgeError: the endpoint refuses all calls, or more rows than `max_failed_share` have no score.
        """
        if faults := list(self._row_faults(len(cases))):
            raise ConfigError(faults)
        if not cases:
            return []
        template = read_template(self.template)
        texts = [self._filled(template, case, place) for place, case in enumerate(cases, start=1)]
        endpoint = find_endpoint(self.base_url, os.environ)
        calls = Calls(
            endpoint, str(self.model), attempts=self.attempts,
            max_tokens=self.max_tokens, timeout=self.timeout_seconds,
        )  # fmt: skip
        verdicts = self._asked(calls, texts, [self._category(case) for case in cases], advance)
        if calls.repeated:
            log.info("The judge's endpoint was asked again %d times for %d rows.", calls.repeated, len(cases))
        self._tell(verdicts, endpoint.where)
        return verdicts

    def __call__(
        self,
        prompt_texts: Sequence[str],
        target_texts: Sequence[str],
        predicted_texts: Sequence[str],
        rows: Sequence[Mapping[str, str]],
    ) -> Rated:
        """The mean score as a metric, with score, explanation and failure of each row for the table of predictions."""
        columns = zip(prompt_texts, target_texts, predicted_texts, rows, strict=True)
        verdicts = self.review([Case(*texts) for texts in columns])
        found = averages(verdicts)
        remarks: dict[str, Sequence[Any]] = {
            "score_gpt": [verdict.score for verdict in verdicts],
            "explanation_gpt": [verdict.explanation for verdict in verdicts],
            "failure_gpt": [verdict.failure for verdict in verdicts],
        }
        return Rated(found["gpt"], remarks, found)

    @property
    def scale(self) -> tuple[float, float]:
        """Lowest and highest score."""
        lowest, highest = RANGES[self.template] if self.score_range is None else self.score_range
        return float(lowest), float(highest)

    def _asked(
        self, calls: Calls, texts: Sequence[str], categories: Sequence[str | None], advance: Callable[[int], object]
    ) -> list[Verdict]:
        verdicts: dict[int, Verdict] = {}
        pool = ThreadPoolExecutor(min(self.parallel_calls, len(texts)), thread_name_prefix="judge")
        places = {
            pool.submit(self._verdict, calls, text, category): place
            for place, (text, category) in enumerate(zip(texts, categories, strict=True))
        }
        try:
            for future in as_completed(places):
                verdicts[places[future]] = future.result()
                advance(1)
        finally:
            calls.stopped.set()
            ending = Thread(target=_end, args=(pool, calls), name="judge-end", daemon=True)
            ending.start()
            # After an error, or an interrupt, nobody waits for calls under way; the connections close behind the last.
            if len(verdicts) == len(texts):
                ending.join()
        return [verdicts[place] for place in range(len(texts))]

    def _verdict(self, calls: Calls, text: str, category: str | None) -> Verdict:
        reply = ""
        try:
            reply = calls.ask(text)
            return Verdict(read_score(reply, *self.scale), reply, category, None)
        except (RowError, ValueError) as error:
            return Verdict(None, reply, category, str(error))

    def _filled(self, template: Template, case: Case, place: int) -> str:
        try:
            return template.fill(case)
        except Exception as error:  # a template may fail in any way on a text that the trial did not have
            raise ConfigError(
                f"metric.gpt.template={self.template!r} cannot be filled with row {place} of the evaluation: {error}. "
                "Mend the template."
            ) from error

    def _category(self, case: Case) -> str | None:
        return case.cells.get(CATEGORY) or None if self.template == "two_turn" else None

    def _tell(self, verdicts: Sequence[Verdict], where: str) -> None:
        """Log the rows without a score, or raise if they are too many."""
        failures = [(place, found.failure) for place, found in enumerate(verdicts, start=1) if found.failure]
        if not failures:
            return
        first: dict[str, int] = {}
        for place, reason in failures:
            first.setdefault(reason, place)
        counts = Counter(reason for _, reason in failures)
        shown = "; ".join(
            f"{reason} ({counts[reason]} of them, first row {first[reason]})" for reason in [*first][:_REASONS]
        )
        said = f"The judge gave no score for {len(failures)} of {len(verdicts)} rows: {shown}."
        if len(failures) == len(verdicts) or len(failures) > self.max_failed_share * len(verdicts):
            raise JudgeError(
                f"{said} Asked was {where}. metric.gpt.max_failed_share={self.max_failed_share:g} allows "
                f"{math.floor(self.max_failed_share * len(verdicts))}, and a mean needs at least one score. Mend what "
                "is wrong, or allow more."
            )
        log.warning("%s They are left out of the mean.", said)

    def _row_faults(self, rows: int) -> Iterator[str]:
        if rows > self.max_rows:
            yield (
                f"metric.gpt.max_rows={self.max_rows} is below the {rows} rows to judge, and each is a call at each "
                "evaluation. Take fewer rows for validation (dataset.validation_size), or raise it."
            )

    def _knob_faults(self) -> Iterator[str]:
        for name in ("max_rows", "parallel_calls", "attempts", "max_tokens"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                yield f"metric.gpt.{name}={value!r} must be a whole number of at least 1."
        if not _is_number(self.timeout_seconds) or self.timeout_seconds <= 0:
            yield f"metric.gpt.timeout_seconds={self.timeout_seconds!r} must be a number of seconds above 0."
        if not _is_number(self.max_failed_share) or not 0 <= self.max_failed_share <= 1:
            yield f"metric.gpt.max_failed_share={self.max_failed_share!r} must be a share from 0 to 1."
        scale, own = self.score_range, self.template not in RANGES
        if own and scale is None:
            yield (
                f"metric.gpt.score_range is not set, but metric.gpt.template={self.template!r} is your own. Set it to "
                "the lowest and the highest score that the template asks for, such as [0,1]."
            )
        if not own and scale is not None:
            yield f"metric.gpt.score_range has no effect: the template {self.template} has one. Set it to null."
        if scale is not None and not _is_range(scale):
            yield f"metric.gpt.score_range={scale!r} must be two numbers, the lower first."


def _end(pool: ThreadPoolExecutor, calls: Calls) -> None:
    pool.shutdown(wait=True, cancel_futures=True)
    calls.close()


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_range(value: Any) -> bool:
    match value:
        case [lowest, highest] if _is_number(lowest) and _is_number(highest):
            return bool(lowest < highest)
    return False
