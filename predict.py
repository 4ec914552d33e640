"""Predict with a run or any model: a table, one prompt, or a chat.

`python predict.py run=outputs/NAME dataset.path=new.csv`, or `prompt="..."`, or `mode=chat`.
"""

import sys
from pathlib import Path

import hydra
from omegaconf import DictConfig

from leyden.settings.command import Entry, reported_faults, run_command
from leyden.settings.read_predict import read_predict
from leyden.settings.schema import PredictSettings


@hydra.main(version_base="1.3", config_path="conf", config_name="predict")
def main(config: DictConfig) -> None:
    """Write one prediction per row of a table, or answer what is typed."""
    from leyden.artifacts.predict import predict  # late: neither --help nor a refused config waits for torch

    with reported_faults(debug=config.debug):
        predict(*read_predict(config))


if __name__ == "__main__":
    conf = Path(__file__).resolve().parent / "conf"
    sys.exit(run_command(main, Entry("predict", conf, PredictSettings, read_predict)))
