"""Turn an experiment file of H2O LLM Studio into one of ours: every key is mapped, or named with the reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig

from leyden.settings.errors import ConfigError
from leyden.settings.h2o_conditions import setting
from leyden.settings.h2o_experiment import Trial, at, composed, experiment_text, same, tree_of, try_out
from leyden.settings.h2o_keys import SECTIONS, TABLE, filled
from leyden.settings.h2o_outcomes import Old, Outcome, outcomes_of, written
from leyden.settings.h2o_rules import LOSSES, METRICS, PROBLEMS
from leyden.settings.h2o_values import one_of
from leyden.settings.overrides import choices_of
from leyden.settings.wording import nearest, show

RLHF = (
    "reinforcement learning with a reward model. H2O has dropped it, and Leyden does not have it. If the table holds a "
    "worse answer for each row, set problem_type to text_dpo_modeling and dataset.rejected_answer_column to its "
    "column; to train on the answers alone, set it to text_causal_language_modeling, and training.use_rlhf to false."
)
KNOWN = {row.old for row in TABLE}
CLOSED = {row.old for row in TABLE if row.closed}


@dataclass(frozen=True)
class Imported:
    """An old file and what it became.

    Attributes:
        old: what was read.
        text: of the new experiment file.
        outcomes: what became of each key.
        mend: what is still wrong here, such as a table that is not on this disk.
    """

    old: Old
    text: str
    outcomes: tuple[Outcome, ...]
    mend: tuple[str, ...]


def convert(path: Path, folder: Path) -> Imported:
    """Read an experiment file of H2O LLM Studio and write it anew; the disk is not changed.

    Args:
        path: of the old file.
        folder: of our config groups. What it does not have yet is named as not mapped, so the result composes.

    Raises:
        ConfigError: the file cannot be read, its problem type is not known, or a value is none that H2O takes.
    """
    old, faults = read_old(path)
    if old is None:
        raise ConfigError(faults)
    kind = {"problem": old.problem, "dataset": "table"}
    plain = tree_of(composed(kind, folder))
    chosen = _chosen(old, plain, folder)
    config = composed({**kind, **chosen}, folder)
    base = tree_of(config)
    outcomes = outcomes_of(old, plain, base, chosen)
    paths = {group: group.replace("/", ".") for group in chosen}
    choices = kind | {g: name for g, name in chosen.items() if not same(at(plain, paths[g]), at(base, paths[g]))}
    text, trial = _tried(path.name, choices, outcomes, config, folder)
    if any(_lacks(outcome, trial) for outcome in outcomes):
        outcomes = [_left(outcome, base) if _lacks(outcome, trial) else outcome for outcome in outcomes]
        text, trial = _tried(path.name, choices, outcomes, config, folder)
    faults += [
        f"{outcome.old}={outcome.shown}: {trial.refused[outcome.new]}"
        for outcome in outcomes
        if outcome.written and outcome.new in trial.refused
    ]
    if faults:
        raise ConfigError(faults)
    return Imported(old, text, tuple(outcomes), trial.mend)


def read_old(path: Path) -> tuple[Old | None, list[str]]:
    """Read an old file, make its values plain and add what H2O takes for what is missing.

    Args:
        path: of the file.

    Returns:
        What the file says as far as it can be read (None without a problem type), and one sentence per fault.

    Raises:
        ConfigError: there is no such file, or it is no YAML with settings.
    """
    tree = _load(path)
    word = str(tree.get("problem_type") or "")
    raw, faults = _flat(tree, path)
    values, refused = _values(raw, PROBLEMS.get(word))
    faults += refused
    if word not in PROBLEMS:
        return None, [_problem_fault(path, word), *faults]
    added = filled(values, PROBLEMS[word])
    unknown = tuple(key for key in raw if key not in KNOWN)
    return Old(word, PROBLEMS[word], raw, {**values, **added}, frozenset(added), unknown), faults


def file_name(path: Path, old: Old) -> str:
    """A name for the new file that `experiment=NAME` takes: that of the experiment, else that of the old file."""
    name = str(setting(old.values, "experiment_name") or path.stem)
    kept = "".join(letter if letter.isascii() and (letter.isalnum() or letter in "._-") else "-" for letter in name)
    number_or_word = isinstance(yaml.safe_load(kept), int | float | bool | None) or kept.lower() in ("nan", "inf")
    return f"h2o-{kept}" if number_or_word or not kept[0].isalpha() else kept


def _load(path: Path) -> dict[str, Any]:
    try:
        tree = yaml.load(path.read_text(encoding="utf-8-sig"), Loader=_Loader)  # noqa: S506
    except FileNotFoundError as error:
        raise ConfigError(f"{path} does not exist (seen from {Path.cwd()}). Give a saved experiment file.") from error
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        cause = " ".join(str(error).split())
        raise ConfigError(f"{path} cannot be read as YAML ({cause}). Give a saved experiment file.") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"{path} holds no settings. Give an experiment file that H2O LLM Studio has saved.")
    return {str(key): _plain(value) for key, value in tree.items()}


def _flat(tree: Mapping[str, Any], path: Path) -> tuple[dict[str, Any], list[str]]:
    """Values by `section.key`, and one sentence for each section that is none."""
    raw, faults = dict[str, Any](), list[str]()
    for key, value in tree.items():
        if key not in SECTIONS:
            raw[key] = value
        elif isinstance(value, dict):
            raw |= {f"{key}.{name}": inner for name, inner in value.items()}
        elif value is not None:
            faults.append(f"{path}: {key}={show(value)} is not allowed. It is a section: write its keys below it.")
    raw.pop("problem_type", None)
    return raw, faults


def _values(raw: Mapping[str, Any], problem: str | None) -> tuple[dict[str, Any], list[str]]:
    """The values that can be read, and one sentence for each other one."""
    words = {"training.loss_function": LOSSES, "prediction.metric": METRICS}
    values, faults = dict[str, Any](), list[str]()
    for row in {row.old: row for row in TABLE}.values():
        if row.old not in raw:
            continue
        try:
            value = row.read(raw[row.old])
            if problem is not None and row.old in words:
                value = one_of(*words[row.old][problem])(value)
            values[row.old] = value
        except ValueError as error:
            faults.append(f"{row.old}={show(raw[row.old])} is not allowed. H2O takes {error}.")
    if values.get("training.use_rlhf", "").lower() == "true":
        faults.append(f"training.use_rlhf=true is {RLHF}")
    return values, faults


def _plain(value: Any) -> Any:
    return {str(key): inner for key, inner in value.items()} if isinstance(value, dict) else value


class _Loader(yaml.SafeLoader):
    """Plain YAML, and the tuples that H2O's own writer may leave in it."""


def _tuple(loader: yaml.SafeLoader, node: yaml.SequenceNode) -> list[Any]:
    return list(loader.construct_sequence(node))


_Loader.add_constructor("tag:yaml.org,2002:python/tuple", _tuple)


def _problem_fault(path: Path, word: str) -> str:
    if "rlhf" in word:
        return f"problem_type={show(word)} is {RLHF}"
    known = ", ".join(PROBLEMS)
    if not word:
        return f"{path} has no problem_type. Add the line problem_type: WORD; words: {known}."
    return f"problem_type={show(word)} is not known.{nearest(word, PROBLEMS)} Allowed: {known}."


def _chosen(old: Old, plain: Mapping[str, Any], folder: Path) -> dict[str, str]:
    """The file of each group that the old file asks for, as far as there is one."""
    fitting = plain["problem"].get("metrics")
    found = dict[str, str]()
    for row in TABLE:
        if row.pick is not None and row.old in old.values and not old.idle(row):
            there = _available(row.new, folder, fitting)
            asked = next((name for name in row.pick(old.values, old.problem) if name in there), None)
            if asked is not None:
                found[row.new] = asked
    return found


def _available(group: str, folder: Path, metrics: Sequence[str] | None) -> list[str]:
    there = choices_of([folder], group)
    return [name for name in there if name in metrics] if group == "metric" and metrics is not None else there


def _tried(
    name: str, choices: Mapping[str, str], outcomes: Sequence[Outcome], base: DictConfig, folder: Path
) -> tuple[str, Trial]:
    settings = written(outcomes)
    text = experiment_text(name, choices, settings)
    return text, try_out(text, settings, base, folder)


def _lacks(outcome: Outcome, trial: Trial) -> bool:
    """Whether Leyden refuses a value that is legal in H2O."""
    return outcome.written and outcome.new in trial.refused and outcome.old in CLOSED


def _left(outcome: Outcome, base: Mapping[str, Any]) -> Outcome:
    why = f"Leyden has no such value yet; {outcome.new} stays {show(at(base, outcome.new))}"
    return replace(outcome, state="left", why=why, written=False)
