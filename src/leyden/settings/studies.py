"""Searches whose study is stored: what of it stays when a search goes on, and what is asked for again."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, OmegaConf, read_write

from leyden.settings.errors import ConfigError

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler
    from optuna.study import Study
    from optuna.trial import FrozenTrial

FIRST = "study"  # file among the records of the jobs: how many trials the study had before this sweep
INDEPENDENT = ("TPESampler", "RandomSampler")  # they hold a state of random numbers and nothing else
_handed_over: list[BaseSampler] = []

OmegaConf.register_new_resolver("job_number", lambda number, first: number + first, replace=True)


@dataclass(frozen=True)
class StoredStudy:
    """A study in a database, as far as it belongs to one sweep: job n is its trial first + n.

    Attributes:
        place: of the storage: an address of Optuna, or the config of a storage.
        name: of the study.
        records: folder with the records of the jobs of the sweep.
    """

    place: Any
    name: str
    records: Path

    def load(self) -> Study | None:
        """The study; None while there is none of that name."""
        import optuna  # late: a command without a stored study does not wait for it

        try:
            return optuna.load_study(self.name, self.place if isinstance(self.place, str) else instantiate(self.place))
        except KeyError:
            return None

    def first(self) -> int | None:
        """The trial of job 0; None before the sweep was begun."""
        path = self.records / FIRST
        return int(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None

    def begin(self) -> None:
        """Note which trials of the study are not of this sweep."""
        study = self.load()
        trials = study.get_trials(deepcopy=False) if study else []
        waiting = (trial.number for trial in trials if trial.state.name == "WAITING")  # the sweep begins with those
        self.records.mkdir(parents=True, exist_ok=True)
        (self.records / FIRST).write_text(json.dumps(next(waiting, len(trials))), encoding="utf-8")

    def release(self) -> list[FrozenTrial]:
        """Have trials of this sweep that no job runs any more wait: the next who asks gets them, with their values.

        Returns:
            The trials of this sweep.
        """
        from optuna.trial import TrialState

        if (study := self.load()) is None or (first := self.first()) is None:
            return []
        for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if trial.number >= first:
                study._storage.set_trial_state(trial._trial_id, TrialState.WAITING)
        return study.get_trials(deepcopy=False)[first:]


def stored_study(hydra: DictConfig, records: Path) -> StoredStudy | None:
    """The stored study of a search; None for any other sweep. It is named after the sweep where it has no name."""
    sweeper = hydra.sweeper
    if "optuna" not in str(sweeper.get("_target_", "")) or sweeper.storage is None:
        return None
    if sweeper.study_name is None:
        with read_write(hydra):
            sweeper.study_name = records.parent.name
    return StoredStudy(sweeper.storage, str(sweeper.study_name), records)


def go_on(study: StoredStudy, hydra: DictConfig) -> str:
    """Have a sweep ask for what its study lacks: the trials that were stopped first, then as many as are left.

    Jobs keep the number of their trial. A sampler that draws each value by itself is brought to where it was, so that
    it goes on as if nothing had happened; another one gets another seed, so that it does not draw the same again.

    Args:
        study: that was begun.
        hydra: Hydra's own part of the config of the sweep; it is changed.

    Returns:
        What is to be said.

    Raises:
        ConfigError: the trials of the study are not the jobs of the sweep.
    """
    own = study.release()
    ended = [trial for trial in own if trial.state.is_finished()]
    jobs = len(list(study.records.glob("*.json")))
    if ended != own[: len(ended)] or len(ended) > jobs:
        raise ConfigError(
            f"hydra.sweeper.study_name={study.name}: the study has {len(ended)} trials that have ended since this "
            f"sweep began, the sweep {jobs} jobs; so another search has used it. Begin a sweep of another "
            "experiment_name, which adds to the study."
        )
    wanted = int(hydra.sweeper.n_trials)
    with read_write(hydra):
        drawn = _continue_draws(hydra.sweeper, study, own)
        hydra.sweeper.n_trials = max(0, wanted - len(ended))
        if OmegaConf.to_container(hydra.sweep, resolve=False)["subdir"] == "${hydra.job.num}":  # type: ignore[index, call-overload]
            hydra.overrides.hydra.append(f"hydra.sweep.subdir='${{job_number:${{hydra.job.num}},{len(ended)}}}'")
    failed = sum(trial.state.name == "FAIL" for trial in ended)
    return (
        f"The study {study.name} goes on: {len(ended)} of {wanted} trials have ended and stay ({failed} without a "
        f"number), {len(own) - len(ended)} stopped and asked for again. {drawn}"
    )


def _continue_draws(sweeper: DictConfig, study: StoredStudy, own: Sequence[FrozenTrial]) -> str:
    """Bring the sampler of a search to where its trials have left it; return what is to be said."""
    sampler = sweeper.sampler
    if sampler.get("_partial_") or not own:
        return "The sampler looks for what is left by itself."
    seed = sampler.get("seed")
    if str(sampler._target_).endswith(INDEPENDENT) and not sampler.get("multivariate") and seed is not None:
        options = {key: value for key, value in sampler.items() if key != "_target_"}
        made = get_class(str(sampler._target_))(**options)
        if _draws_again(made, study, own, int(sweeper.n_jobs)):
            _handed_over[:] = [made]
            sampler._target_ = f"{__name__}.{handed_over.__name__}"
            return "The draws behind them are those of a search that was never stopped."
    if seed is None:
        return "The sampler has no seed, so it draws anew."
    sampler.seed = int(seed) + len(own)
    return f"The draws behind them are other ones than those of a search that was never stopped (seed {sampler.seed})."


def _draws_again(sampler: BaseSampler, study: StoredStudy, own: Sequence[FrozenTrial], at_a_time: int) -> bool:
    """Let a new sampler draw the trials of a sweep again, beside the study; whether it has drawn the same."""
    import optuna

    level, stored = optuna.logging.get_verbosity(), study.load()
    assert stored is not None
    optuna.logging.set_verbosity(logging.WARNING)
    try:
        beside = optuna.create_study(sampler=sampler, directions=stored.directions)
        for trial in stored.get_trials()[: own[0].number]:
            beside._storage.create_new_trial(beside._study_id, template_trial=trial)
        for start in range(0, len(own), at_a_time):
            batch = own[start : start + at_a_time]
            asked = [beside.ask(trial.distributions) for trial in batch]
            if [trial.params for trial in asked] != [trial.params for trial in batch]:
                return False
            for new, old in zip(asked, batch, strict=True):
                if old.state.is_finished():
                    beside.tell(new, old.values, old.state)
    finally:
        optuna.logging.set_verbosity(level)
    return True


def handed_over(**options: Any) -> BaseSampler:  # noqa: ARG001
    """The sampler that `go_on` has brought to where it was, in place of a new one; Hydra asks for it."""
    return _handed_over.pop()
