from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import datasets
import pandas as pd
import pytest

from leyden.data.hub import load
from leyden.data.table import read_table
from leyden.settings.errors import ConfigError, DataError
from leyden.settings.locations import HubTable, hub_table, table_faults, table_path

FRAME = pd.DataFrame(
    {
        "text": ["one", None, "None"],
        "number": pd.array([1, None, 2**60 + 1], dtype="Int64"),
        "messages": [[{"role": "user", "content": "x"}], None, []],
    }
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A dataset folder as the hub holds it: two configs, one with two splits."""
    root = tmp_path_factory.mktemp("dataset")
    for name in ("data", "other"):
        (root / name).mkdir()
    FRAME.to_parquet(root / "data" / "train-00000-of-00001.parquet")
    FRAME.tail(1).to_parquet(root / "data" / "test-00000-of-00001.parquet", index=False)
    pd.DataFrame({"a": ["x"]}).to_parquet(root / "other" / "train-00000-of-00001.parquet")
    (root / "README.md").write_text(
        "---\nconfigs:\n- config_name: main\n  default: true\n  data_files:\n"
        "  - {split: train, path: data/train-*}\n  - {split: test, path: data/test-*}\n"
        "- config_name: other\n  data_files:\n  - {split: train, path: other/train-*}\n---\n"
    )
    datasets.disable_progress_bars()
    yield root
    datasets.enable_progress_bars()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("hub:owner/name", HubTable("owner/name", None, "train", None)),
        ("hub:owner/na.me_1-x:en/test", HubTable("owner/na.me_1-x", "en", "test", None)),
        ("hub:owner/name/train_sft", HubTable("owner/name", None, "train_sft", None)),
        ("hub:owner/name:wiki-2.0", HubTable("owner/name", "wiki-2.0", "train", None)),
        ("hub:owner/name:c/s@refs/pr/1", HubTable("owner/name", "c", "s", "refs/pr/1")),
        ("hub:owner/name@v1.0", HubTable("owner/name", None, "train", "v1.0")),
        ("hub:name", None),
        ("hub:", None),
        ("hub:owner/name/", None),
        ("hub:owner/name/a/b", None),
        ("hub:owner/name@", None),
        ("hub:../name", None),
        ("hub:owner/name:", None),
        ("hub:owner/na me", None),
    ],
)
def test_the_syntax(name: str, expected: HubTable | None) -> None:
    assert hub_table(name) == expected
    assert str(table_path(name)) == name.rstrip("/")
    faults = list(table_faults(name, "dataset.train_dataframe"))
    assert bool(faults) == (expected is None)
    if expected is None:
        assert "hub:owner/name[:config][/split][@revision]" in faults[0]
        with pytest.raises(ConfigError, match="names no dataset of the hub|must end in|No such"):
            read_table("hub:owner/name/a/b" if name == "hub:owner/name/" else name)


def test_hydra_takes_the_syntax_without_quotes() -> None:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    name = "hub:owner/na-me_1:wiki-2.0/train_sft@refs/pr/1"
    assert OverridesParser.create().parse_override(f"dataset.train_dataframe={name}").value() == name


def test_rows_equal_the_parquet_file(folder: Path) -> None:
    frame, sha256, notes = load(HubTable(str(folder), None, "train", None), "x=hub")
    direct = read_table(folder / "data" / "train-00000-of-00001.parquet")
    assert len(frame) == 3
    assert list(frame.columns) == list(direct.frame.columns)
    assert frame["text"].tolist()[0::2] == ["one", "None"]
    assert frame["number"].tolist()[2] == 2**60 + 1
    assert direct.cells("number")[2] == 2**60 + 1
    assert frame["messages"][0][0] == {"role": "user", "content": "x"}
    assert load(HubTable(str(folder), None, "train", None), "x=hub")[1] == sha256
    assert load(HubTable(str(folder), None, "test", None), "x=hub")[1] != sha256
    assert notes == []


def test_config_split_and_their_faults(folder: Path) -> None:
    assert len(load(HubTable(str(folder), "main", "test", None), "x=hub")[0]) == 1
    assert load(HubTable(str(folder), "other", "train", None), "x=hub")[0]["a"].tolist() == ["x"]
    for config, split, reason in [("none", "train", "'main', 'other'"), (None, "dev", "train', 'test'")]:
        with pytest.raises(DataError, match="x=hub cannot be loaded: ") as caught:
            load(HubTable(str(folder), config, split, None), "x=hub")
        assert reason in str(caught.value)


def test_read_table_knows_where_its_rows_stand(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("leyden.data.hub.hub_table", lambda name: HubTable(str(folder), None, "train", None))
    table = read_table("hub:owner/name")
    assert (len(table), table.texts("text"), table.places([0, 2])) == (3, ["one", None, "None"], "rows 1, 3")
    assert table.texts("number") == ["1", None, str(2**60 + 1)]
    assert (str(table.path), table.files[0].kind, len(table.sha256)) == ("hub:owner/name", "hub", 64)
    with pytest.raises(DataError, match="column 'messages' holds a list"):
        table.cells("messages")


def test_class_numbers_are_explained(tmp_path: Path) -> None:
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["ham", "spam"])}
    )
    rows = datasets.Dataset.from_dict({"text": ["x", "y"], "label": [0, 1]}, features=features)
    rows.to_parquet(str(tmp_path / "train.parquet"))
    frame, _, notes = load(HubTable(str(tmp_path), None, "train", None), "x=hub")
    assert frame["label"].tolist() == [0, 1]
    assert notes == ["column 'label' holds class numbers: 0 is 'ham', 1 is 'spam'."]


def test_a_folder_without_data_and_a_script_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="x=hub"):
        load(HubTable(str(tmp_path), None, "train", None), "x=hub")
    (tmp_path / f"{tmp_path.name}.py").write_text("raise SystemExit('this code must not run')")
    with pytest.raises(DataError, match="x=hub"):
        load(HubTable(str(tmp_path), None, "train", None), "x=hub")


def test_offline_is_said() -> None:
    with pytest.raises(
        DataError, match=r"dataset\.train_dataframe=hub:owner/none: the hub cannot be reached .*Offline"
    ):
        read_table("hub:owner/none")


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    (fault,) = table_faults("hub:owner/name", "dataset.train_dataframe")
    assert 'pip install "leyden[hub]"' in fault
    with pytest.raises(ConfigError, match=r"dataset\.train_dataframe=hub:owner/name needs the package datasets"):
        read_table("hub:owner/name")
