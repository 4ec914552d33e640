from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.integration.documented_commands import commands_of, lines_of

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CodeBlocks = Callable[..., list[str]]


@pytest.fixture(scope="session")
def code_blocks() -> CodeBlocks:
    """The code blocks of a Markdown text, in order: all of them, or those of one language."""

    def blocks(text: str, language: str | None = None) -> list[str]:
        assert text.count("\n```") % 2 == 0, "a code block is not closed"
        return [code for name, code in FENCE.findall(text) if language in (None, name)]

    return blocks


@pytest.fixture(scope="session")
def documents(project_root: Path) -> dict[str, str]:
    """Every Markdown text that a reader of the repository meets, by its path from the root."""
    files = [*project_root.glob("*.md"), *(project_root / "docs").rglob("*.md")]
    assert len(files) > 3
    return {file.relative_to(project_root).as_posix(): file.read_text(encoding="utf-8") for file in sorted(files)}


@pytest.fixture(scope="session")
def commands(documents: dict[str, str], code_blocks: CodeBlocks, project_root: Path) -> list[list[str]]:
    """Every command of the documents and notebooks that starts a program of ours, as words, in order."""
    found = commands_of(lines_of(documents, code_blocks, project_root / "notebooks"))
    assert len(found) > 60
    return found
