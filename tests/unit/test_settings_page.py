"""The page of all settings, read back with a Markdown parser and compared with what Hydra composes."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from omegaconf import DictConfig, OmegaConf

from leyden import settings_page
from leyden.settings.composition import compose_config
from leyden.settings.config_files import flat
from leyden.settings.schema import ExportSettings, PredictSettings, Settings
from leyden.settings.wording import fields_of

ROOT = Path(__file__).resolve().parents[2]
CONF = ROOT / "conf"
TEXT = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
HEADS = ["key", "type and range", "default", "meaning", "in H2O LLM Studio"]
VARIANT = re.compile(r"(?P<value>.*) with (?P<choices>`[^`]+`(, `[^`]+`)*)")
Row = tuple[str, ...]


def tables(text: str) -> Iterator[tuple[str, list[str], list[Row]]]:
    """Heading, column heads and rows of every table, as a reader of Markdown sees them."""
    title, heads, rows, cells = "", list[str](), list[Row](), list[str]()
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    for token, content in zip(tokens, [*tokens[1:], tokens[-1]], strict=True):
        if token.type == "heading_open":
            title = content.content
        elif token.type in ("th_open", "td_open"):
            cells.append(content.content)
        elif token.type == "tr_close":
            heads, rows = (heads, [*rows, tuple(cells)]) if heads else (cells, [])
            cells = []
        elif token.type == "table_close":
            yield title, heads, rows
            heads = []


def rows_of(text: str) -> dict[str, dict[str, Row]]:
    """The rows about keys, for each of the commands, by key."""
    found: dict[str, dict[str, Row]] = {"train": {}, "predict": {}, "export": {}}
    for title, heads, rows in tables(text):
        if heads == HEADS:
            part = found[{"predict.py": "predict", "leyden.export": "export"}.get(title, "train")]
            for row in rows:
                key = row[0].strip("`")
                assert key not in part, f"{key} stands there twice"
                part[key] = row
    return found


ROWS = rows_of(TEXT)


def choices_of(title: str, text: str = TEXT) -> dict[str, Row]:
    (rows,) = [rows for name, heads, rows in tables(text) if name == title and heads[0] in ("choice", "choices")]
    return {row[0].strip("`"): row for row in rows}


def composed(*overrides: str, name: str = "train") -> DictConfig:
    config, faults = compose_config(name, overrides, CONF)
    assert config is not None, faults
    assert not faults
    return config


def leaves(config: DictConfig) -> dict[str, object]:
    tree = OmegaConf.to_container(config, resolve=True, throw_on_missing=False)
    assert isinstance(tree, dict)
    return {key: value for key, value in flat(tree) if key != "logger"}  # a leaf where no tracker is chosen


def says(cell: str, value: object) -> bool:
    """Whether a piece of a cell stands for a value; YAML is what reads it, as on the command line."""
    if value == "???":
        return cell == "must be set"
    text = cell.strip("`")
    return text == str(value) or OmegaConf.create(f"x: {text}").x == value


def value_with(cell: str, chosen: set[str]) -> str | None:
    """What a cell says for some choices; None where it says that they have other values, or no such key."""
    default, variants = None, {}
    for part in cell.split("; "):
        if match := VARIANT.fullmatch(part):
            first, *rest = match["choices"].replace("`", "").split(", ")
            variants |= dict.fromkeys([first, *(f"{first.split('=')[0]}={name}" for name in rest)], match["value"])
        elif part == "others with other choices":
            return None
        else:
            default = part
    return next((variants[name] for name in sorted(chosen & set(variants))), default)


def test_the_page_is_what_the_code_and_the_files_say(capsys: pytest.CaptureFixture[str]) -> None:
    code = settings_page.main(["--check"])
    assert code == 0, capsys.readouterr().out


def test_every_key_has_one_full_row() -> None:
    for part, schema in (("train", Settings), ("predict", PredictSettings), ("export", ExportSettings)):
        fields = dict(fields_of(schema))
        keys = [key for key in fields if not any(other.startswith(f"{key}.") for other in fields)]
        shown = {key.replace("metric.NAME.", "metric.") for key in ROWS[part]}
        assert len(keys) > (3 if part == "export" else 20)
        assert set(keys) <= shown
    for rows in ROWS.values():
        assert not [row for row in rows.values() if len(row) != len(HEADS) or not all(cell.strip() for cell in row)]


def test_what_hydra_composes_stands_on_the_page() -> None:
    trackers = leaves(composed("logger=[tensorboard,wandb,neptune,mlflow]"))
    assert {key for key in trackers if key.startswith("logger.")} <= ROWS["train"].keys()
    for name in ("gpt", "bleu", "auc"):
        for key in leaves(composed(f"metric={name}")):
            head, _, knob = key.rpartition(".")
            assert key in ROWS["train"] or (head == f"metric.{name}" and f"metric.NAME.{knob}" in ROWS["train"])
    for name in ("predict", "export"):
        assert set(leaves(composed(name=name))) == set(ROWS[name])


@pytest.mark.parametrize(
    "choices",
    [
        [],
        ["problem=dpo", "problem/loss=hinge", "trainer=gpu", "schedule=linear", "lora=rslora"],
        ["problem=classification", "problem/loss=label_cross_entropy", "trainer=ddp", "lora=dora"],
        ["problem=seq2seq", "problem/loss=token_averaged_cross_entropy", "schedule=constant", "checkpoint=disable"],
    ],
    ids=lambda choices: " ".join(choices) or "defaults",
)
def test_defaults_are_those_of_hydra(choices: list[str]) -> None:
    compared = 0
    for key, value in leaves(composed("dataset=table", *choices)).items():
        if not key.startswith("metric."):
            cell = value_with(ROWS["train"][key][2], {"dataset=table", *choices})
            assert cell is None or says(cell, value), f"{key}={value!r}, on the page: {cell}"
            compared += cell is not None
    assert compared > 80


def test_a_dataset_changes_what_the_page_says() -> None:
    for name in ("auto", "messages", "text"):
        for key, value in leaves(composed(f"dataset={name}").dataset).items():
            cell = value_with(ROWS["train"][f"dataset.{key}"][2], {f"dataset={name}"})
            if cell is not None and not cell.startswith("["):
                assert says(cell, value), f"dataset.{key}={value!r} with {name}, on the page: {cell}"


def test_known_tables_bring_what_the_page_says() -> None:
    rows = choices_of("Known tables")
    assert len(rows) >= 5
    for choice in ("dataset=helpdesk problem=causal_lm", "dataset=helpdesk problem=dpo"):
        config = composed(*choice.split())
        pairs = [pair.split("=", 1) for pair in re.findall(r"`([^`]+)`", rows[choice][2])]
        assert pairs
        for key, text in pairs:
            assert says(text, OmegaConf.select(config, key)), f"{key} with {choice}"
            assert "(#known-tables) with `dataset=helpdesk`" in ROWS["train"][key][2]


def test_a_row_tells_type_range_meaning_and_foreign_name() -> None:
    assert ROWS["train"]["lora.r"] == (
        "`lora.r`", "a whole number, at least 1", "`4`; `256` with `lora=vera`; none with `lora=ia3`, `oft`",
        "Rank of the adapters.", "`training.lora_r`",
    )  # fmt: skip
    assert ROWS["train"]["trainer.gradient_clip"][2] == "`0.0`; `10.0` with `problem=dpo`"
    assert ROWS["train"]["problem.recommended.gradient_clip"][3] == "Default of `trainer.gradient_clip`."
    assert ROWS["train"]["dataset.text_prompt_start"][2].startswith("`<|prompt|>`; ")
    assert ROWS["train"]["lora.target_modules"][1] == "a list such as [a,b], each text; or null"
    assert ROWS["predict"]["generation.top_p"][1] == "a number, above 0, at most 1; or null"


def test_keys_of_one_choice_have_the_words_of_its_file() -> None:
    assert ROWS["train"]["problem.loss.average"][1:4] == (
        "true or false", "`true` with `problem/loss=hinge`", "mean log-probability per token; false: the sum.",
    )  # fmt: skip
    assert ROWS["train"]["metric.gpt.score_range"][1] == "a list such as [a,b], each a number; or null"
    assert ROWS["train"]["metric.gpt.model"][4] == "`prediction.metric_gpt_model`"
    assert "Handed to `torch.optim.Adam`, `torch.optim.AdamW`" in ROWS["train"]["optimizer.betas"][3]
    assert "`beta` (> 0; pulls the margin to 1 / (2 beta))" in choices_of("problem/loss")["ipo"][2]


@pytest.mark.parametrize(
    "group",
    [
        "problem",
        "problem/loss",
        "backbone",
        "dataset",
        "lora",
        "schedule",
        "trainer",
        "metric",
        "logger",
        "experiment",
        "sweep",
    ],
)
def test_every_choice_is_listed_with_words(group: str) -> None:
    rows = choices_of(group)
    files = {file.stem for file in (CONF / group).glob("*.yaml") if not file.stem.startswith("_")}
    assert set(rows) == files
    assert all(row[1] for row in rows.values())


def test_names_of_h2o_are_those_of_its_experiment_files() -> None:
    problems = {name: row[3].strip("`") for name, row in choices_of("problem").items()}
    assert problems["dpo"] == "text_dpo_modeling"
    assert choices_of("problem/loss")["squared_error"][3] == "`MSELoss`"
    assert ROWS["train"]["backbone.name"][4] == "`llm_backbone`"
    assert ROWS["train"]["seed"][4] == "`environment.seed`"
    assert ROWS["train"]["trainer.max_bad_steps"][4] == "–"


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a copy of conf, and the page in it."""
    shutil.copytree(CONF, tmp_path / "conf")
    (tmp_path / "docs").mkdir()
    monkeypatch.setattr(settings_page, "CONFIG_DIR", tmp_path / "conf")
    monkeypatch.setattr(settings_page, "PAGE", tmp_path / "docs" / "settings.md")
    return tmp_path


def test_a_change_makes_the_page_stale_until_it_is_written(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = checkout / "docs" / "settings.md"
    page.write_text(TEXT, encoding="utf-8")
    loss = checkout / "conf" / "problem" / "loss" / "mine.yaml"
    loss.write_text(
        "# Mine | and yours.\n_target_: some.where\nscores: pair\nslope: 1e-3  # above 0\n", encoding="utf-8"
    )
    lora = checkout / "conf" / "lora" / "lora.yaml"
    lora.write_text(lora.read_text(encoding="utf-8").replace("r: 4 ", "r: 7 "), encoding="utf-8")
    assert settings_page.main(["--check"]) == 1
    assert "stale. Write it anew: make docs" in capsys.readouterr().out
    assert page.read_text(encoding="utf-8") == TEXT
    assert settings_page.main([]) == 0
    new = page.read_text(encoding="utf-8")
    rows = rows_of(new)["train"]
    assert rows["problem.loss.slope"][1:4] == ("a number", "`0.001` with `problem/loss=mine`", "above 0.")
    assert rows["lora.r"][2] == (
        "`7`; `4` with `lora=dora`, `loha`, `lokr`, `rslora`; `256` with `lora=vera`; none with `lora=ia3`, `oft`"
    )
    assert choices_of("problem/loss", new)["mine"][1] == "Mine | and yours."


def test_a_missing_page_is_stale_and_a_broken_file_is_a_fault_of_the_user(
    checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = checkout / "conf" / "backbone" / "qwen.yaml"
    broken.write_text("defaults: [_shraed, _self_]\nname: x\n", encoding="utf-8")
    assert settings_page.main([]) == 2
    assert "_shraed" in capsys.readouterr().err
    assert not (checkout / "docs" / "settings.md").exists()
