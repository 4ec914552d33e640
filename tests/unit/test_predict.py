"""Where predictions may go: looked at before anything is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from leyden.artifacts.folder import HEADER
from leyden.artifacts.predict import predict_table
from leyden.settings.composition import compose_config
from leyden.settings.errors import ConfigError
from leyden.settings.read_predict import read_predict
from leyden.training.problems import dotted

CONF = Path(__file__).resolve().parents[2] / "conf"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run, a model, a folder of the user's and a table; nothing may be loaded."""
    (tmp_path / "new.csv").write_text("prompt\na\n")
    (tmp_path / "run" / "model").mkdir(parents=True)
    (tmp_path / "run" / "config.yaml").write_text(HEADER)
    (tmp_path / "run" / "model" / "adapter_config.json").write_text("{}")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "predictions.parquet").write_text("mine")
    monkeypatch.setattr("leyden.artifacts.opened.check_device", lambda settings: pytest.fail("too late"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ("new.csv", "new.csv is a file. Name a folder"),
        ("new.csv/sub", "new.csv is a file. Name a folder"),
        ("run", "is the folder of a run"),
        ("run/model", "is the folder of a model"),
        ("foreign", "holds predictions.parquet already. Choose another, or set overwrite=true"),
        ("x" * 300, "cannot be written to"),
        pytest.param("/proc/xx", "cannot be written to", marks=pytest.mark.skipif(
            not Path("/proc/self").exists(), reason="there is no /proc here")),
    ],
)  # fmt: skip
def test_a_place_that_predictions_must_not_take_is_refused_first(folder: Path, output: str, said: str) -> None:
    texts = ["run=tiny:llama", "dataset.path=new.csv", f"output={output}"]
    for more in ([], ["overwrite=true"] if output != "foreign" else []):
        config, faults = compose_config("predict", [*texts, *more], CONF)
        assert not faults
        assert config is not None
        with pytest.raises(ConfigError, match=said) as caught:
            predict_table(*read_predict(config))
        assert "output=" in str(caught.value)
    assert (folder / "foreign" / "predictions.parquet").read_text() == "mine"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("def f(:", r"SyntaxError: .*Mend the module"),
        ("raise RuntimeError('no licence')", r"RuntimeError: no licence. Mend the module"),
        ("import nowhere_at_all", "No module named 'nowhere_at_all'"),
    ],
)
def test_a_module_that_fails_is_a_fault_of_the_path_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, said: str
) -> None:
    (tmp_path / "broken_module.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=rf"metric\.mine\._target_='broken_module\.f' cannot be imported: {said}"):
        dotted("broken_module.f", "metric.mine._target_")
