from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from leyden.data.cache import cache_root, cached_folder, content_key, file_key
from leyden.settings.errors import ConfigError

FILLER = """
import sys, time
from pathlib import Path
from leyden.data.cache import cached_folder

def fill(folder):
    with (Path(sys.argv[1]) / "log").open("a") as log:
        log.write("filled\\n")
    time.sleep(0.5)
    (folder / "data").write_text("whole")

print((cached_folder("kind", "key", fill) / "data").read_text())
"""


def write(text: str) -> object:
    return lambda folder: (folder / "data").write_text(text)


def test_the_folder_of_all_caches_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LEYDEN_CACHE", str(tmp_path / "mine"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_root() == tmp_path / "mine"
    monkeypatch.delenv("LEYDEN_CACHE")
    assert cache_root() == tmp_path / "xdg" / "leyden"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_root() == tmp_path / ".cache" / "leyden"


def test_a_key_depends_on_every_part_and_on_where_parts_begin(tmp_path: Path) -> None:
    keys = [content_key(*parts) for parts in [("ab", "c"), ("a", "bc"), ("abc",), ("ab", "c", None), (1,), ("1",)]]
    assert len(set(keys)) == len(keys)
    assert content_key("ab", "c") == keys[0]
    for name, content in (("a", b"x"), ("b", b"y"), ("c", b"x")):
        (tmp_path / name).write_bytes(content)
    a, b, c = (file_key(tmp_path / name) for name in "abc")
    assert a == c != b


def test_a_folder_is_filled_once_and_a_failed_filling_leaves_nothing(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "data").write_text("half")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        cached_folder("kind", "key", fail, root=tmp_path)
    assert [path.name for path in (tmp_path / "kind").iterdir() if path.is_dir()] == []
    for text in ("first", "second"):
        folder = cached_folder("kind", "key", write(text), root=tmp_path)
        assert (folder / "data").read_text() == "first"


def test_what_a_killed_process_left_is_cleared_away(tmp_path: Path) -> None:
    left = tmp_path / "kind" / ".key-abcdef"
    left.mkdir(parents=True)
    (left / "data").write_text("half")
    folder = cached_folder("kind", "key", write("whole"), root=tmp_path)
    assert [path for path in (tmp_path / "kind").iterdir() if path.is_dir()] == [folder]


def test_a_folder_that_is_not_sound_is_filled_anew(tmp_path: Path) -> None:
    folder = cached_folder("kind", "key", write("first"), root=tmp_path)
    (folder / "data").write_text("broken")
    (folder / "more").write_text("")
    found = cached_folder(
        "kind", "key", write("second"), root=tmp_path, sound=lambda folder: (folder / "data").read_text() == "first"
    )
    assert [(path.name, path.read_text()) for path in found.iterdir()] == [("data", "second")]


def test_a_cache_that_cannot_be_written_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LEYDEN_CACHE", str(tmp_path / "file"))
    with pytest.raises(ConfigError, match="LEYDEN_CACHE to a folder that can, or cache=off"):
        cached_folder("kind", "key", write("x"))


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)),
        OSError("1048576 requested and 131056 written"),  # of numpy
        RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),  # of safetensors
    ],
)
def test_a_full_disk_says_what_to_do_and_keeps_no_half(tmp_path: Path, error: Exception) -> None:
    def fail(folder: Path) -> None:
        (folder / "data").write_text("half")
        raise error

    with pytest.raises(ConfigError, match="is full.* LEYDEN_CACHE .*or cache=off") as caught:
        cached_folder("kind", "key", fail, root=tmp_path)
    assert str(tmp_path / "kind") in str(caught.value)
    assert [path for path in (tmp_path / "kind").iterdir() if path.is_dir()] == []
    assert (cached_folder("kind", "key", write("whole"), root=tmp_path) / "data").read_text() == "whole"


def test_other_faults_of_a_filling_are_left_as_they_are(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "absent" / "data").write_text("half")

    with pytest.raises(FileNotFoundError):
        cached_folder("kind", "key", fail, root=tmp_path)


def test_two_processes_fill_a_folder_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, project_root: Path) -> None:
    monkeypatch.setenv("LEYDEN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPATH", str(project_root / "src"))
    command = [sys.executable, "-c", FILLER, str(tmp_path)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate(timeout=60)[0] for process in both] == ["whole\n"] * 2
    assert (tmp_path / "log").read_text() == "filled\n"
