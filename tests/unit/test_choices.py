"""Configs that are composed once for each set of choices: they are what Hydra composes, errors included."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from leyden.settings import choices
from leyden.settings.choices import composed
from leyden.settings.composition import UNFIT, compose_config

CONF = Path(__file__).resolve().parents[2] / "conf"


@pytest.fixture(autouse=True)
def nothing_known() -> None:
    choices._of_choices.cache_clear()


@pytest.fixture
def hydra() -> Iterator[None]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


def count(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The command lines that Hydra is asked for from now on."""
    asked: list[list[str]] = []

    def counted(name: str, overrides: list[str]) -> Any:
        asked.append(overrides)
        return compose(name, overrides)

    monkeypatch.setattr(choices, "compose", counted)
    return asked


@pytest.mark.parametrize(("name", "line"), [
    ("train", []),
    ("train", ["problem=dpo", "lora.r=3", "trainer.epochs=0.5", "experiment_name='a b'"]),
    ("train", ["dataset=table", "dataset.train_dataframe=[a.csv,b.csv]", "dataset.prompt_column=p"]),
    ("train", ["backbone=tiny", "metric=[bleu,perplexity]", "problem/loss=token_averaged_cross_entropy"]),
    ("train", ["~optimizer.eps", "+lora.init_lora_weights=olora", "++lora.r=5", "lora=dora", "optimizer.betas=[0,1]"]),
    ("train", ["schedule=linear", "logger=[tensorboard,mlflow]", "experiment_name=${problem.loss._target_}"]),
    ("train", ["+tokenizer={more: {than: 1}}", "tokenizer.max_length=null", "hydra.job.name=own"]),
    ("predict", ["run=outputs/x", "generation.num_beams=2"]),
])  # fmt: skip
def test_they_are_what_hydra_composes(hydra: None, name: str, line: list[str]) -> None:
    expected = compose(name, line)
    for _ in range(2):  # made, and found again
        found = composed(name, line, CONF)
        assert found == expected
        assert OmegaConf.to_yaml(found) == OmegaConf.to_yaml(expected)
        assert OmegaConf.is_struct(found)
        assert found._metadata.flags == expected._metadata.flags
        found.tokenizer = None  # a copy of its own


@pytest.mark.parametrize("line", [
    ["lora=nix"],
    ["lora=none", "lora.r=8"],
    ["lora.r=8", "nix.r=8"],
    ["+tokenizer.max_length=8"],
    ["~tokenizer.nix"],
    ["~lora=dora"],
    ["++lora=dora"],
    ["lora.r=8,16"],
    ["lora=lora,dora"],
    ["lora.r=[8"],
    ["tokenizer.max_length.more=3"],
    ["problem/loss/nix=dpo"],
])  # fmt: skip
def test_they_are_refused_as_hydra_refuses_them(hydra: None, line: list[str]) -> None:
    with pytest.raises(UNFIT) as expected:
        compose("train", line)
    for _ in range(2):
        with pytest.raises(UNFIT) as found:
            composed("train", line, CONF)
        assert type(found.value) is type(expected.value)
        assert str(found.value) == str(expected.value)
        assert type(found.value.__cause__) is type(expected.value.__cause__)


def test_values_do_not_make_hydra_compose_again(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = count(monkeypatch)
    ranks = [compose_config("train", ["lora=dora", f"lora.r={rank}"], CONF)[0].lora.r for rank in (2, 4, 8)]  # type: ignore[union-attr]
    assert ranks == [2, 4, 8]
    assert asked == [["lora=dora"]]
    compose_config("train", ["lora.r=2"], CONF)
    assert asked == [["lora=dora"], []]


def test_a_file_that_was_changed_is_read_again(tmp_path: Path) -> None:
    conf = tmp_path / "conf"
    shutil.copytree(CONF, conf)
    file = conf / "lora" / "lora.yaml"
    text = file.read_text("utf-8")
    assert "r: 4 " in text
    for rank in (7, 9):  # of one length, one after the other: no time or size of the file tells them apart for sure
        file.write_text(text.replace("r: 4 ", f"r: {rank} "), encoding="utf-8")
        config, faults = compose_config("train", ["trainer.epochs=1"], conf)
        assert not faults
        assert config is not None
        assert config.lora.r == rank
    assert compose_config("train", ["trainer.epochs=1"], CONF)[0].lora.r == 4  # type: ignore[union-attr]
