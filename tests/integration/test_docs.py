"""The documents against the code: the drawn tree, the examples of how to extend, the papers."""

from __future__ import annotations

import json
import math
import re
import shlex
import shutil
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra._internal.utils import get_args_parser
from tests.effects.small_runs import without_pages

from leyden.artifacts.job import run_job
from leyden.backbone.segments import visible
from leyden.problem import losses
from leyden.problem.scores import AnswerScores, Pair
from leyden.settings.command import Entry, check_command
from leyden.settings.composition import compose_config
from leyden.settings.overrides import read_overrides, variants
from leyden.settings.read import read
from leyden.settings.schema import Settings

Blocks = Callable[..., list[str]]
TINY = [
    "backbone=tiny", "dataset.data_sample=0.05", "tokenizer.max_length=256", "generation.max_length_inference=4",
    "trainer.progress=none", "experiment_name=run", "checkpoint.verify=false", "trainer.evaluate_before_training=false",
]  # fmt: skip


@pytest.fixture(scope="module")
def architecture(documents: dict[str, str]) -> str:
    return documents["docs/architecture.md"]


@pytest.fixture
def extended(
    architecture: str, code_blocks: Blocks, project_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """The examples put where their first line says; gives the folder of settings that has them."""
    conf = tmp_path / "conf"
    shutil.copytree(project_root / "conf", conf)
    files = {}
    for block in code_blocks(architecture):
        first, _, rest = block.partition("\n")
        if re.fullmatch(r"# (conf|src)/\S+", first):
            files[first.removeprefix("# ")] = rest
    assert len(files) == 7
    for name, text in files.items():
        if name.startswith("conf/"):
            assert not (project_root / name).exists(), f"{name} is no longer an example"
            (tmp_path / name).write_text(text, encoding="utf-8")
            continue
        module = name.removeprefix("src/").removesuffix(".py").replace("/", ".")
        if (project_root / name).is_file():
            there = import_module(module)
            namespace = dict(vars(there))
            exec(compile(text, name, "exec"), namespace)
            (function,) = re.findall(r"^def (\w+)", text, re.MULTILINE)
            assert not hasattr(there, function), f"{function} is no longer an example"
            monkeypatch.setattr(there, function, namespace[function], raising=False)
        else:
            new = ModuleType(module)
            monkeypatch.setitem(sys.modules, module, new)
            exec(compile(text, name, "exec"), vars(new))
    return conf


def train(conf: Path, folder: Path, *overrides: str) -> dict[str, float]:
    config, faults = compose_config("train", [*TINY, f"output_directory={folder}", *overrides], conf)
    assert config is not None
    assert not faults
    with without_pages():
        run_job(read(config))
    final: dict[str, float] = json.loads((folder / "run" / "results.json").read_text())["final"]
    return final


def test_example_loss_is_its_formula_and_trains(extended: Path, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    chosen, rejected, *reference = torch.randn(4, 5, generator=generator, dtype=torch.float64)
    tokens = torch.ones(5)
    pair = Pair(AnswerScores(chosen, rejected, tokens, tokens), lambda: AnswerScores(*reference, tokens, tokens))
    h = 0.2 * ((chosen - reference[0]) - (rejected - reference[1]))
    expected = (0.9 * torch.log(1 + torch.exp(-h)) - 0.1 * torch.log(1 + torch.exp(h))) / 0.8
    torch.testing.assert_close(losses.robust_dpo(pair, beta=0.2, label_noise=0.1), expected)
    torch.testing.assert_close(losses.robust_dpo(pair, beta=0.2, label_noise=0.0), losses.dpo(pair, beta=0.2))
    overrides = ["problem=dpo", "problem/loss=robust_dpo", "problem.loss.label_noise=0.2", "optimizer=radam"]
    assert train(extended, tmp_path, *overrides)["validation/loss"] < math.log(2)


def test_example_problem_optimizer_and_metric_train(extended: Path, tmp_path: Path) -> None:
    columns = extended / "dataset" / "columns"
    shutil.copy(columns / "helpdesk_causal_lm.yaml", columns / "helpdesk_backtranslation.yaml")
    overrides = ["problem=backtranslation", "metric=bits_per_token", "optimizer=radam"]
    final = train(extended, tmp_path, *overrides)
    loss_in_bits = final["validation/loss"] / math.log(2)  # averaged over tokens, so it is the same number
    assert final["validation/bits_per_token"] == pytest.approx(loss_in_bits, rel=1e-6)


def test_drawn_tree_is_the_tree_of_the_example(architecture: str, code_blocks: Blocks) -> None:
    section = architecture.split("## Token trees")[1].split("\n## ")[0]
    code, drawing = code_blocks(section)
    names: dict[str, object] = {}
    exec(compile(code, "example", "exec"), names)
    batch = names["batch"]
    rows = {words[0]: words[1:] for line in drawing.splitlines() if (words := line.split())}
    for name in ("input_ids", "position_ids"):
        assert [int(word) for word in rows[name]] == getattr(batch, name)[0].tolist()
    for name in ("target_ids", "target_columns", "target_sequences"):
        assert [int(word) for word in rows[name]] == getattr(batch, name).tolist()
    drawn = [[mark == "x" for mark in rows[token]] for token in rows["sees"]]
    assert drawn == visible(batch.segments).tolist()  # type: ignore[attr-defined]


def test_fields_of_a_batch_are_all_explained(architecture: str) -> None:
    from leyden.data.batches import Batch

    section = architecture.split("## Batches")[1].split("\n## ")[0]
    described = {
        name for row in re.findall(r"^\| (`.*?) \|", section, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)
    }
    assert described == set(Batch.__dataclass_fields__)


def test_files_named_in_the_documents_exist(documents: dict[str, str], project_root: Path) -> None:
    named = {(name, path) for name, text in documents.items() if name != "CHANGELOG.md"
             for path in re.findall(r"`((?:\w+/)+\w+\.(?:py|yaml|md))`", text)}  # fmt: skip
    assert len(named) > 15
    for name, path in sorted(named):
        if "helpdesk_backtranslation" in path:
            continue
        assert any((root / path).is_file() for root in (project_root, project_root / "src" / "leyden")), (name, path)


def test_every_paper_of_the_code_is_listed_with_its_function(documents: dict[str, str], project_root: Path) -> None:
    papers = documents["docs/papers.md"]
    files = [*(project_root / "src").rglob("*.py"), *(project_root / "conf").rglob("*.yaml")]
    cited = {number for file in files for number in re.findall(r"arXiv:([\d.]+\d)", file.read_text(encoding="utf-8"))}
    package, examples = papers.split("Examples in")
    assert len(cited) > 5
    assert set(re.findall(r"\[arXiv:([\d.]+\d)\]", package)) == cited
    assert set(re.findall(r"\[arXiv:([\d.]+\d)\]", examples)) <= set(
        re.findall(r"arXiv:([\d.]+\d)", documents["docs/architecture.md"])
    )
    assert all(
        label == target for label, target in re.findall(r"\[arXiv:([\d.]+)\]\(https://arxiv.org/abs/([\d.]+)\)", papers)
    )
    for path in re.findall(r"`(leyden\.[\w.]+)`", papers):
        module, _, name = path.rpartition(".")
        assert callable(getattr(import_module(module), name)), path


def test_snippets_of_the_experiments_count_tokens(
    documents: dict[str, str], code_blocks: Blocks, project_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, between = code_blocks(documents["docs/experiments.md"], "python")
    assert '"dataset.data_sample=1.0"]' in code
    monkeypatch.chdir(project_root)
    names: dict[str, object] = {}
    exec(compile(code.replace('"problem=dpo"', '"problem=dpo", "backbone=tiny"'), "snippet", "exec"), names)
    assert 0 < names["shared"] < names["apart"] < names["padded"]  # type: ignore[operator]
    small = between.replace(
        '"dataset.data_sample=1.0"', '"dataset.data_sample=0.3", "tokenizer.max_length=2048", "backbone=tiny"'
    )
    assert small != between
    exec(compile(small, "snippet", "exec"), names)
    assert 0 < names["merged"] < 0.9 * names["apart"]  # type: ignore[operator]


PAGES = (
    "docs/problems.md", "docs/processes.md", "docs/scaling.md", "docs/sweeps.md", "docs/tracking.md",
    "docs/tutorial.md",
)  # fmt: skip
CHOICES = {  # said beside keys that only they have
    "problem.class_weights": ["problem=classification"],
    "problem.standardize": ["problem=regression"],
    "problem.loss.nll_weight": ["problem=dpo", "problem/loss=cpo"],
    "problem.loss.average": ["problem=dpo", "problem/loss=hinge"],
}
BASES = {"docs/sweeps.md": ["sweep=dpo", "backbone=tiny"]}  # what the words there are about


def test_every_torchrun_command_is_accepted(
    documents: dict[str, str], code_blocks: Blocks, project_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [block for page in PAGES for block in code_blocks(documents[page])]
    lines = [line for text in texts for line in text.splitlines() if re.match(r"torchrun .* train\.py \S", line)]
    assert len(lines) == 6
    for line in lines:
        launcher, _, typed = line.partition(" train.py ")
        asked = dict(re.findall(r"--(\S+) (\S+)", launcher))
        local, hosts = int(asked["nproc-per-node"]), int(asked.get("nnodes", "1"))
        told = {"TORCHELASTIC_RUN_ID": "docs", "RANK": "0", "LOCAL_RANK": "0", "GROUP_RANK": "0",
                "LOCAL_WORLD_SIZE": str(local), "WORLD_SIZE": str(local * hosts)}  # fmt: skip
        for name, value in told.items():
            monkeypatch.setenv(name, value)
        arguments = get_args_parser().parse_args([*shlex.split(typed), "backbone=tiny"])
        check_command(arguments, Entry("train", project_root / "conf", Settings, read))


@pytest.mark.parametrize("page", PAGES)
def test_every_setting_between_words_composes(page: str, documents: dict[str, str], project_root: Path) -> None:
    words = re.sub(r"^```.*?^```$", "", documents[page], flags=re.MULTILINE | re.DOTALL)
    codes = [shlex.split(code) for code in re.findall(r"`([^`\n]+)`", words)]
    settings = [code for code in codes if all(re.match(r"[a-z][\w./]*=.", word) for word in code)]
    assert len(settings) >= 3
    whole = {"mode=offline": "logger.wandb.mode=offline logger=wandb"}  # said beside its key
    with initialize_config_dir(str(project_root / "conf"), version_base="1.3"):
        for code in dict.fromkeys(" ".join(code) for code in settings):
            written, faults = read_overrides(whole.get(code, code).split())
            assert not faults
            first = variants(written)[0]  # of a space that is searched, its first value
            if page in BASES:
                compose("train", [*BASES[page], *first], return_hydra_config=True)
            else:
                _, faults = compose_config("train", CHOICES.get(code.split("=")[0], []) + first, project_root / "conf")
                assert not faults, code


def test_every_promise_names_tests_that_are_there(documents: dict[str, str], project_root: Path) -> None:
    rows = [line for line in documents["docs/reliability.md"].splitlines() if line.startswith("| ")]
    promises = [line for line in rows if "`test_" in line]
    named = set(re.findall(r"`(test_\w+)`", "".join(promises)))
    files = [file.read_text(encoding="utf-8") for file in (project_root / "tests").rglob("test_*.py")]
    there = set(re.findall(r"^def (test_\w+)", "\n".join(files), re.MULTILINE))
    assert len(promises) > 15
    assert named - there == set()
