"""Predict a table with a run or any model: `python predict.py run=outputs/NAME dataset.path=new.csv`."""

import sys
from pathlib import Path

import hydra
from omegaconf import DictConfig

from leyden.settings.command import reported_faults, run_command

CONFIG = Path(__file__).resolve().parent / "conf"


@hydra.main(version_base="1.3", config_path="conf", config_name="predict")
def main(config: DictConfig) -> None:
    """Write one prediction per row of a table."""
    from leyden.artifacts.predict import predict_table  # late: neither --help nor a refused config waits for torch
    from leyden.settings.read_predict import read_predict

    with reported_faults(debug=config.debug):
        predict_table(*read_predict(config, CONFIG))


if __name__ == "__main__":
    sys.exit(run_command(main, "leyden.settings.read_predict:check_predict", "predict", CONFIG))
