"""How ranks agree before they train, each in a thread, over torch's own store."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from torch.distributed import HashStore

from leyden.settings.errors import DataError, TrainingError
from leyden.training import launch
from leyden.training.launch import Ended, Meeting


def together(*sides: Callable[[Meeting], Any]) -> list[Any]:
    """What each rank's side returns, or the error it ends with."""
    store = HashStore()
    store.set_timeout(timedelta(seconds=20))

    def run(rank: int) -> Any:
        try:
            return sides[rank](Meeting(store, rank, len(sides)))
        except (Ended, TrainingError, DataError) as error:
            return error

    with ThreadPoolExecutor(len(sides)) as pool:
        return list(pool.map(run, range(len(sides))))


def lead(meeting: Meeting) -> str:
    meeting.share("seed: 7", -1)
    meeting.gather()
    meeting.start()
    return "trains"


def follow(meeting: Meeting) -> Any:
    said = meeting.settings()
    meeting.ready()
    return said


def test_later_ranks_train_with_what_rank_0_has_settled() -> None:
    assert together(lead, follow, follow) == ["trains", ("seed: 7", -1, None), ("seed: 7", -1, None)]


def test_a_rank_that_cannot_prepare_ends_all_and_rank_0_says_where() -> None:
    def fail(meeting: Meeting) -> None:
        meeting.settings()
        meeting.ready(DataError("rows.csv does not exist"))

    def lead_and_end(meeting: Meeting) -> Any:
        try:
            return lead(meeting)
        except TrainingError as error:
            meeting.end(2)
            return error

    def follow_and_leave(meeting: Meeting) -> Any:
        try:
            return follow(meeting)
        finally:
            meeting.leave()

    def fail_and_leave(meeting: Meeting) -> Any:
        try:
            return fail(meeting)
        finally:
            meeting.leave()

    first, second, third = together(lead_and_end, follow_and_leave, fail_and_leave)
    assert [fault.partition(" on ")[0] for fault in first.faults] == ["rank 2"]
    assert first.faults[0].endswith(": rows.csv does not exist")
    assert (second.code, third.code) == (2, 2)


@pytest.mark.parametrize("shared", [False, True])
def test_a_fault_of_rank_0_ends_the_others_with_its_code(shared: bool) -> None:
    def end(meeting: Meeting) -> None:
        if shared:
            meeting.share("seed: 7", 7)
        meeting.end(2)

    def follow_and_leave(meeting: Meeting) -> Any:
        try:
            return follow(meeting)
        except Ended as ended:
            assert meeting.is_over()
            return ended.code
        finally:
            meeting.leave()

    assert together(end, follow_and_leave) == [None, 2]


def test_a_fault_of_one_later_rank_is_told_by_that_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "LEAVING", timedelta(milliseconds=50))
    assert together(lead, lambda meeting: (follow(meeting), meeting.is_over())[1]) == ["trains", False]


def test_silence_is_an_error_and_not_a_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "PATIENCE", timedelta(milliseconds=50))
    assert "No word (settings)" in str(together(lambda meeting: None, follow)[1])
