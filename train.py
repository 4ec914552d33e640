"""Fine-tune a language model: `python train.py problem=dpo backbone=llama`."""

import sys
from pathlib import Path

import hydra
from omegaconf import DictConfig

from leyden.artifacts.ranks import run_ranks
from leyden.artifacts.sweep import finish_sweep, recorded
from leyden.settings.command import Entry, job_folder, reported_faults, run_command, typed_overrides
from leyden.settings.read import read
from leyden.settings.resuming import continued
from leyden.settings.schema import Settings


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(config: DictConfig) -> float | None:
    """Fine-tune a backbone on a table; return the monitored metric."""
    from leyden.artifacts.job import run_job  # late: neither --help nor a refused config waits for torch

    with reported_faults(debug=config.debug):
        return recorded(config, lambda: run_job(read(continued(config, typed_overrides(), job_folder())), job_folder()))
    return None


if __name__ == "__main__":
    entry = Entry("train", Path(__file__).resolve().parent / "conf", Settings, read, finish_sweep, continued)
    sys.exit(run_ranks(lambda: run_command(main, entry)))
