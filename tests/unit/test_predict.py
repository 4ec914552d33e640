"""What may be predicted, and where predictions may go: looked at before anything is loaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from leyden.artifacts.folder import HEADER
from leyden.artifacts.predict import predict_table
from leyden.settings.composition import compose_config
from leyden.settings.errors import ConfigError
from leyden.settings.overrides import read_overrides, typed_keys, with_texts
from leyden.settings.read_predict import read_predict
from leyden.settings.schema import PredictSettings
from leyden.settings.wording import fields_of
from leyden.training.problems import dotted

CONF = Path(__file__).resolve().parents[2] / "conf"
FIELDS = dict(fields_of(PredictSettings))


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


def faults(*texts: str, config: str | None = None) -> list[str]:
    """What `read_predict` refuses of a command line."""
    if config is not None:
        Path("run/config.yaml").write_text(config)
    composed, unfit = compose_config("predict", with_texts(texts, FIELDS), CONF)
    assert not unfit
    assert composed is not None
    try:
        read_predict(composed, typed_keys(read_overrides(with_texts(texts, FIELDS))[0]))
    except ConfigError as error:
        return list(error.faults)
    return []


@pytest.fixture(scope="module")
def saved() -> Callable[..., str]:
    """The saved config of a run."""

    def config(*overrides: str) -> str:
        texts = ["dataset=table", "dataset.train_dataframe=t.csv", "dataset.prompt_column=p", "dataset.answer_column=a"]
        composed, unfit = compose_config("train", ["backbone=tiny", *texts, *overrides], CONF)
        assert not unfit
        return OmegaConf.to_yaml(
            OmegaConf.masked_copy(composed, [key for key in composed if key != "hydra"]), resolve=True
        )

    return config


def test_nothing_to_predict_names_the_three_ways(folder: Path) -> None:
    (said,) = faults("run=tiny:llama")
    for way in ("dataset.path=", "prompt=", "mode=chat"):
        assert way in said
    assert [fault.split(" is")[0] for fault in faults()] == ["run", "dataset.path"]


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["prompt=a, b", "dataset.path=new.csv"], ["prompt='a, b' goes without dataset.path='new.csv'"]),
        (["mode=chat", "dataset.path=new.csv"], ["mode=chat reads no table, and dataset.path='new.csv' is one"]),
        (["mode=chat", "prompt=a"], ["mode=chat asks for every question, and prompt='a' is one"]),
        (["system=a", "dataset.path=new.csv"], ["system has no effect on a table"]),
        (["mode=talk"], ["mode='talk' is not allowed"]),
        (["mode=chat", "generation.num_history=0"], ["generation.num_history=0 is not allowed"]),
        (["prompt=a", "generation.num_history=3"], ["generation.num_history has no effect here"]),
        (["prompt=a", "seed=3"], ["seed=3 has no effect here (nothing is sampled)"]),
        (["prompt=a\udcff"], ["prompt holds bytes that are no UTF-8"]),
        (["mode=chat", "output=x", "dataset.prompt_column=q", "generation.batch_size_inference=2"],
         ["dataset.prompt_column has no effect here (mode=chat reads no table)",
          "generation.batch_size_inference has no effect here", "output has no effect here"]),
        (["mode=chat", "prompt=a", "dataset.path=none.csv", "generation.num_history=x", "generation.top_p=7"],
         ["generation.num_history='x' is not allowed", "generation.top_p=7.0 is not allowed", "does not exist",
          "prompt='a' goes without", "mode=chat reads no table", "mode=chat asks for every question"]),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_refused_with_all_faults(folder: Path, texts: list[str], said: list[str]) -> None:
    found = faults("run=tiny:llama", *texts)
    assert len(found) == len(said), found
    for fault, part in zip(found, said, strict=True):
        assert part in fault


@pytest.mark.parametrize(
    "texts",
    [
        ["prompt=a", "system=b"],
        ["prompt="],
        ["mode=chat", "generation.num_history=9", "seed=3", "generation.do_sample=true", "generation.temperature=1.0"],
    ],
)
def test_what_goes_together_is_taken(folder: Path, texts: list[str]) -> None:
    assert faults("run=tiny:llama", *texts) == []


def test_a_run_is_asked_only_what_it_was_trained_for(folder: Path, saved: Callable[..., str]) -> None:
    text = saved()
    assert faults("run=run", "mode=chat", config=text) == []
    (said,) = faults("run=run", "mode=chat", "system=be kind")
    assert "system='be kind': run was trained without dataset.system_column" in said
    assert faults("run=run", "mode=chat", "system=be kind", config=saved("dataset.system_column=s")) == []
    for problem in ("classification", "regression"):
        (said,) = faults("run=run", "mode=chat", config=saved(f"problem={problem}"))
        assert f"run is a model of {problem.capitalize()}, which writes no text. Set prompt= or dataset.path=." in said
        assert faults("run=run", "prompt=a") == []
    (said,) = faults("run=run", "mode=chat", config=saved("dataset.prompt_column=[]"))
    assert "run was trained on texts without prompts. Set prompt= the beginning of a text." in said
    both = faults("run=run", "mode=chat", "system=a", "prompt=b", config=saved("problem=regression"))
    assert len(both) == 3


TEXTS = [
    "How do I pay?", "Hello, how are you?", "it's \"x\"", "'Hi' he said 'x'", "a=b [c] {d}", "${seed}", "\\${x}", "a,b",
    "C:\\dir\\", "end\\'", "line1\nline2", "tab\tx", "", "x: y #1", "'", "\\", "ü😀", "${oc.env:HOME", "5", "true",
    "a\\b ${x} c\\\\d", "~x", " spaced ", "*", "\\\\'", "null ", "'a','b'", "choice(a,b)", "-m", "--help",
]  # fmt: skip


@pytest.mark.parametrize("text", TEXTS)
def test_a_prompt_is_taken_as_it_was_typed(text: str) -> None:
    typed = with_texts([f"prompt={text}"], FIELDS)
    assert with_texts(typed, FIELDS) == typed
    (override,), unread = read_overrides(typed)
    assert not unread
    assert OmegaConf.to_container(OmegaConf.create({"prompt": override.value()}), resolve=True) == {"prompt": text}


def test_prompt_and_system_come_out_of_a_whole_command_as_they_went_in() -> None:
    prompt, system = 'it\'s ${seed}, \\${x} "and" [more]\n', "a=b, c: \\"
    config, unfit = compose_config("predict", with_texts([f"prompt={prompt}", f"system={system}"], FIELDS), CONF)
    assert not unfit
    assert config is not None
    assert [config.prompt, config.system] == [prompt, system]


def test_quotes_of_hydra_and_other_keys_stay_as_they_are() -> None:
    texts = ["prompt='a, b'", 'system="a, b"', "prompt=null", "run=a,b", "lora.r=4,8", "--cfg", "prompt"]
    assert with_texts(texts, FIELDS) == texts
