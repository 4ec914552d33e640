"""The benchmark at tiny scale: the arms do the same work, unequal work is found, the table is made."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from subprocess import CompletedProcess
from types import SimpleNamespace

import pytest
import torch
from benchmarks.agreement import Disagreement, check_agreement
from benchmarks.cases import CASES, overrides
from benchmarks.clock import STARTED
from benchmarks.export_work import export
from benchmarks.flops import counts_of, useful_flops
from benchmarks.leyden_arm import read_run
from benchmarks.machine import describe
from benchmarks.options import OptionError, Options, read_options
from benchmarks.peers import load_adapted, run_peer
from benchmarks.report import END, START, markdown, put_into, ratio, summary
from benchmarks.result import Result, read_result, write_result
from benchmarks.rounds import CaseRun
from benchmarks.tables import write_tables
from benchmarks.work import Work, read_work
from torch.utils.flop_counter import FlopCounterMode

Cli = Callable[..., "CompletedProcess[str]"]
NOWHERE = Path("no-public-tables")
trl = pytest.mark.skipif(find_spec("trl") is None, reason="TRL is not installed: pip install -e '.[benchmark]'")


@pytest.fixture(scope="module", autouse=True)
def started() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(STARTED, str(time.time()))
        yield


def exported(name: str, folder: Path, scale: float) -> tuple[Work, list[str]]:
    case = CASES[name]
    tables, columns = write_tables(case, NOWHERE, folder / "tables", scale)
    settings = overrides(case, tables, columns, "tiny", folder / "run")
    return export(settings, folder), settings


@pytest.fixture(scope="module")
def sft(tmp_path_factory: pytest.TempPathFactory, run_here: Cli) -> SimpleNamespace:
    """Eight rows in two updates, by Leyden and by the plain Trainer."""
    folder = tmp_path_factory.mktemp("sft")
    work, settings = exported("sft", folder, 0.25)
    begun = time.time()
    done = run_here(["train.py", *settings])
    assert done.returncode == 0, done.stderr
    return SimpleNamespace(
        folder=folder, work=work, leyden=read_run(folder / "run", begun), trainer=run_peer(work, "trainer")
    )


def test_leyden_and_the_plain_trainer_agree_update_by_update(sft: SimpleNamespace) -> None:
    assert sft.work.updates == len(sft.trainer.losses) == len(sft.leyden.losses) == 2
    assert sft.leyden.losses[0] != sft.leyden.losses[1]
    assert check_agreement([sft.leyden, sft.trainer], "float32", "tokens") < 1e-5


def test_another_rate_is_found(sft: SimpleNamespace) -> None:
    other = run_peer(replace(sft.work, learning_rate=2e-4), "trainer")
    with pytest.raises(Disagreement, match=r"Update 2: leyden has a loss of .*, trainer of .*No times"):
        check_agreement([sft.leyden, other], "float32", "tokens")


def test_a_missing_update_is_found(sft: SimpleNamespace) -> None:
    with pytest.raises(Disagreement, match="Update 2"):
        check_agreement([sft.leyden, replace(sft.trainer, losses=sft.trainer.losses[:1])], "float32", "tokens")


def test_every_arm_measures_itself(sft: SimpleNamespace) -> None:
    manifest = json.loads((sft.folder / "run" / "manifest.json").read_text(encoding="utf-8"))
    for result in (sft.leyden, sft.trainer):
        assert len(result.update_seconds) == 2
        assert 0 < sum(result.update_seconds) <= result.loop_seconds < 60
        assert 0.05 < result.peak_gib < 100
        assert result.threads == torch.get_num_threads()
    assert sum(sft.leyden.update_seconds) == pytest.approx(manifest["seconds"]["train alone"], abs=2e-3)
    assert 0 < sft.leyden.start_seconds < 240
    path = sft.folder / "result.json"
    write_result(sft.trainer, path)
    assert read_result(path) == sft.trainer
    assert read_work(sft.folder / "work.json") == sft.work


@trl
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize("name", ["sft", "dpo"])
def test_trl_agrees(name: str, tmp_path: Path, run_here: Cli) -> None:
    work, settings = exported(name, tmp_path, 0.5)
    begun = time.time()
    assert run_here(["train.py", *settings]).returncode == 0
    found = run_peer(work, "trl")
    assert (found.reference_seconds > 0) is (name == "dpo")
    assert check_agreement([read_run(tmp_path / "run", begun), found], "float32", work.kind) < 1e-3


@pytest.mark.parametrize("name", ["dpo", "chained", "classification"])
def test_a_case_gives_the_peers_what_leyden_trains_on(name: str, tmp_path: Path) -> None:
    work, _ = exported(name, tmp_path, 0.5)
    assert len(work.epochs) == CASES[name].epochs
    for epoch in work.epochs:
        assert sorted(place for update in epoch for place in update) == list(range(len(work.samples)))
    counts = counts_of(work)
    if name == "dpo":
        assert counts.tokens == work.row_tokens()  # a prompt once per pair in both
        # the last token of a prompt scores the first of both answers
        assert counts.labelled == sum(len(sample["chosen"]) + len(sample["rejected"]) - 1 for sample in work)
    if name == "chained":
        lengths = [len(sample["input_ids"]) for sample in work]
        assert work.row_tokens() == sum(lengths) > counts.tokens
        paths = [sample["input_ids"] for sample in work.samples]
        assert max(sum(path[: len(other)] == other for other in paths) for path in paths) >= 3, "no row has ancestors"
    if name == "classification":
        assert {tuple(sample["label"]) for sample in work.samples} == {(0.0,), (1.0,)}
        assert counts.pairs == sum(len(s["input_ids"]) * (len(s["input_ids"]) + 1) // 2 for s in work)


def test_operations_are_those_that_torch_counts(sft: SimpleNamespace) -> None:
    """A sample whose every token is a label, where torch does nothing that is not useful but half of the attention."""
    ids = sft.work.samples[0]["input_ids"][:32]
    one = replace(sft.work, samples=[{"input_ids": ids, "labels": ids}], epochs=[[[0]]])
    model, batch = load_adapted(one), torch.tensor([ids])
    model.set_attn_implementation("eager")
    with FlopCounterMode(display=False) as counter:
        model(input_ids=batch, labels=batch).loss.backward()
    counts = counts_of(one)
    assert (counts.tokens, counts.pairs, counts.labelled) == (32, 32 * 33 // 2, 31)
    square = 12 * one.shape.attended * (32 * 32 - counts.pairs)
    assert useful_flops(one.shape, counts) + square == pytest.approx(counter.get_total_flops(), rel=0.06)


def result(arm: str, seconds: float, peak: float) -> Result:
    return Result(arm, [1.0], [seconds], seconds, 0.0, 5.0, peak, 2)


def test_the_ratio_is_against_the_best_peer_of_each_kind(sft: SimpleNamespace) -> None:
    results = {
        "trl": [result("trl", 4.0, 9.0), result("trl", 6.0, 9.0), result("trl", 5.0, 9.0)],
        "trainer": [result("trainer", 8.0, 3.0)] * 3,
        "leyden": [result("leyden", 2.0, 1.5), result("leyden", 2.0, 1.5), result("leyden", 2.0, 1.5)],
    }
    run = CaseRun(CASES["sft"], sft.work, results, rates=[1e11] * 3)
    time_ratio, memory = ratio(run, lambda one: one.seconds), ratio(run, lambda one: one.peak_gib)
    assert time_ratio is not None
    assert memory is not None
    assert (time_ratio[0], time_ratio[1].median) == ("trl", 0.4)
    assert (time_ratio[1].least, time_ratio[1].largest) == (2 / 6, 0.5)
    assert (memory[0], memory[1].median) == ("trainer", 0.5)


def test_the_table_is_made_and_put_into_the_page(sft: SimpleNamespace, tmp_path: Path, project_root: Path) -> None:
    results = {"trainer": [sft.trainer] * 2, "leyden": [sft.leyden] * 2}
    run = CaseRun(CASES["sft"], sft.work, results, rates=[1e11, 2e11], gap=1e-6, cold=33.0)
    tables = markdown([run], describe(), Options(rounds=2, backbone="tiny", data=NOWHERE), "2026-01-01")
    rows = [line.split(" | ") for line in tables.splitlines() if line.startswith("| sft")]
    assert [row[2] for row in rows[:2]] == ["Trainer", "Leyden"]
    assert rows[2][1] == "Trainer"
    assert "150 (100-200) GFLOP/s in float32" in tables
    assert "empty cache: 33.0 s" in tables
    found = json.loads(json.dumps(summary(run)))
    assert found["time_ratio"]["median"] == pytest.approx(sft.leyden.seconds / sft.trainer.seconds)
    page = tmp_path / "page.md"
    page.write_text((project_root / "docs" / "benchmarks.md").read_text(encoding="utf-8"), encoding="utf-8")
    put_into(page, tables)
    text = page.read_text(encoding="utf-8")
    assert text.count(START) == text.count(END) == 1
    assert tables in text
    put_into(page, "other\n")
    assert tables not in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["case=sfd"], r"case=sfd is not allowed. Allowed: sft, dpo,"),
        (["runs=3"], r"'runs=3' is no option. .* rounds"),
        (["rounds=many"], "rounds=many is not a number"),
        (["rounds=0", "arm=leyden"], "each must be above 0"),
    ],
)
def test_wrong_options_say_what_is_allowed(words: list[str], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        read_options(words)


def test_options_are_read() -> None:
    found = read_options(["case=sft,dpo", "arm=leyden,trainer", "rounds=1", "scale=0.5", "cold=false"])
    assert (found.case, found.arm, found.rounds) == (("sft", "dpo"), ("leyden", "trainer"), 1)
    assert (found.scale, found.cold) == (0.5, False)
