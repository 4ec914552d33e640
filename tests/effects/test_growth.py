"""What the way to the first update costs: memory per row, and what a second start need not do again."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from tests.effects.small_runs import settings_of

from leyden.data import csv_files, texts
from leyden.data.dataset import TreeDataset
from leyden.data.integers import Integers, Places, Ragged
from leyden.data.longest_prompt import longest_prompt
from leyden.data.overlap import overlap
from leyden.data.rows import read_parts
from leyden.data.texts import Texts
from leyden.settings.schema import Settings
from leyden.training import earlier_starts
from leyden.training.prepare import Material, prepare

CHAIN = ("dataset.parent_id_column=parent", "dataset.id_column=id")


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("LEYDEN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How many tables were read and how many trees were built."""
    done = {"tables": 0, "trees": 0}

    def counted(name: str, step: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            done[name] += 1
            return step(*args, **kwargs)

        return run

    monkeypatch.setattr(earlier_starts, "read_parts", counted("tables", earlier_starts.read_parts))
    monkeypatch.setattr(TreeDataset, "tree", counted("trees", TreeDataset.tree))
    return done


def talks(size: int) -> dict[str, list[str]]:
    """Conversations of two turns; the last one is the first one again."""
    return {
        "id": [f"{row}" for row in range(size)],
        "parent": [f"{row - 1}" if row % 2 else "" for row in range(size)],
        "p": [f"question {row % (size - 2)} " * (1 + row % (size - 2) % 3) for row in range(size)],
        "a": [f"answer {row % (size - 2) % 9}" for row in range(size)],
    }


def small(folder: Path, *overrides: str) -> Settings:
    return settings_of(
        folder, talks(20), *CHAIN, "tokenizer.max_length=96", "dataset.validation_size=0.2", *overrides, same_rows=False
    )


def told(material: Material) -> tuple[Any, ...]:
    """All that a start says about its rows."""
    parts = material.train, material.validation
    trees = [[part.trees[number].tree.tokens.tolist() for number in range(len(part.trees))] for part in parts]
    sources = [part.trees.part.source for part in parts]
    return (
        material.counts, material.warnings, trees, [list(part.fit.lengths) for part in parts],
        [part.fit.cut for part in parts], [list(part.trees.part.samples) for part in parts],
        [{role: list(texts) for role, texts in source.texts.items()} for source in sources],
        [{role: list(rows) for role, rows in source.missing.items()} for source in sources],
        [(source.table.places([0, 3]), source.table.sha256) for source in sources],
        [source.table.rows([0, 1]).to_dict("records") for source in sources],
    )  # fmt: skip


def test_a_second_start_reads_no_table_and_builds_no_tree(tmp_path: Path, work: dict[str, int]) -> None:
    settings = small(tmp_path)
    first = prepare(settings)
    assert work == {"tables": 1, "trees": 10}
    second = prepare(settings)
    assert work == {"tables": 1, "trees": 10}
    assert set(second.seconds) == {
        "read tables (from the cache)", "load tokenizer", "tokenize (from the cache)", "count tokens (from the cache)",
    }  # fmt: skip
    assert told(second) == told(first)
    assert first.counts["train"]["samples that lost turns"] > 0
    assert any("repeat" in warning or "stand in training" in warning for warning in first.warnings)


def test_without_the_cache_nothing_is_found_and_the_same_comes_out(tmp_path: Path, work: dict[str, int]) -> None:
    kept = told(prepare(small(tmp_path)))
    assert told(prepare(small(tmp_path, "cache=off"))) == kept
    assert work["tables"] == 2


@pytest.mark.parametrize(
    ("change", "again"),
    [
        ("dataset.split_seed=5", {"tables": 1, "trees": 10}),
        ("dataset.limit_chained_samples=false", {"tables": 1, "trees": 20}),
        ("tokenizer.max_length=80", {"tables": 0, "trees": 10}),
        ("dataset.add_eos_token_to_prompt=false", {"tables": 0, "trees": 10}),
        ("dataset.mask_prompt_labels=false", {"tables": 0, "trees": 10}),
        ("dataset.group_conversations=false", {"tables": 0, "trees": 0}),
        ("seed=3", {"tables": 0, "trees": 0}),
    ],
)
def test_a_change_of_a_setting_is_made_anew(
    tmp_path: Path, work: dict[str, int], change: str, again: dict[str, int]
) -> None:
    prepare(small(tmp_path))
    before = dict(work)
    material = prepare(small(tmp_path, change))
    assert {name: work[name] - before[name] for name in work} == again
    assert told(material) == told(prepare(small(tmp_path, change, "cache=off")))


def test_a_change_of_the_table_or_of_the_code_is_made_anew(
    tmp_path: Path, work: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = small(tmp_path)
    prepare(settings)
    table = Path(str(settings.dataset.train_dataframe))
    table.write_text(table.read_text(encoding="utf-8").replace("answer 5", "answer 8"), encoding="utf-8")
    found = prepare(settings).train.trees.part.source.texts["answer"]
    assert (work["tables"], "answer 8" in found, "answer 5" in found) == (2, True, False)
    monkeypatch.setattr(earlier_starts, "_source_key", lambda file: "another version")
    prepare(settings)
    assert work == {"tables": 3, "trees": 30}


@pytest.mark.parametrize("damage", [lambda content: content[:-1] + bytes([content[-1] ^ 1]), lambda content: b""])
@pytest.mark.parametrize("name", ["object.pickle", "arrays.bin", "index.json"])
@pytest.mark.parametrize("kind", ["tables", "fits"])
def test_a_damaged_cache_is_made_anew(
    tmp_path: Path, cache: Path, work: dict[str, int], kind: str, name: str, damage: Callable[[bytes], bytes]
) -> None:
    settings = small(tmp_path)
    sound = told(prepare(settings))
    work.update(tables=0, trees=0)
    for file in cache.glob(f"{kind}/*/{name}"):
        content = file.read_bytes()
        file.unlink()  # what is mapped into memory stays as it is
        file.write_bytes(damage(content))
    assert told(prepare(settings)) == sound
    assert work[kind if kind == "tables" else "trees"] > 0


@pytest.mark.parametrize("chained", [False, True])
def test_python_objects_do_not_grow_with_the_texts(
    tmp_path: Path, chained: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row costs some numbers; its texts, which stand in Arrow's memory, cost what they take in the file."""
    for module in (csv_files, texts):
        monkeypatch.setattr(module, "BLOCK", 200)
    base = small(tmp_path).dataset
    dataset = base if chained else base.model_copy(update={"parent_id_column": None})

    def cost(rows: int) -> tuple[int, int, int]:
        path, columns = tmp_path / f"{rows}.csv", {**talks(rows), "more": ["x" * 300] * rows}
        lines = [",".join(cells) for cells in zip(*columns.values(), strict=True)]
        path.write_text("\n".join([",".join(columns), *lines]), encoding="utf-8")
        before = pa.total_allocated_bytes()
        tracemalloc.start()
        parts = read_parts(dataset.model_copy(update={"train_dataframe": str(path)}))
        overlap(*parts)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak, pa.total_allocated_bytes() - before, path.stat().st_size

    few, many = cost(1000), cost(5000)
    assert (many[0] - few[0]) / 4000 < 400  # bytes
    assert many[1] < 2 * many[2]


@pytest.mark.parametrize("length", ["64", "96", "512"])
@pytest.mark.parametrize("more", ["dataset.system_column=p", "dataset.limit_chained_samples=false"])
def test_the_longest_prompt_is_found_without_writing_out_all(tmp_path: Path, length: str, more: str) -> None:
    trees = prepare(small(tmp_path, f"tokenizer.max_length={length}", more)).train.trees
    prompts = [len(trees.conversation(sample, answered=False).history) for sample in range(len(trees))]
    assert longest_prompt(trees) == max(prompts) > 0


def test_arrays_read_as_the_lists_they_equal() -> None:
    numbers, ragged, places = Integers([3, 1, 2]), Ragged.of([(1,), (2, 3), ()]), Places([None, 0, 2])
    assert (numbers, numbers + [5], numbers[1:], numbers[-1]) == ([3, 1, 2], (3, 1, 2, 5), [1, 2], 2)
    assert (list(ragged), ragged[-2], ragged[:1], len(ragged)) == ([(1,), (2, 3), ()], (2, 3), [(1,)], 3)
    assert (places, places[0], places[1], places.array.tolist()) == ([None, 0, 2], None, 0, [-1, 0, 2])
    assert np.asarray(numbers).tolist() == [3, 1, 2]
    assert numbers != [3, 1]
    assert ragged != [(1,), (2, 3)]
    with pytest.raises(IndexError):
        ragged[3]


def test_texts_read_as_the_list_they_equal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts, "BLOCK", 2)
    given = ["a", None, "", " 質 ", "b"]
    column: Texts[Any] = Texts.of(iter(given))
    assert (column, len(column), column[1], column[-2], column[1:3]) == (given, 5, None, " 質 ", [None, ""])
    assert column.empty().tolist() == [1, 2]
    filled = column.filled()
    assert filled == ["a", "", "", " 質 ", "b"]
    assert filled.trimmed(" ", "") == ["a", "", "", "質 ", "b"]
    assert filled.digest() == Texts.of(list(filled)).digest() == Texts(pa.chunked_array([filled.array])).digest()
    assert filled.digest() != Texts.of(["a", "", " 質 ", "", "b"]).digest()
    assert Texts(filled.array[2:]).digest() == Texts.of(list(filled)[2:]).digest()
