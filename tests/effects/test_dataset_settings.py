"""The effects of dataset and problem settings (spec 1.1, 1.2 and the X-rows of the data), through composed configs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from tests.effects.small_runs import CONF, Columns, material_of, results, settings_of, trained

from leyden.data.collator import Collator
from leyden.data.datamodule import Prepared
from leyden.settings.composition import compose_config
from leyden.settings.errors import ConfigError, DataError
from leyden.settings.read import dump, read
from leyden.settings.schema import Settings
from leyden.training.assembly import load_backbone, make_data
from leyden.training.prepare import prepare

END = "<|im_end|>"
CHAIN: Columns = {
    "id": [1, 2, 3, 4],
    "parent": [None, 1.0, 2.0, None],
    "p": ["P1", "P2", "P3", "alone"],
    "q": ["Q1", "Q2", "Q3", "Q4"],
    "a": ["A1", "A2", "A3", "B"],
    "r": ["A1", "A2", "worse", "bad"],
    "s": ["be kind", "unused", "unused", None],
    "k": [0, 1, 1, 0],
}
PARENT = ["dataset.parent_id_column=parent", "dataset.id_column=id"]
PAIRS = ["problem=dpo", "dataset.rejected_answer_column=r"]


def texts(part: Prepared, material: Any) -> list[str]:
    return [material.tokenizer.decode(part.trees[n].tree.tokens.tolist()) for n in range(len(part.trees))]


def targets(part: Prepared, material: Any, sequence: int = 0) -> list[str]:
    trees = [part.trees[n].tree for n in range(len(part.trees))]
    return [material.tokenizer.decode(t.tokens[t.targets[t.sequences == sequence]].tolist()) for t in trees]


def written(folder: Path, *overrides: str, columns: Columns = CHAIN) -> list[str]:
    material = material_of(folder, columns, *overrides)
    return texts(material.train, material)


def turn(prompt: str, answer: str) -> str:
    return f"<|prompt|>{prompt}{END}<|answer|>{answer}{END}"


def composed(*overrides: str) -> tuple[Any, list[str]]:
    return compose_config("train", ["backbone=tiny", *overrides], CONF)


# 1.1 General


def test_g1_one_choice_of_a_dataset_brings_file_and_columns_and_each_can_be_overridden() -> None:
    known = [OmegaConf.to_container(composed(f"dataset={name}")[0].dataset) for name in ("helpdesk", "table")]
    differing = {key for key in known[0] if known[0][key] != known[1][key]}
    assert {"train_dataframe", "prompt_column", "answer_column"} <= differing
    assert composed("dataset=helpdesk", "dataset.prompt_column=topic")[0].dataset.prompt_column == "topic"
    _, faults = composed("dataset=helpdesc")
    assert len(faults) == 1
    assert "helpdesk" in faults[0]
    assert "table" in faults[0]


def test_g2_a_problem_has_its_own_losses_metrics_and_keys(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="metric=bleu does not go with this problem"):
        settings_of(tmp_path, CHAIN, "problem=classification", "dataset.answer_column=k", "metric=bleu")
    with pytest.raises(ConfigError, match="problem/loss=squared_error reads scores"):
        settings_of(tmp_path, CHAIN, "problem/loss=squared_error")
    assert composed("problem=dpo")[0].problem.loss.beta == pytest.approx(0.1, abs=0.2)
    config, faults = composed("problem=causal_lm", "problem.loss.beta=0.3")
    assert len(faults) == 1
    assert "beta" in faults[0]
    assert config is None or "beta" not in config.problem.loss


def test_g3_a_saved_config_comes_back_the_same_and_the_command_line_wins(tmp_path: Path) -> None:
    run = trained(tmp_path, CHAIN, "trainer.epochs=0")
    saved = (run / "config.yaml").read_text(encoding="utf-8")

    def again(*overrides: str) -> Settings:
        with initialize_config_dir(str(run.absolute()), version_base="1.3"):
            config = compose("config", list(overrides))
        return read(config)

    settings = again()
    other = dump(again("seed=7"))
    assert yaml.safe_load(saved).keys() >= dump(settings).keys()
    reloaded = yaml.safe_load(saved)
    assert {key: reloaded[key] for key in dump(settings)} == dump(settings)
    assert other == {**dump(settings), "seed": 7}
    from leyden.artifacts.job import run_job

    before = results(run)
    run_job(settings.model_copy(update={"overwrite": True}))
    assert results(run) == before
    again_saved = (run / "config.yaml").read_text(encoding="utf-8").replace("overwrite: true", "overwrite: false")
    names_run = re.compile(r"^# Run: .*$", re.MULTILINE)  # each has its own
    assert names_run.sub("", again_saved) == names_run.sub("", saved)


def test_g4_the_folder_is_called_like_the_run(tmp_path: Path) -> None:
    run = trained(tmp_path, CHAIN, "trainer.epochs=0", "experiment_name=by-its-name")
    assert not run.exists()
    assert (tmp_path / "by-its-name" / "results.json").is_file()


def test_g5_the_backbone_is_of_the_named_type_and_of_the_family_the_problem_needs(tmp_path: Path) -> None:
    for name in ("llama", "gpt2"):
        settings = settings_of(tmp_path, CHAIN, f"backbone.name=tiny:{name}", "lora=none")
        from leyden.training.prepare import prepare

        model = load_backbone(settings, prepare(settings))[0]
        assert model.config.model_type == name
    from leyden.settings.errors import ModelError

    with pytest.raises(ModelError, match="encoder"):
        material_of(tmp_path, CHAIN, "backbone.name=tiny:t5")
    with pytest.raises(ModelError, match="encoder"):
        material_of(tmp_path, CHAIN, "problem=seq2seq", "backbone.name=tiny:llama")


# 1.2 Dataset


@pytest.mark.parametrize("ending", ["csv", "CSV", "parquet", "PQ", "jsonl"])
def test_d1_every_row_of_the_file_is_read(tmp_path: Path, ending: str) -> None:
    frame = pd.DataFrame({"p": [f"p{n}" for n in range(7)], "a": [f"a{n}" for n in range(7)]})
    path = tmp_path / f"t.{ending}"
    if ending.lower() == "csv":
        frame.to_csv(path, index=False)
    elif ending == "jsonl":
        frame.to_json(path, orient="records", lines=True)
    else:
        frame.to_parquet(path)
    files = [f"dataset.train_dataframe={path}", f"dataset.validation_dataframe={path}"]
    assert material_of(tmp_path, CHAIN, *files).counts["train"]["rows"] == 7


def numbered(count: int) -> Columns:
    return {"p": [f"p{n}" for n in range(count)], "a": ["a"] * count, "k": [n % 2 for n in range(count)]}


def rows_of(folder: Path, *overrides: str, columns: Columns, same_rows: bool = False) -> tuple[list[int], list[int]]:
    material = material_of(folder, columns, *overrides, same_rows=same_rows)
    return list(material.train.trees.part.rows), list(material.validation.trees.part.rows)


def test_d2_d3_a_split_adds_up_and_depends_on_the_split_seed_alone(tmp_path: Path) -> None:
    train, validation = rows_of(tmp_path, "dataset.validation_size=0.1", columns=numbered(1000))
    assert (len(train), len(validation)) == (900, 100)
    assert sorted(train + validation) == list(range(1000))
    assert rows_of(tmp_path, "seed=5", columns=numbered(1000)) == (train, validation)
    assert rows_of(tmp_path, "dataset.split_seed=5", columns=numbered(1000)) != (train, validation)


def test_d2_a_table_of_its_own_is_read_as_it_stands(tmp_path: Path) -> None:
    _, validation = rows_of(tmp_path, columns=numbered(30), same_rows=True)
    assert validation == list(range(30))


@pytest.mark.parametrize(("rows", "share", "left"), [(1000, 0.05, 50), (100, 0.05, 10), (6, 0.05, 6)])
def test_d4_the_size_of_a_sample(tmp_path: Path, rows: int, share: float, left: int) -> None:
    train, validation = rows_of(tmp_path, f"dataset.data_sample={share}", columns=numbered(rows), same_rows=True)
    assert (len(train), len(validation)) == (left, left)


def test_x3_only_the_named_part_is_thinned_out(tmp_path: Path) -> None:
    thin = ["dataset.data_sample=0.05", "dataset.data_sample_choice=[train]"]
    train, validation = rows_of(tmp_path, *thin, columns=numbered(400), same_rows=True)
    assert (len(train), len(validation)) == (20, 400)


def test_d4_no_conversation_is_cut(tmp_path: Path) -> None:
    chains = {"id": list(range(60)), "parent": [n - 1 if n % 3 else None for n in range(60)], "p": ["x"] * 60,
              "a": ["y"] * 60}  # fmt: skip
    train, _ = rows_of(tmp_path, *PARENT, "dataset.data_sample=0.3", columns=chains, same_rows=True)
    assert len(train) == 18
    assert all(row // 3 * 3 + step in train for row in train for step in range(3))


def test_d5_x5_x6_a_system_text_stands_first_and_a_blank_one_leaves_nothing(tmp_path: Path) -> None:
    found = written(tmp_path, *PARENT, "dataset.system_column=s")
    assert found[0].startswith(f"<|system|>be kind{END}<|prompt|>P1")
    assert found[1] == turn("alone", "B")
    assert "nan" not in "".join(found)
    assert "unused" not in "".join(found)
    bare = written(tmp_path, *PARENT, "dataset.system_column=s", "dataset.add_eos_token_to_system=false")
    assert bare[0] == found[0].replace(f"be kind{END}", "be kind")
    other = written(tmp_path, *PARENT, "dataset.system_column=s", r"dataset.text_system_start='SYS\n'")
    assert other[0] == found[0].replace("<|system|>", "SYS\n")


def test_d6_d7_prompt_columns_are_joined_in_their_order(tmp_path: Path) -> None:
    two = written(tmp_path, "dataset.prompt_column=[q,p]", r"dataset.prompt_column_separator=' \u2014\t'")
    assert two[0] == turn("Q1 —\tP1", "A1")
    one = [written(tmp_path, f"dataset.prompt_column_separator={mark}") for mark in ("'-'", "'+'")]
    assert one[0] == one[1]
    assert written(tmp_path, "dataset.prompt_column=[]")[0] == f"A1{END}"


def test_d8_targets_are_the_cells_and_labels_a_column_each(tmp_path: Path) -> None:
    material = material_of(tmp_path, CHAIN)
    assert targets(material.train, material) == [f"{cell}{END}" for cell in CHAIN["a"]]
    collate = Collator("packed", 257)
    for columns, width in (("k", 1), ("[k,id]", 2)):
        problem = "problem=regression" if width == 2 else "problem=classification"
        trees = material_of(tmp_path, CHAIN, problem, f"dataset.answer_column={columns}").train.trees
        assert tuple(collate([trees[n] for n in range(4)]).labels.shape) == (4, width)
    with pytest.raises(ConfigError, match="Name one column"):
        settings_of(tmp_path, CHAIN, "dataset.answer_column=[a,q]")
    with pytest.raises(DataError, match="a"):
        material_of(tmp_path, {**CHAIN, "a": ["1", None, "2", "3"]})


def test_d9_x4_x7_a_chain_is_one_sample_or_one_per_row(tmp_path: Path) -> None:
    whole = turn("P1", "A1") + turn("P2", "A2") + turn("P3", "A3")
    assert written(tmp_path, *PARENT) == [whole, turn("alone", "B")]
    every = written(tmp_path, *PARENT, "dataset.limit_chained_samples=false")
    assert every == [turn("P1", "A1"), turn("P1", "A1") + turn("P2", "A2"), whole, turn("alone", "B")]
    with pytest.raises(ConfigError, match="limit_chained_samples=false does not go with pairs"):
        settings_of(tmp_path, CHAIN, *PAIRS, *PARENT, "dataset.limit_chained_samples=false")


def test_samples_of_one_conversation_share_a_batch_unless_they_are_drawn_apart(tmp_path: Path) -> None:
    rows = range(24)  # eight conversations of three turns
    table = {
        "id": [*rows],
        "parent": [row - 1 if row % 3 else None for row in rows],
        "p": [f"prompt {row // 3} {row % 3}" for row in rows],
        "a": [f"answer {row}" for row in rows],
    }
    every = [*PARENT, "dataset.limit_chained_samples=false", "trainer.batch_size=3"]
    shared = []
    for choice in ("true", "false"):
        settings = settings_of(tmp_path, table, *every, f"dataset.group_conversations={choice}")
        data = make_data(settings, prepare(settings), Collator("packed", 257))
        batches = [batch for passes in data.train_dataloader() for batch in passes]
        shared.append(sum(batch.num_shared for batch in batches))
        assert sum(batch.num_tokens for batch in batches) + shared[-1] == data.train.fit.tokens
    assert 2.5 * shared[1] < shared[0] <= data.train.fit.tokens / 2
    run = trained(tmp_path, table, *every, "trainer.epochs=1", "lora=none", "trainer.batch_size=6")
    counted = json.loads((run / "manifest.json").read_text())["training_tokens"]
    assert counted["shared"] >= shared[0]
    assert sum(counted.values()) == data.train.fit.tokens
    assert f"{counted['shared']:,} of {data.train.fit.tokens:,} training tokens (" in (run / "train.log").read_text()
    with pytest.raises(ConfigError, match="group_conversations has no effect"):
        settings_of(tmp_path, table, explicit=frozenset({"dataset.group_conversations"}))


def test_d10_d11_markers_stand_in_every_turn_and_unicode_survives(tmp_path: Path) -> None:
    own = ["dataset.text_prompt_start='质'", r"dataset.text_answer_separator='\n答\n'"]
    found = written(tmp_path, *PARENT, *own)
    assert found[0].count("质") == found[0].count("\n答\n") == 3
    material = material_of(tmp_path, CHAIN, *own)
    tree = material.train.trees[3].tree
    separator = material.tokenizer("\n答\n", add_special_tokens=False)["input_ids"]
    first = int(tree.targets[0])
    assert tree.tokens[first - len(separator) : first].tolist() == separator
    assert {"质", "答"} <= set(material.template.stops)
    with pytest.raises(ConfigError, match="broken escape"):
        settings_of(tmp_path, CHAIN, "dataset.text_prompt_start='x\\u00'")


@pytest.mark.parametrize(("prompt", "answer"), [(True, True), (True, False), (False, True), (False, False)])
def test_d12_d13_each_end_token_has_its_switch(tmp_path: Path, prompt: bool, answer: bool) -> None:
    flags = [f"dataset.add_eos_token_to_prompt={prompt}", f"dataset.add_eos_token_to_answer={answer}"]
    material = material_of(tmp_path, CHAIN, *PARENT, *flags)
    assert texts(material.train, material)[0].count(END) == 3 * (prompt + answer)
    assert targets(material.train, material)[1] == "B" + END * answer


def test_d13_a_cut_answer_has_no_end(tmp_path: Path) -> None:
    material = material_of(tmp_path, {"p": ["x", "y"], "a": ["z" * 200, "w"]}, "tokenizer.max_length=64")
    assert [cell.endswith(END) for cell in targets(material.train, material)] == [False, True]


def test_d14_x8_which_tokens_are_targets(tmp_path: Path) -> None:
    def found(*overrides: str) -> str:
        material = material_of(tmp_path, CHAIN, *PARENT, *overrides)
        return targets(material.train, material)[0]

    whole = turn("P1", "A1") + turn("P2", "A2") + turn("P3", "A3")
    assert found() == f"A1{END}A2{END}A3{END}"
    assert found("dataset.mask_prompt_labels=false") == whole[1:]  # one token per byte here
    assert found("dataset.only_last_answer=true") == f"A3{END}"
    with pytest.raises(ConfigError, match="only_last_answer=true does not go with"):
        settings_of(tmp_path, CHAIN, *PARENT, "dataset.only_last_answer=true", "dataset.mask_prompt_labels=false")


@pytest.mark.parametrize(("classes", "shape"), [("null", (1, 64)), ("2", (2, 64)), ("5", (5, 64)), ("1", (1, 64))])
def test_d15_the_head_is_as_wide_as_num_classes(tmp_path: Path, classes: str, shape: tuple[int, int]) -> None:
    overrides = ["problem=classification", "dataset.answer_column=k", f"problem.num_classes={classes}", "lora=none"]
    settings = settings_of(tmp_path, CHAIN, *overrides)
    from leyden.training.prepare import prepare

    model: Any = load_backbone(settings, prepare(settings))[0]
    assert tuple(model.score.weight.shape) == shape


# X-rows


def test_x1_everything_is_written_below_the_output_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = tmp_path / "cwd"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    trained(tmp_path, CHAIN, "trainer.epochs=0", f"output_directory={tmp_path / 'out'}")
    assert {path.name for path in tmp_path.iterdir()} == {"cwd", "out", "table.jsonl"}
    assert not list(elsewhere.iterdir())


def test_x2_without_a_table_custom_validation_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs a table"):
        settings_of(tmp_path, CHAIN, "dataset.validation_strategy=custom", same_rows=False)


def test_x4_two_equal_ids_are_a_fault(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="id"):
        material_of(tmp_path, {**CHAIN, "id": [1, 1, 3, 4]}, *PARENT)


def test_x9_x10_x11_names_are_replaced_in_prompts_and_answers(tmp_path: Path) -> None:
    table: Columns = {"p": ["Who is Open Assistant?", "Hi"], "a": ["I am Open Assistant, made by LAION.", "ChatGPT"],
                      "s": ["You are Open Assistant."] * 2}  # fmt: skip
    own = ["dataset.chatbot_name=Fynn", "dataset.chatbot_author=Sea"]
    found = written(tmp_path, "dataset.system_column=s", "dataset.personalize=true", *own, columns=table)
    system = f"<|system|>You are Open Assistant.{END}"
    assert found[0] == system + turn("Who is Fynn?", "I am Fynn, made by Sea.")
    off = written(tmp_path, "dataset.system_column=s", columns=table)
    assert off[0] == system + turn(str(table["p"][0]), str(table["a"][0]))


def test_x12_x13_the_worse_side_has_its_prompt_and_answer(tmp_path: Path) -> None:
    material = material_of(tmp_path, CHAIN, *PAIRS)
    assert targets(material.train, material, 1) == [f"{cell}{END}" for cell in CHAIN["r"]]
    own = material_of(tmp_path, CHAIN, *PAIRS, "dataset.rejected_prompt_column=q")
    tree = own.train.trees[2].tree
    paths = [own.tokenizer.decode(tree.tokens[path].tolist()) for path in tree.paths()]
    assert paths == [turn("P3", "A3"), turn("Q3", "worse")]
    with pytest.raises(DataError, match="Only the last turn of a conversation may hold two answers"):
        material_of(tmp_path, {**CHAIN, "r": ["other", "A2", "worse", "bad"]}, *PAIRS, *PARENT)


@pytest.mark.parametrize(("drop", "sizes"), [(True, [4, 4]), (False, [4, 4, 2])])
def test_x17_r7_an_incomplete_last_batch(tmp_path: Path, drop: bool, sizes: list[int]) -> None:
    overrides = ["trainer.batch_size=4", f"trainer.drop_last_batch={drop}"]
    settings = settings_of(tmp_path, numbered(10), *overrides)
    from leyden.training.prepare import prepare

    data = make_data(settings, prepare(settings), Collator("packed", 257))
    assert [sum(len(part.samples) for part in batch) for batch in data.train_dataloader()] == sizes


@pytest.mark.parametrize("beta", [0.05, 0.7])
def test_x18_x19_beta_and_gamma_reach_the_loss(tmp_path: Path, beta: float) -> None:
    own = ["problem/loss=simpo", f"problem.loss.beta={beta}", "problem.loss.gamma=0.4", "trainer.epochs=0"]
    run = trained(tmp_path, CHAIN, *PAIRS, *own)
    table = pd.read_parquet(run / "predictions.parquet")
    margins = table["reward_margin"].to_numpy()  # beta times the difference of the means
    np.testing.assert_allclose(table["loss"].to_numpy(), np.log1p(np.exp(0.4 - margins)), rtol=1e-5)
    plain = json.loads((run / "results.json").read_text())["final"]["validation/loss"]
    assert plain == pytest.approx(table["loss"].mean(), rel=1e-5)
    for wrong in ("problem.loss.beta=0", "problem.loss.gamma=-1"):
        with pytest.raises(ConfigError, match=wrong.split("=", maxsplit=1)[0]):
            settings_of(tmp_path, CHAIN, *PAIRS, *own, wrong)
