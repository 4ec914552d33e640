"""What one update takes, for so many rows of so many tokens; each training is a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
WORDS = ("the", "cat", "sat", "on", "a", "red", "mat", "and", "looked", "at", "rain", "over", "many", "small", "hills")
TINY_LENGTH = 8192  # positions of the tiny models with larger vocabularies


@dataclass(frozen=True)
class Point:
    """A training.

    Attributes:
        rows: per update.
        length: tokens of each row.
        backbone: a choice of `conf/backbone`.
        vocabulary: of two random layers in place of the backbone; 0: the backbone.
    """

    rows: int
    length: int
    backbone: str = "llama"
    vocabulary: int = 0


def points_of_updates(sizes: Sequence[int], length: int, backbone: str) -> Iterator[tuple[str, Point]]:
    """Updates of so many tokens: more rows of one length, and one row that is longer."""
    for size in sizes:
        yield "rows", Point(size // length, length, backbone)
    for size in sizes:
        yield "length", Point(1, size, backbone)


def points_of_vocabulary(sizes: Sequence[int], vocabularies: Sequence[int]) -> Iterator[tuple[str, Point]]:
    """The longest row with each vocabulary, and rows of each length with the largest one."""
    for vocabulary in vocabularies:
        yield "vocabulary", Point(1, max(sizes), "tiny", vocabulary)
    for size in sizes:
        yield "length", Point(1, size, "tiny", max(vocabularies))


def measure_apart(point: Point, updates: int, threads: int) -> dict[str, Any]:
    """`measure` in a process of its own."""
    words = [sys.executable, "-m", "benchmarks.growth_updates", json.dumps(asdict(point)), str(updates)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    run = subprocess.run(words, cwd=ROOT, env=environment, check=True, text=True, stdout=subprocess.PIPE)
    found: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return found


def measure(point: Point, updates: int, folder: Path) -> dict[str, Any]:
    """Train for some updates; what those after the first took.

    Every token of a row is a target, so the head has as much to do as it can have.

    Args:
        point: what to train.
        updates: two or more.
        folder: for tables and models.

    Returns:
        The point, its tokens per update, seconds and processor seconds (medians), and peak resident memory in MB.
    """
    from benchmarks.update_clock import Enough, UpdateClock, memory_mb
    from leyden.training.prepare import prepare
    from leyden.training.run import fit

    settings = _settings(point, updates, folder)
    material = prepare(settings)
    clock = UpdateClock(updates)
    with contextlib.suppress(Enough):
        fit(settings, material, [clock], folder)
    return {
        **asdict(point), "tokens": clock.tokens[-1], "seconds": median(clock.seconds), "cpu": median(clock.cpu),
        "peak_mb": memory_mb("VmHWM"),
    }  # fmt: skip


def _settings(point: Point, updates: int, folder: Path) -> Any:
    from leyden.settings.composition import compose_config
    from leyden.settings.read import read

    tables = {"train": point.rows * updates, "held_out": 1}
    for name, rows in tables.items():
        _write_table(folder / f"{name}.jsonl", rows, point.length)
    backbone = [f"backbone={point.backbone}"]
    if point.vocabulary:
        _write_model(folder / "model", point.vocabulary)
        backbone = ["backbone=tiny", f"backbone.name={folder / 'model'}"]
    config, faults = compose_config(
        "train",
        [
            *backbone, "dataset=table", "trainer=cpu", f"dataset.train_dataframe={folder / 'train.jsonl'}",
            "dataset.validation_strategy=custom", f"dataset.validation_dataframe={folder / 'held_out.jsonl'}",
            "dataset.prompt_column=prompt", "dataset.answer_column=answer", "dataset.mask_prompt_labels=false",
            f"tokenizer.max_length={point.length}", f"trainer.batch_size={point.rows}",
            "trainer.evaluate_before_training=false", "trainer.progress=none", "lora.r=16",
            f"output_directory={folder}", "experiment_name=growth",
        ],
        ROOT / "conf",
    )  # fmt: skip
    if faults or config is None:
        raise SystemExit("\n".join(map(str, faults)))
    return read(config)


def _write_table(path: Path, rows: int, length: int) -> None:
    """Rows of more tokens than are wanted, which the limit cuts; none begins like another."""
    draw = random.Random(f"{path.name} {length}")
    answers = [" ".join(draw.choices(WORDS, k=length)) for _ in range(rows)]
    lines = [json.dumps({"prompt": f"{row} {answer[:12]}", "answer": answer}) for row, answer in enumerate(answers)]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _write_model(folder: Path, vocabulary: int) -> None:
    from leyden.backbone.tiny import tiny_model, tiny_tokenizer

    tiny_model("llama", vocab_size=vocabulary, max_position_embeddings=TINY_LENGTH).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)


def main(words: Sequence[str]) -> None:
    """Measure a point that is given as JSON, and print what was found as JSON."""
    sys.path.insert(0, str(ROOT / "src"))
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(Point(**json.loads(words[0])), int(words[1]), Path(folder))))


if __name__ == "__main__":
    main(sys.argv[1:])
