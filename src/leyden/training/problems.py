"""Dotted paths become objects: the problem with its loss, and the metrics that go with it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from typing import Any

from leyden.problem.base import Problem, TextProblem
from leyden.problem.metrics import Metric, direction_of, knob_faults_of
from leyden.settings.errors import ConfigError
from leyden.settings.schema import Settings
from leyden.training.answers import TEXT_COLUMNS

NOTHING: Mapping[str, str] = {}


def make_problem(settings: Settings) -> Problem:
    """The problem with its loss, from their dotted paths.

    Raises:
        ConfigError: a path leads nowhere, or a knob that the function or class does not have.
    """
    loss_settings, data = settings.problem.loss, settings.dataset
    function = dotted(loss_settings.target, "problem.loss._target_")
    check_knobs(function, loss_settings.arguments, "problem.loss")
    loss = partial(function, **loss_settings.arguments) if loss_settings.arguments else function
    make = dotted(settings.problem.target, "problem._target_")
    check_knobs(make, settings.problem.arguments, "problem")
    options: dict[str, Any] = {}
    if issubclass(make, TextProblem):
        options = {"only_last_answer": data.only_last_answer, "mask_prompt_labels": data.mask_prompt_labels}
    problem = make(loss=loss, **options, **settings.problem.arguments)
    assert isinstance(problem, Problem)
    return problem


def writes(settings: Settings, problem: Problem) -> bool:
    """Whether predictions are generated texts: the problem generates, and there is a prompt to start from."""
    return problem.generates and bool(settings.dataset.prompt_columns)


def make_metrics(settings: Settings, problem: Problem) -> tuple[Metric, ...]:
    """The metrics that were chosen, in their order, and those that the problem always computes.

    Raises:
        ConfigError: a path leads nowhere, a knob or column that is not there, a value that a knob does not take, or
            nobody says which way is better.
    """
    offered = (*problem.offers, *(TEXT_COLUMNS if writes(settings, problem) else ()))
    faults: list[str] = []
    metrics = {}
    for name, choice in settings.metric.items():
        try:
            metrics[name] = _metric(name, choice.target, choice.knobs, choice.direction)
        except ConfigError as error:
            faults += error.faults
            continue
        lacking = [column for column in metrics[name].reads if column not in offered]
        if lacking:
            faults.append(
                f"metric.{name} reads {', '.join(lacking)}, and here there is {', '.join(offered)}. Choose a metric of "
                f"this problem: {', '.join(settings.problem.metrics)}."
            )
    if faults:
        raise ConfigError(faults)
    for function in problem.always:
        metrics.setdefault(function.__name__, Metric(function.__name__, direction_of(function) or "min", function))
    return tuple(metrics.values())


def _metric(name: str, path: str, knobs: Mapping[str, object], direction: Any) -> Metric:
    target = dotted(path, f"metric.{name}._target_")
    if not callable(target):
        raise ConfigError(f"metric.{name}._target_={path!r} is no function. Give module.function or module.Class.")
    check_knobs(target, knobs, f"metric.{name}")
    if faults := knob_faults_of(target, knobs):
        raise ConfigError([f"metric.{name}.{fault}" for fault in faults])
    function = target(**knobs) if isinstance(target, type) else partial(target, **knobs) if knobs else target
    found = direction or direction_of(function)
    if found is None:
        raise ConfigError(
            f"metric.{name}: nobody says which way {path} is better. Set metric.{name}.direction to min or max, or "
            "mark the function with @metric of leyden.problem.metrics."
        )
    return Metric(name, found, function)


def dotted(path: str, setting: str) -> Any:
    """The function or class that a dotted path names.

    Raises:
        ConfigError: it does not exist, or its module fails.
    """
    module, _, name = path.rpartition(".")
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"{setting}={path!r} cannot be imported: {error}. Give module.function or module.Class."
        ) from error
    except Exception as error:  # whatever stands in that module runs here
        raise ConfigError(
            f"{setting}={path!r} cannot be imported: {type(error).__name__}: {error}. Mend the module."
        ) from error


def check_knobs(
    target: Callable[..., Any], knobs: Mapping[str, object], group: str, filled: Mapping[str, str] = NOTHING
) -> None:
    """Refuse keys that a function or class does not take, or that it gets from elsewhere.

    Args:
        target: what the knobs are handed to.
        knobs: by name.
        group: where they stand in the settings.
        filled: arguments that are no knobs, with what fills them.

    Raises:
        ConfigError: names each key, and what there is.
    """
    if faults := [f"{group}.{name} is filled by {filled[name]}. Leave it out." for name in knobs if name in filled]:
        raise ConfigError(faults)
    parameters = inspect.signature(target).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    there = ", ".join(name for name in parameters if name not in ("self", "params", "loss", *filled))
    unknown = [name for name in knobs if name not in parameters]
    if unknown:
        raise ConfigError(
            [f"{group}.{name}: {target.__name__} has no such argument. It has: {there}." for name in unknown]
        )
