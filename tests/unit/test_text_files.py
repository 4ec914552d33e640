from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leyden.data.table import read_table
from leyden.settings.errors import ConfigError, DataError
from leyden.settings.locations import table_faults


def write(folder: Path, files: dict[str, str | bytes]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


@pytest.mark.parametrize("name", ["notes.txt", "notes.MD"])
def test_a_file_is_one_row_with_its_text_as_it_stands(tmp_path: Path, name: str) -> None:
    text = " a,b\r\n\n;\t日本 \u2028\x00\n"
    write(tmp_path, {name: "\ufeff" + text})
    table = read_table(tmp_path / name)
    assert (table.texts("text"), table.texts("file")) == ([text], [name])
    assert table.sha256 == hashlib.sha256(("\ufeff" + text).encode()).hexdigest()
    assert table.places([0]) == str(tmp_path / name)
    assert not table.notes
    assert not list(table_faults(str(tmp_path / name), "x"))


def test_a_folder_is_a_row_per_text_file_sorted_by_path(tmp_path: Path) -> None:
    files = {"b.txt": "3", "a/z.txt": "1", "a/b/c.md": "0", "B.TXT": "2", "a.txt": "x", "a b.txt": "y"}
    table = read_table(write(tmp_path, files))
    names = table.texts("file")
    assert names == sorted(files, key=lambda name: Path(name).parts)
    assert table.texts("text") == [files[str(name)] for name in names]
    assert list(table.frame.columns) == ["text", "file"]
    assert table.places([0]) == str(tmp_path / "B.TXT")
    assert not list(table_faults(str(tmp_path), "x"))


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {
        "a.txt": "x", "empty.txt": "", "blank.md": " \n", "bom.txt": "\ufeff", "t.csv": "q", "LICENSE": "l",
        ".hidden.txt": "h", ".git/x.txt": "h", ".git/y.txt": "h",
    }  # fmt: skip
    table = read_table(write(tmp_path, files))
    assert table.texts("file") == ["a.txt"]
    others, hidden, empty = table.notes
    assert "2 files that are no text files are left out (.csv, no ending)" in others
    assert "2 hidden files and folders" in hidden  # .git counts once, it is not entered
    assert "3 of 4 text files are empty and left out (blank.md, bom.txt, empty.txt)" in empty


def test_a_folder_below_a_hidden_one_is_no_hidden_one(tmp_path: Path) -> None:
    assert len(read_table(write(tmp_path / ".cache" / "texts", {"a.txt": "x"}))) == 1


def test_the_hash_of_a_folder_changes_with_any_file(tmp_path: Path) -> None:
    first = read_table(write(tmp_path, {"a.txt": "x", "b.txt": "y"})).sha256
    assert read_table(tmp_path).sha256 == first
    assert read_table(write(tmp_path, {"b.txt": "z"})).sha256 != first
    write(tmp_path, {"b.txt": "y"})
    (tmp_path / "b.txt").rename(tmp_path / "c.txt")
    assert read_table(tmp_path).sha256 != first


def test_links_are_followed_and_a_circle_ends(tmp_path: Path) -> None:
    root = write(tmp_path / "root", {"a.txt": "x", "sub/b.txt": "y"})
    outside = write(tmp_path / "outside", {"c.txt": "z"})
    (root / "link.txt").symlink_to(outside / "c.txt")
    (root / "far").symlink_to(outside, target_is_directory=True)
    (root / "sub" / "up").symlink_to(root, target_is_directory=True)
    assert read_table(root).texts("file") == ["a.txt", "far/c.txt", "link.txt", "sub/b.txt"]


def test_every_file_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    write(tmp_path, {f"{number}.txt": b"ok\ncaf\xe9" for number in range(7)} | {"good.txt": "x"})
    with pytest.raises(DataError) as caught:
        read_table(tmp_path, "dataset.validation_dataframe")
    first, *_, last = caught.value.faults
    assert f"dataset.validation_dataframe={tmp_path / '0.txt'} is not UTF-8 (byte 0xe9 at offset 6, line 2)" in first
    assert "2 more files" in last
    assert len(caught.value.faults) == 6
    with pytest.raises(DataError, match=r"3\.txt is not UTF-8"):
        read_table(tmp_path / "3.txt")


def test_a_folder_that_may_not_be_entered(tmp_path: Path) -> None:
    write(tmp_path, {"a.txt": "x", "closed/b.txt": "y"})
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents:
        if parent.owner() == tmp_path.owner() and "pytest" in str(parent):
            parent.chmod(0o755)
    (tmp_path / "closed").chmod(0)
    me = os.geteuid()
    if me == 0:
        os.seteuid(65534)
    try:
        with pytest.raises(DataError, match="closed cannot be read: Permission denied"):
            read_table(tmp_path)
    finally:
        os.seteuid(me)
        (tmp_path / "closed").chmod(0o755)


def test_without_text_there_is_no_table(tmp_path: Path) -> None:
    folder = write(tmp_path / "none", {"t.csv": "a\n1\n", "x.pdf": "x"})
    with pytest.raises(DataError, match=r"holds no text file \(it holds \.csv, \.pdf\).*tables one by one"):
        read_table(folder)
    (tmp_path / "bare").mkdir()
    with pytest.raises(DataError, match=r"bare holds no text file\. Give a folder of \.txt or \.md"):
        read_table(tmp_path / "bare")
    with pytest.raises(DataError, match=r"holds no text: a\.txt empty"):
        read_table(write(tmp_path / "blank", {"a.txt": "\n"}))
    with pytest.raises(DataError, match=r"holds no text: e\.txt empty"):
        read_table(write(tmp_path, {"e.txt": ""}) / "e.txt")
    with pytest.raises(ConfigError, match="No such file"):
        read_table(tmp_path / "gone.txt")
    assert "does not exist" in next(table_faults(str(tmp_path / "gone.txt"), "x"))


def test_home_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "texts", {"a.txt": "x"})
    assert read_table("~/texts").texts("text") == ["x"]
    assert not list(table_faults("~/texts", "x"))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(max_size=12) | st.text(max_size=12).map(str.encode), max_size=4))
def test_any_bytes_are_rows_or_a_fault_of_the_user(
    tmp_path_factory: pytest.TempPathFactory, contents: list[bytes]
) -> None:
    folder = write(tmp_path_factory.mktemp("f"), {f"{number}.txt": text for number, text in enumerate(contents)})
    try:
        table = read_table(folder)
    except DataError:
        return
    expected = [content.decode("utf-8").removeprefix("\ufeff") for content in contents]
    assert table.texts("text") == [text for text in expected if text.strip()]
