"""Every file of conf: it composes, validates with every other choice, and agrees with the schema key by key."""

from __future__ import annotations

import inspect
import itertools
import re
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import DictConfig, OmegaConf

from leyden.problem.metrics import direction_of
from leyden.settings.checks import check
from leyden.settings.composition import compose_config
from leyden.settings.overrides import choices_of
from leyden.settings.read import dump, parse
from leyden.settings.schema import ExportSettings, PredictSettings, Settings
from leyden.settings.wording import fields_of, is_open

CONF = Path(__file__).resolve().parent.parent / "conf"
FILES = sorted(CONF.rglob("*.yaml"))
PARTS = [file for file in FILES if file.parent != CONF and not file.stem.startswith("_")]
FIELDS = dict(fields_of(Settings))
OPEN = ("auto", "messages", "text")  # datasets that a table has to be named for, and no column
APART_FROM_OTHERS = ("backbone", "checkpoint", "lora", "metric", "optimizer", "schedule", "trainer")  # no two meet
WITHOUT_PACKAGE = {"train.yaml", "predict.yaml", "export.yaml"}
APART = re.compile(r"trainer.strategy=deepspeed\w+ needs|checkpoint=each_evaluation_epoch does not go with trainer")
TRACKERS = ["logger.wandb.project=p", "logger.wandb.entity=e", "logger.neptune.project=w/p"]  # what has no default
TABLE = ["dataset.train_dataframe=a.csv", "dataset.prompt_column=q", "dataset.answer_column=a"]


def composed(*overrides: str, name: str = "train") -> DictConfig:
    config, faults = compose_config(name, overrides, CONF)
    assert config is not None, faults
    assert not faults
    return config


@cache
def cached(*overrides: str) -> DictConfig:
    """As `composed`; nobody changes it."""
    return composed(*overrides)


def choice(file: Path) -> list[str]:
    """The overrides that choose a file of conf."""
    group = file.parent.relative_to(CONF).as_posix()
    if group == "dataset/columns":
        problem = next(name for name in choices_of([CONF], "problem") if file.stem.endswith(f"_{name}"))
        dataset = file.stem.removesuffix(f"_{problem}")
        return [f"dataset={dataset}", f"problem={problem}", *(TABLE[:1] if dataset == "messages" else [])]
    if group == "problem/loss":
        scores = yaml.safe_load(file.read_text(encoding="utf-8"))["scores"]
        return [f"problem={'dpo' if scores == 'pair' else 'causal_lm'}", f"{group}={file.stem}"]
    if group == "logger":
        return [f"logger={file.stem}", *(text for text in TRACKERS if text.startswith(f"logger.{file.stem}."))]
    return [f"{group}={file.stem}", *_given(file.stem if group == "dataset" else "")]


def _given(dataset: str) -> list[str]:
    """What a user has to say besides."""
    if dataset == "table":
        return TABLE
    return [part for part in TABLE if part.startswith("dataset.train_dataframe")] if dataset in OPEN else []


def keys_of(tree: Any, prefix: str) -> dict[str, Any]:
    """Every key of a YAML file with its value, without defaults lists."""
    if not isinstance(tree, dict) or (prefix in FIELDS and not list(_below(prefix))):
        return {prefix: tree}
    found: dict[str, Any] = {}
    for name, value in tree.items():
        if name not in ("defaults", "hydra"):
            found |= keys_of(value, f"{prefix}.{name}".lstrip("."))
    return found


def fields_of_predict() -> dict[str, Any]:
    return dict(fields_of(PredictSettings))


def _below(key: str) -> list[str]:
    return [name for name in FIELDS if name.startswith(f"{key}.")]


def imported(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)


def test_there_are_files() -> None:
    assert len(FILES) > 35
    assert len(PARTS) > 30


def beside(file: Path) -> list[str]:
    """The overrides that choose a file of conf, with those of the files at its place in other groups where they go."""
    group = file.parent.relative_to(CONF).as_posix()
    if group not in APART_FROM_OTHERS:
        return choice(file)
    files = {name: [one for one in PARTS if one.parent == CONF / name] for name in APART_FROM_OTHERS}
    number = files[group].index(file)
    return [text for found in files.values() for text in choice(found[number % len(found)])]


@pytest.mark.parametrize("file", PARTS, ids=lambda file: file.relative_to(CONF).as_posix())
def test_every_choice_composes_and_validates(file: Path) -> None:
    config = cached(*beside(file))
    settings = parse(config, Settings)
    Settings.model_validate(dump(settings))
    assert set(choice(file)) <= set(beside(file))
    if file.parent.name == "metric":
        assert list(config.metric) == [file.stem]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(CONF).as_posix())
def test_every_file_sets_settings_only_and_explains_itself(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    tree = yaml.safe_load(text) or {}
    said = re.match(r"# @package (\S+)", text)
    package = said[1].replace("_global_", "") if said else file.parent.relative_to(CONF).as_posix().replace("/", ".")
    fields = FIELDS
    if file.name in ("predict.yaml", "export.yaml"):
        fields = fields_of_predict() if file.name == "predict.yaml" else dict(fields_of(ExportSettings))
    keys = keys_of(tree, package if file.name not in WITHOUT_PACKAGE else "")
    empty = tree == {"logger": {}} or (file.parent.name == "sweep" and set(tree) == {"defaults", "hydra"})
    assert keys or set(tree) == {"defaults"} or empty
    unknown = [key for key in keys if key and key not in fields and not is_open(key, fields, always=False)]
    assert not unknown
    stands_alone = file.parent.name not in ("loss", "schedule")
    assert "#" in text or not stands_alone, f"{file.name} has no comment"


def test_every_setting_has_its_default_in_a_file() -> None:
    config = composed("problem=dpo", "problem/loss=simpo", "logger=[tensorboard,wandb,neptune,mlflow]", *TRACKERS)
    optional = {
        "problem.loss.gamma",
        "problem.loss.beta",
        "problem.loss.nll_weight",
        "schedule.min_learning_rate_ratio",
        "problem.num_classes",
        "problem.class_weights",
        "problem.standardize",
        "problem.max_target_length",
        "lora._target_",
        "metric._target_",
        "metric.direction",
    }
    absent = {key for key in FIELDS if OmegaConf.select(config, key, default="absent") == "absent"}
    assert absent <= optional, sorted(absent)
    predict = composed(name="predict")
    absent = {key for key in fields_of_predict() if OmegaConf.select(predict, key, default="absent") == "absent"}
    assert not absent
    assert not [key for key in dict(fields_of(ExportSettings)) if key not in composed(name="export")]


def tree_of(config: DictConfig) -> dict[str, Any]:
    tree = OmegaConf.to_container(config, resolve=True)
    assert isinstance(tree, dict)
    return {str(key): value for key, value in tree.items()}


def faults_of(base: dict[str, Any], parts: dict[str, Any]) -> list[str]:
    """Faults of a tree with these groups instead; what a strategy wants that is set apart from them does not count."""
    settings = Settings.model_validate({**base, **parts})
    plain = settings.trainer.strategy in ("auto", "ddp")
    return [fault for fault in check(settings) if plain or not APART.match(fault)]


def trees_of(problem: str, groups: dict[str, list[str]]) -> dict[str, dict[str, Any]]:
    """The tree of each choice by group and name, with the references of this problem resolved.

    One composition holds one choice of every group; that of the problem takes the place of another's in it.
    """
    trees: dict[str, dict[str, Any]] = {group: {} for group in groups}
    for number in range(max(map(len, groups.values()))):
        chosen = {group: names[number % len(names)] for group, names in groups.items()}
        config = cached("backbone=tiny", *(f"{group}={name}" for group, name in chosen.items())).copy()
        config.problem = cached("backbone=tiny", f"problem={problem}").problem
        tree = tree_of(config)
        for group, name in chosen.items():
            trees[group].setdefault(name, tree[group])
    return trees


def test_all_choices_go_together() -> None:
    """Every pair of choices of two groups, as trees: composing every combination would take minutes.

    A loss is a choice too: it meets each choice of each other group, and is refused by the problems it does not fit.
    """
    groups = {group: choices_of([CONF], group) for group in ("lora", "optimizer", "schedule", "trainer", "checkpoint")}
    problems, losses = choices_of([CONF], "problem"), choices_of([CONF], "problem/loss")
    loss_files = {loss: CONF / "problem" / "loss" / f"{loss}.yaml" for loss in losses}
    loss_trees = {loss: tree_of(cached(*choice(file)))["problem"]["loss"] for loss, file in loss_files.items()}
    last = {group: names[-1] for group, names in groups.items()}
    fitting = set()
    for problem in problems:
        trees = trees_of(problem, groups)
        assert {group: sorted(found) for group, found in trees.items()} == {g: sorted(n) for g, n in groups.items()}
        whole = tree_of(composed("backbone=tiny", f"problem={problem}", *(f"{g}={name}" for g, name in last.items())))
        assert {group: trees[group][name] for group, name in last.items()} == {group: whole[group] for group in last}
        default = tree_of(cached("backbone=tiny", f"problem={problem}"))
        for one, two in itertools.combinations(trees, 2):
            for first, second in itertools.product(trees[one], trees[two]):
                faults = faults_of(default, {one: trees[one][first], two: trees[two][second]})
                assert not faults, (problem, first, second, faults)
        for loss, loss_tree in loss_trees.items():
            base = {**default, "problem": {**default["problem"], "loss": loss_tree}}
            fits = default["problem"]["scores"] == loss_tree["scores"]
            fitting |= {loss} if fits else set()
            if not fits:
                (fault,) = faults_of(base, {})
                assert "problem/loss" in fault, (problem, loss)
                continue
            for group, name in ((group, name) for group, names in groups.items() for name in names):
                faults = faults_of(base, {group: trees[group][name]})
                assert not faults, (problem, loss, group, name, faults)
    assert fitting == set(losses), "a loss fits no problem"
    assert len(problems) * sum(map(len, groups.values())) * len(losses) >= 5 * 36 * 13


@pytest.mark.parametrize("file", [file for file in PARTS if "_target_" in file.read_text(encoding="utf-8")], ids=str)
def test_the_knobs_of_a_target_are_its_parameters(file: Path) -> None:
    tree = yaml.safe_load(file.read_text(encoding="utf-8"))
    ours = {"_target_", "defaults", "direction", "scores", "metrics", "recommended", "loss", "learning_rate",
            "warmup_epochs", "min_learning_rate_ratio", "max_target_length", "weight_decay", "unfreeze_layers",
            "differential_learning_rate_layers", "differential_learning_rate"}  # fmt: skip
    parameters = inspect.signature(imported(tree["_target_"])).parameters
    unknown = set(tree) - ours - set(parameters)
    assert not unknown, f"{tree['_target_']} takes no {sorted(unknown)}"
    if "min_learning_rate_ratio" in tree:
        assert "floor" in parameters
    knobs = {name for name, parameter in parameters.items() if parameter.kind is inspect.Parameter.KEYWORD_ONLY}
    if file.parent.name == "loss":
        assert knobs <= set(tree), f"{file.name} leaves out {sorted(knobs - set(tree))}"


def test_the_metrics_of_a_problem_exist_and_say_which_way_is_better() -> None:
    for name in choices_of([CONF], "problem"):
        metrics = list(composed(f"problem={name}").problem.metrics)
        together = composed(f"problem={name}", f"metric=[{','.join(metrics)}]").metric
        assert list(together) == metrics
        for metric, found in together.items():
            assert found.get("direction") in ("min", "max") or direction_of(imported(found._target_)), metric
