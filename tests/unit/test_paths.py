from __future__ import annotations

from pathlib import Path

import pytest

from leyden.settings.locations import folder_faults, table_path
from leyden.settings.overrides import read_overrides, with_texts
from leyden.settings.paths import user_path


def test_a_home_is_found_and_the_home_of_nobody_is_a_path_like_any(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_path("~/rows.csv") == tmp_path / "rows.csv"
    assert user_path("a/~/b") == Path("a/~/b")
    for name in ("~nobody-of-that-name/rows.csv", "~.csv"):
        assert table_path(name) == user_path(Path(name)) == Path(name)


def test_a_home_needs_no_quotes_on_a_command_line() -> None:
    words = ["dataset.train_dataframe=~/my rows.csv", "~lora", "lora.r=8", "dataset.train_dataframe='~/x.csv'"]
    quoted = with_texts(words, {})
    assert quoted[1:] == words[1:]
    (override,), faults = read_overrides(quoted[:1])
    assert (override.value(), faults) == ("~/my rows.csv", [])


def test_nothing_is_written_into_the_home_of_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (fault,) = folder_faults("~nobody-of-that-name/runs", "output_directory")
    assert "there is no user whose home ~nobody-of-that-name is" in fault
    assert not list(folder_faults("./~nobody-of-that-name/runs", "output_directory"))
