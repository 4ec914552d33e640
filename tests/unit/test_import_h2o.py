from __future__ import annotations

import io
import re
import shutil
import tempfile
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf

from leyden.import_h2o import main
from leyden.settings.composition import compose_config
from leyden.settings.errors import ConfigError
from leyden.settings.escapes import decode_escapes
from leyden.settings.h2o import file_name, read_old
from leyden.settings.h2o_keys import TABLE
from leyden.settings.h2o_values import marker
from leyden.settings.read import read
from leyden.settings.schema import Settings

ROOT = Path(__file__).resolve().parents[2]
CONF = ROOT / "conf"

CHAT = """
architecture:
    backbone_dtype: bfloat16
    gradient_checkpointing: true
    intermediate_dropout: 0.0
    pretrained: true
    pretrained_weights: ''
augmentation: {neftune_noise_alpha: 5.0, random_parent_probability: 0.0, skip_parent_probability: 0.1}
dataset:
    add_eos_token_to_answer: true
    add_eos_token_to_prompt: false
    answer_column: output
    chatbot_author: H2O.ai
    chatbot_name: h2oGPT
    data_sample: 0.5
    data_sample_choice: [Train]
    id_column: id
    limit_chained_samples: false
    mask_prompt_labels: true
    only_last_answer: false
    parent_id_column: parent_id
    personalize: false
    prompt_column: [instruction]
    prompt_column_separator: \\n\\n
    system_column: None
    text_answer_separator: <|answer|>
    text_prompt_start: <|prompt|>
    text_system_start: '[SYS]'
    train_dataframe: train.csv
    validation_dataframe: None
    validation_size: 0.2
    validation_strategy: automatic
environment:
    compile_model: false
    deepspeed_method: ZeRO2
    deepspeed_reduce_bucket_size: 1000000
    gpus: ['0', '1', '2']
    huggingface_branch: main
    mixed_precision: false
    number_of_workers: 8
    seed: -1
    trust_remote_code: true
    use_deepspeed: false
experiment_name: merry-heron.2
llm_backbone: tiny:llama
logging: {logger: None, neptune_project: ''}
output_directory: output/user/merry-heron.2/
prediction:
    batch_size_inference: 0
    do_sample: false
    max_length_inference: 64
    metric: BLEU
    metric_gpt_model: gpt-3.5-turbo-0301
    metric_gpt_template: general
    num_beams: 2
    stop_tokens: ''
    temperature: 0.3
problem_type: text_causal_language_modeling
tokenizer:
    add_prompt_answer_tokens: false
    max_length: 256
    padding_quantile: 0.9
    tokenizer_kwargs: '{"use_fast": true, "add_prefix_space": false}'
training:
    attention_implementation: sdpa
    batch_size: 4
    epochs: 2
    freeze_layers: []
    learning_rate: 1e-5
    lora: true
    lora_alpha: 32
    lora_dropout: 0.05
    lora_r: 8
    lora_target_modules: q_proj, v_proj
    lora_unfreeze_layers: [embed]
    loss_function: SampleAveragedCrossEntropy
    optimizer: AdamW
    save_checkpoint: last
    schedule: Linear
    min_learning_rate_ratio: 0.1
    use_dora: false
    use_rslora: true
"""
OLD_CHAT = """
architecture: {backbone_dtype: float16, force_embedding_gradients: true, gradient_checkpointing: false}
augmentation: {token_mask_probability: 0}
dataset:
    answer_column: output
    mask_prompt_labels: false
    prompt_column: instruction
    text_answer_separator: \\n
    text_prompt_start: ''
    train_dataframe: train.csv
    validation_dataframe: None
    validation_size: '0.2'
environment: {gpus: ['0'], mixed_precision: true, seed: 7, use_fsdp: false}
experiment_name: test
llm_backbone: tiny:llama
logging: {logger: None, number_of_texts: 10}
prediction: {metric: Perplexity, repetition_penalty: 1.2, stop_tokens: [], num_beams: 2}
problem_type: text_causal_language_modeling
tokenizer: {max_length: 144, max_length_answer: 256, max_length_prompt: 256, use_fast: true}
training:
    batch_size: 3
    learning_rate: '0.0003'
    lora: true
    lora_target_modules: ''
    save_best_checkpoint: false
    use_flash_attention_2: false
    use_rlhf: false
    kl_target: 6.0
"""
PAIRS = """
dataset:
    answer_column: chosen
    limit_chained_samples: true
    parent_id_column: None
    prompt_column: !!python/tuple [instruction]
    rejected_answer_column: rejected
    rejected_prompt_column: None
    text_answer_separator: ' [/INST]'
    text_prompt_start: '[INST] '
    train_dataframe: train.csv
    validation_dataframe: valid.csv
    validation_size: 0.01
    validation_strategy: custom
environment: {gpus: [''], mixed_precision: false}
experiment_name: pairs
llm_backbone: tiny:llama
prediction: {metric: GPT, metric_gpt_template: mt-bench, do_sample: true, temperature: 1, top_k: '20', top_p: 0.9}
problem_type: text_dpo_modeling
training:
    beta: 0.5
    gradient_clip: 10.0
    lora: false
    lora_r: 64
    loss_function: SimPOLoss
    simpo_gamma: 1.5
    schedule: Constant
    min_learning_rate_ratio: 0.1
"""
CLASSES = """
dataset:
    add_eos_token_to_answer: false
    add_eos_token_to_prompt: false
    answer_column: [label, label2]
    num_classes: 2
    parent_id_column: None
    prompt_column: [instruction]
    text_answer_separator: ''
    text_prompt_start: ''
    train_dataframe: train.csv
    validation_size: 0.2
environment: {gpus: ['3'], mixed_precision: true, mixed_precision_dtype: float16}
experiment_name: classes
llm_backbone: tiny:llama
prediction: {batch_size_inference: 8, metric: LogLoss}
problem_type: text_causal_classification_modeling
training: {loss_function: BinaryCrossEntropyLoss, differential_learning_rate_layers: [classification_head]}
"""
NUMBERS = """
dataset:
    answer_column: score
    num_classes: 1
    prompt_column: [instruction, output]
    prompt_column_separator: ' | '
    train_dataframe: train.csv
    validation_size: 0.2
experiment_name: numbers
llm_backbone: tiny:llama
prediction: {metric: MAE}
problem_type: text_causal_regression_modeling
training: {loss_function: MAELoss, epochs: 1}
"""
SOURCES = """
dataset:
    answer_column: output
    prompt_column: [instruction]
    text_answer_separator: ''
    text_prompt_start: 'summarize: '
    train_dataframe: train.csv
    validation_size: 0.2
environment: {mixed_precision: false, gpus: []}
experiment_name: sources
llm_backbone: tiny:t5
prediction: {metric: Perplexity, max_length_inference: 16}
problem_type: text_sequence_to_sequence_modeling
tokenizer: {max_length: 32}
training: {loss_function: TokenAveragedCrossEntropy, learning_rate: 0.001}
"""
FILES = {
    "chat": CHAT,
    "old_chat": OLD_CHAT,
    "pairs": PAIRS,
    "classes": CLASSES,
    "numbers": NUMBERS,
    "sources": SOURCES,
}
TABLE_TEXT = (
    "instruction,output,chosen,rejected,label,label2,score,id,parent_id\na,b,c,d,0,1,0.5,1,\ne,f,g,h,1,0,1.5,2,1\n"
)


@dataclass(frozen=True)
class Made:
    """What an import has made: the file, the composed tree, what was said, and what `train.py` reads of it."""

    text: str
    tree: Any
    said: str
    settings: Settings


def furnish(folder: Path) -> None:
    (folder / "experiment").mkdir()
    for name in ("train.csv", "valid.csv"):
        (folder / name).write_text(TABLE_TEXT, encoding="utf-8")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with tables and with room for an experiment file, which the process stands in."""
    furnish(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Made]:
    """All files above, imported once."""
    folder = tmp_path_factory.mktemp("imported")
    furnish(folder)
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name, text in FILES.items():
            said = io.StringIO()
            with redirect_stdout(said):
                config = config_of(text)
            found[name] = Made(
                Path("experiment/new.yaml").read_text(encoding="utf-8"), tree_of(config), said.getvalue(), read(config)
            )
    return found


def write(text: str) -> Path:
    path = Path("old.yaml")
    path.write_text(text, encoding="utf-8")
    return path


def composed(folder: Path = CONF, name: str = "new") -> DictConfig:
    config, faults = compose_config("train", [f"experiment={name}"], folder, Path.cwd())
    assert faults == []
    assert config is not None
    return config


def config_of(text: str, folder: Path = CONF) -> DictConfig:
    """What an imported file makes of the settings."""
    assert main([str(write(text)), "--output", "experiment/new.yaml", "--conf", str(folder), "--force"]) == 0
    return composed(folder)


def tree_of(config: DictConfig) -> Any:
    return OmegaConf.to_container(config, resolve=True, throw_on_missing=False)


def imported(text: str, folder: Path = CONF) -> Any:
    """The settings of an imported file, as containers."""
    return tree_of(config_of(text, folder))


def changed(text: str, section: str, **values: Any) -> str:
    tree = yaml.safe_load(text)
    tree.setdefault(section, {}).update(values)
    return yaml.safe_dump(tree)


def at(tree: Any, key: str) -> Any:
    for part in key.split("."):
        tree = tree[part]
    return tree


def plain(name: str) -> Any:
    """A file above, without its tag of Python."""
    return yaml.safe_load(FILES[name].replace("!!python/tuple", ""))


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_each_problem_type_is_accepted(name: str, made: dict[str, Made]) -> None:
    assert made[name].settings.experiment_name == plain(name)["experiment_name"]
    assert made[name].settings.dataset.train_dataframe == "train.csv"
    assert "To mend" not in made[name].said


def test_values_of_a_chat_experiment(made: dict[str, Made]) -> None:
    tree = made["chat"].tree
    expected = {
        "experiment_name": "merry-heron.2",
        "output_directory": "output/user",
        "seed": -1,
        "backbone.name": "tiny:llama",
        "backbone.dtype": "bfloat16",
        "backbone.gradient_checkpointing": True,
        "backbone.attention_implementation": "sdpa",
        "backbone.revision": None,
        "backbone.trust_remote_code": False,
        "dataset.add_eos_token_to_prompt": False,
        "dataset.prompt_column": "instruction",
        "dataset.parent_id_column": "parent_id",
        "dataset.limit_chained_samples": False,
        "dataset.data_sample": 0.5,
        "dataset.data_sample_choice": ["train"],
        "dataset.validation_size": 0.2,
        "dataset.system_column": None,
        "dataset.text_system_start": "<|system|>",
        "tokenizer.padding_quantile": 0.9,
        "tokenizer.tokenizer_kwargs": {"use_fast": True, "add_prefix_space": False},
        "augmentation.neftune_noise_alpha": 5.0,
        "augmentation.skip_parent_probability": 0.1,
        "lora.r": 8,
        "lora.alpha": 32,
        "lora.use_rslora": True,
        "lora.target_modules": ["q_proj", "v_proj"],
        "lora.unfreeze_layers": ["embed"],
        "optimizer.learning_rate": 1e-5,
        "schedule._target_": "leyden.training.schedule.linear",
        "schedule.min_learning_rate_ratio": 0.1,
        "problem._target_": "leyden.problem.causal_lm.CausalLM",
        "problem.loss._target_": "leyden.problem.losses.sample_averaged_cross_entropy",
        "trainer.batch_size": 4,
        "trainer.epochs": 2,
        "trainer.strategy": "ddp",
        "trainer.devices": 3,
        "trainer.precision": "32-true",
        "trainer.number_of_workers": 8,
        "generation.batch_size_inference": 0,
        "generation.num_beams": 2,
        "generation.temperature": 0.0,
    }
    assert {key: at(tree, key) for key in expected} == expected
    assert list(tree["metric"]) == ["bleu"]


def test_values_of_the_other_problem_types(made: dict[str, Made]) -> None:
    pairs = made["pairs"].tree
    assert pairs["lora"] is None
    assert (pairs["problem"]["loss"]["beta"], pairs["problem"]["loss"]["gamma"]) == (0.5, 1.5)
    assert pairs["problem"]["loss"]["_target_"].endswith(".simpo")
    assert pairs["dataset"]["validation_dataframe"] == "valid.csv"
    assert pairs["dataset"]["text_prompt_start"] == "[INST] "
    assert pairs["trainer"]["accelerator"] == "cpu"
    assert (pairs["generation"]["top_k"], pairs["generation"]["temperature"]) == (20, 1)
    assert (pairs["metric"]["gpt"]["model"], pairs["metric"]["gpt"]["template"]) == ("gpt-3.5-turbo-0301", "two_turn")

    classes = made["classes"].tree
    assert classes["problem"]["_target_"].endswith("Classification")
    assert classes["problem"]["loss"]["_target_"].endswith("binary_cross_entropy")
    assert classes["problem"]["num_classes"] == 2
    assert classes["dataset"]["answer_column"] == ["label", "label2"]
    assert list(classes["metric"]) == ["log_loss"]
    assert classes["trainer"]["devices"] == [3]
    assert (classes["trainer"]["accelerator"], classes["trainer"]["precision"]) == ("gpu", "16-mixed")

    numbers = made["numbers"].tree
    assert numbers["problem"]["_target_"].endswith("Regression")
    assert numbers["problem"]["loss"]["_target_"].endswith("absolute_error")
    assert numbers["dataset"]["prompt_column"] == ["instruction", "output"]
    assert numbers["dataset"]["prompt_column_separator"] == " | "
    assert list(numbers["metric"]) == ["mae"]

    sources = made["sources"].tree
    assert sources["problem"]["_target_"].endswith("Seq2Seq")
    assert sources["backbone"]["name"] == "tiny:t5"
    assert sources["dataset"]["text_prompt_start"] == "summarize: "
    assert list(sources["metric"]) == ["perplexity"]


def test_values_of_an_early_version(made: dict[str, Made]) -> None:
    tree = made["old_chat"].tree
    assert tree["lora"]["unfreeze_layers"] == ["embed"]
    assert tree["lora"]["target_modules"] is None
    assert tree["tokenizer"]["tokenizer_kwargs"] == {"use_fast": True}
    assert tree["optimizer"]["learning_rate"] == 3e-4
    assert (tree["trainer"]["devices"], tree["trainer"]["precision"]) == (1, "bf16-mixed")
    assert tree["generation"]["stop_tokens"] == ""
    assert tree["dataset"]["text_answer_separator"] == "\\n"


@pytest.mark.parametrize("name", FILES)
def test_the_file_holds_nothing_but_differences(name: str, made: dict[str, Made]) -> None:
    written = yaml.safe_load(made[name].text)
    choices = {key.removeprefix("override /"): value for item in written.pop("defaults") for key, value in item.items()}
    base, faults = compose_config("train", [f"{group}={choice}" for group, choice in choices.items()], CONF)
    assert faults == []
    assert base is not None
    tree: Any = OmegaConf.to_container(base, resolve=True, throw_on_missing=False)

    def leaves(group: dict[str, Any], prefix: str = "") -> dict[str, Any]:
        found = {}
        for key, value in group.items():
            found |= leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
        return found

    keys = leaves(written)
    assert keys
    same = [key for key, value in keys.items() if "tokenizer_kwargs" not in key and at(tree, key) == value]
    assert same == []


@pytest.mark.parametrize("name", FILES)
def test_every_key_of_the_file_is_named(name: str, made: dict[str, Made]) -> None:
    for section, group in plain(name).items():
        for key in group if isinstance(group, dict) else [section]:
            assert key == "problem_type" or re.search(rf"(?<!\w){key}(?!\w)", made[name].said), key


def test_the_summary_says_what_is_not_mapped_and_why(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = changed(CHAT, "prediction", mmax_time=1.0, api_token="very-secret")
    imported(changed(text, "architecture", backbone_dtype="int8"))
    said = capsys.readouterr().out
    assert "environment.trust_remote_code=true: true is H2O's default" in said
    assert "architecture.backbone_dtype='int8' -> backbone.dtype='int8'" in said
    assert "prediction.temperature=0.3: no effect in H2O with prediction.do_sample=false" in said
    assert "dataset.text_system_start='[SYS]': no effect in H2O with dataset.system_column=null" in said
    assert "prediction.mmax_time. Did you mean prediction.max_time?" in said
    assert "prediction.api_token" in said
    assert "very-secret" not in said + Path("experiment/new.yaml").read_text(encoding="utf-8")
    assert "training.learning_rate='1e-5' -> optimizer.learning_rate=1e-05" in said
    assert re.search(r"Equal to Leyden's default:\n(  - .*\n)*  - dataset: .*mask_prompt_labels", said)
    assert "python train.py --config-dir . experiment=new" in said


def test_what_still_has_to_be_mended_is_said(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    imported(changed(CHAT, "dataset", train_dataframe="gone.csv"))
    said = capsys.readouterr().out
    assert re.search(r"To mend before it runs here:\n  - dataset.train_dataframe='gone.csv' does not exist", said)
    with pytest.raises(ConfigError, match="gone.csv"):
        read(composed())


def test_columns_of_h2o_fill_in_for_missing_ones(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree = imported(
        "problem_type: text_dpo_modeling\ndataset: {train_dataframe: train.csv, parent_id_column: parent_id}"
    )
    assert tree["dataset"]["prompt_column"] == ["instruction", "input"]
    assert tree["dataset"]["answer_column"] == "chosen_response"
    assert tree["dataset"]["rejected_answer_column"] == "rejected_response"
    assert (tree["dataset"]["id_column"], tree["dataset"]["limit_chained_samples"]) == ("id", True)
    assert tree["dataset"]["validation_size"] == 0.01
    assert (
        "dataset.id_column='id' (not in the file, H2O's default) -> dataset.id_column='id'" in capsys.readouterr().out
    )


QUIRKS: list[tuple[dict[str, dict[str, Any]], dict[str, Any]]] = [
    (
        {
            "dataset": {"prompt_column": ["a", "b"], "parent_id_column": "None", "validation_dataframe": "valid.csv"},
            "training": {"lora": "false", "lora_alpha": "64", "schedule": "Constant", "epochs": 3.0},
            "prediction": {"stop_tokens": "a\\b,c", "metric": "GPT", "metric_gpt_template": "mine"},
            "environment": {"gpus": None, "mixed_precision": True},
            "tokenizer": {"tokenizer_kwargs": {"use_fast": False}},
        },
        {
            "dataset.prompt_column": ["a", "b"],
            "dataset.parent_id_column": None,
            "dataset.id_column": None,
            "dataset.limit_chained_samples": True,
            "dataset.validation_dataframe": None,
            "lora": None,
            "schedule._target_": "leyden.training.schedule.constant",
            "trainer.epochs": 3,
            "generation.stop_tokens": "a\\\\b,c",
            "metric.gpt.template": "prompts/mine.txt",
            "trainer.accelerator": "cpu",
            "trainer.precision": "32-true",  # H2O switches it off in full training of 16-bit weights
            "tokenizer.tokenizer_kwargs": {"use_fast": False},
        },
    ),
    (
        {
            "dataset": {"prompt_column": "None", "personalize": "True", "chatbot_name": "Rex"},
            "training": {
                "use_dora": True,
                "attention_implementation": "Flash_Attention_2",
                "save_checkpoint": "disable",
                "lora_alpha": "32.0",
            },
            "prediction": {"stop_tokens": "None", "metric": "GPT4", "metric_gpt_model": "own"},
            "environment": {
                "gpus": ["2", "4"],
                "huggingface_branch": "v2",
                "mixed_precision": True,
                "mixed_precision_dtype": "float16",
            },
        },
        {
            "dataset.prompt_column": [],
            "dataset.chatbot_name": "Rex",
            "lora.use_dora": True,
            "lora.use_rslora": True,
            "lora.alpha": 32,
            "backbone.attention_implementation": "flash_attention_2",
            "checkpoint.policy": "disable",
            "generation.stop_tokens": "",
            "metric.gpt.model": "own",
            "trainer.strategy": "ddp",
            "trainer.devices": [2, 4],
            "backbone.revision": "v2",
            "trainer.precision": "16-mixed",
        },
    ),
    (
        {
            "logging": {
                "logger": "Neptune",
                "neptune_project": "team/trials",
                "_neptune_debug": True,
                "log_step_size": "relative",
                "log_all_ranks": True,
            }
        },
        {
            "logger": {"neptune": {"project": "team/trials", "mode": "debug"}},
            "log_step_size": "relative",
            "log_all_ranks": True,
        },
    ),
    (
        {"logging": {"logger": "W&B", "wandb_project": "trials", "wandb_entity": "team"}},
        {"logger": {"wandb": {"project": "trials", "entity": "team", "mode": "online"}}, "log_step_size": "absolute"},
    ),
]


@pytest.mark.parametrize(("changes", "expected"), QUIRKS)
def test_quirks(place: Path, changes: dict[str, dict[str, Any]], expected: dict[str, Any]) -> None:
    text = CHAT
    for section, values in changes.items():
        text = changed(text, section, **values)
    tree = imported(text)
    assert {key: at(tree, key) for key in expected} == expected


@pytest.mark.parametrize(
    ("word", "name"), [("", ""), ("Leaf", "Leaf"), ("123", "h2o-123"), ("true", "h2o-true"), ("a b/c", "a-b-c")]
)
def test_the_name_of_the_new_file_can_be_chosen(place: Path, word: str, name: str) -> None:
    old, _ = read_old(write(f"problem_type: text_dpo_modeling\nexperiment_name: '{word}'"))
    assert old is not None
    found = file_name(Path("old.yaml"), old)
    assert found == (name or "old")
    Path(f"experiment/{found}.yaml").write_text("# @package _global_\nseed: 7\n", encoding="utf-8")
    assert composed(name=found)["seed"] == 7


@pytest.mark.parametrize(
    "text",
    [
        r"<s>\n",
        r"\tA\\n",
        r"a\x41\u00e9",
        r"bell\a\b\f\v",
        r"\033[1m",
        r"\d+ \% \$",
        "質",
        "${x}",
        r"\${y}",
        "tab\t",
        "None",
    ],
)
def test_markers_mean_what_h2o_made_of_them(text: str) -> None:
    ascii_only = "".join(letter if letter.isascii() else f"\\u{ord(letter):04x}" for letter in text)
    kept = re.sub(r"\\([^\\abfnrtvxuU0-7'\"])", r"\\\\\1", ascii_only)  # an unknown escape stays as it stands
    assert decode_escapes(marker(text)) == kept.encode("ascii").decode("unicode_escape")


def test_markers_survive_yaml_and_references(place: Path) -> None:
    text = changed(
        CHAT,
        "dataset",
        system_column="output",
        text_system_start=r"\\${dataset.system_column}",
        text_prompt_start="質 ${x}: 'a' # \n",
        text_answer_separator="${",
        prompt_column=["null", "1e5", "instruction"],
        prompt_column_separator="- \t",
    )
    data = imported(text)["dataset"]
    assert data["text_system_start"] == r"\\${dataset.system_column}"
    assert data["text_prompt_start"] == "質 ${x}: 'a' # \n"
    assert data["text_answer_separator"] == "${"
    assert data["prompt_column"] == ["1e5", "instruction"]
    assert data["prompt_column_separator"] == "- \t"


@given(st.text())
def test_a_marker_is_readable_here_or_refused(text: str) -> None:
    try:
        found = marker(text)
    except ValueError:
        return
    decode_escapes(found)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(["None", "1e-4"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


@given(st.dictionaries(st.sampled_from(sorted({row.old for row in TABLE})), VALUES, max_size=4))
def test_any_value_is_read_or_refused(values: dict[str, Any]) -> None:
    tree: dict[str, Any] = {"problem_type": "text_causal_classification_modeling"}
    for key, value in values.items():
        section, _, name = key.rpartition(".")
        (tree.setdefault(section, {}) if section else tree)[name] = value
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "old.yaml"
        path.write_text(yaml.safe_dump(tree), encoding="utf-8")
        try:
            old, faults = read_old(path)
        except ConfigError:
            return
    assert old is not None
    for key in values:
        assert key in old.values or any(key in fault for fault in faults)


@pytest.fixture
def own_conf(tmp_path: Path) -> Path:
    return Path(shutil.copytree(CONF, tmp_path / "own_conf"))


def test_what_leyden_does_not_have_is_named(place: Path, own_conf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (own_conf / "metric" / "bleu.yaml").unlink()
    text = changed(CHAT, "training", optimizer="Nadam")
    assert main([str(write(text)), "--output", "experiment/new.yaml", "--conf", str(own_conf)]) == 2
    assert "training.optimizer='Nadam' is not allowed. H2O takes one of AdamW, Adam" in capsys.readouterr().err

    (own_conf / "optimizer" / "rmsprop.yaml").unlink(missing_ok=True)
    text = changed(CHAT, "training", optimizer="RMSprop", nonsense=1)
    tree = imported(changed(text, "prediction", num_history=9), own_conf)
    said = capsys.readouterr().out
    assert "prediction.num_history=9: training does not read it; give it to predict.py with mode=chat" in said
    assert "prediction.metric='BLEU': there is no metric=bleu for causal_lm yet" in said
    assert "training.optimizer='RMSprop': there is no optimizer=rmsprop for causal_lm yet" in said
    assert tree["optimizer"]["_target_"] == "torch.optim.AdamW"
    assert list(tree["metric"]) == ["perplexity"]


def test_what_leyden_gets_later_is_mapped_without_a_change(place: Path, own_conf: Path) -> None:
    made = "defaults: [auto, _self_]\nstrategy: ddp\ndevices: 3\n"
    (own_conf / "trainer" / "deepspeed_zero3.yaml").write_text(made, encoding="utf-8")
    text = changed(
        CHAT,
        "training",
        optimizer="RMSprop",
        differential_learning_rate_layers=["embed"],
        differential_learning_rate=2e-5,
    )
    tree = imported(changed(text, "environment", use_deepspeed="ZeRO3"), own_conf)
    assert tree["optimizer"]["_target_"] == "torch.optim.RMSprop"
    assert tree["optimizer"]["differential_learning_rate"] == 2e-5
    assert tree["optimizer"]["differential_learning_rate_layers"] == ["embed"]
    written = Path("experiment/new.yaml").read_text(encoding="utf-8")
    assert "override /trainer: deepspeed_zero3" in written


def refusal(text: str | None, capsys: pytest.CaptureFixture[str], *more: str) -> str:
    path = Path("none.yaml") if text is None else write(text)
    before = sorted(Path.cwd().rglob("*"))
    assert main([str(path), "--conf", str(CONF), "--output", "experiment/new.yaml", *more]) == 2
    assert sorted(Path.cwd().rglob("*")) == before
    said = capsys.readouterr()
    assert said.out == ""
    return said.err


def test_faults_are_reported_all_at_once(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = changed(CHAT, "training", loss_function="Focal", epochs=-1, learning_rate="fast", lora="maybe")
    text = changed(text, "dataset", validation_strategy="kfold", text_prompt_start="a\\")
    text = changed(text, "environment", gpus=["one"])
    said = refusal(changed(text, "prediction", metric="AUC"), capsys, "--output", "gone/new.txt")
    for part in (
        "9 config errors:",
        "training.loss_function='Focal' is not allowed. H2O takes one of TokenAveragedCrossEntropy",
        "training.epochs=-1: trainer.epochs=-1 is not allowed",
        "training.learning_rate='fast' is not allowed. H2O takes a number.",
        "training.lora='maybe' is not allowed. H2O takes true or false.",
        "dataset.validation_strategy='kfold' is not allowed. H2O takes one of automatic, custom.",
        "dataset.text_prompt_start='a\\\\' is not allowed",
        "environment.gpus=['one'] is not allowed. H2O takes a whole number.",
        "prediction.metric='AUC' is not allowed. H2O takes one of Perplexity, BLEU",
        "--output gone/new.txt: an experiment file ends in .yaml.",
    ):
        assert part in said


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "none.yaml does not exist"),
        ("a: [", "cannot be read as YAML"),
        ("a: !!python/object/apply:os.mkdir [evil]", "cannot be read as YAML"),
        ("- 1", "holds no settings"),
        ("", "holds no settings"),
        ("dataset: {}", "has no problem_type. Add the line problem_type: WORD"),
        ("problem_type: text_dpo_modelling", "Did you mean text_dpo_modeling?"),
        ("problem_type: text_rlhf_language_modeling", "reinforcement learning with a reward model"),
        (CHAT.replace("training:\n", "training:\n    use_rlhf: true\n"), "training.use_rlhf=true is reinforcement"),
        ("problem_type: text_dpo_modeling\ntraining: 3", "training=3 is not allowed. It is a section"),
    ],
)
def test_a_file_that_cannot_be_used(
    place: Path, capsys: pytest.CaptureFixture[str], text: str | None, words: str
) -> None:
    said = refusal(text, capsys)
    assert words in said
    assert "Traceback" not in said
    assert not Path("evil").exists()


def test_a_missing_config_folder_is_named_with_the_rest(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(write("dataset: {}")), "--conf", "gone"]) == 2
    said = capsys.readouterr().err
    assert "--conf gone holds no train.yaml" in said
    assert "has no problem_type" in said


def test_an_existing_file_is_kept_unless_forced(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = Path("experiment/new.yaml")
    target.write_text("mine", encoding="utf-8")
    assert "experiment/new.yaml is there already. Replace it with --force" in refusal(CHAT, capsys)
    assert target.read_text(encoding="utf-8") == "mine"
    imported(CHAT)
    assert target.read_text(encoding="utf-8").startswith("# @package _global_\n")


def test_the_new_file_goes_among_the_experiments(
    place: Path, own_conf: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own_conf.rename(place / "conf")
    assert main([str(write(CHAT))]) == 0
    assert "Train with: python train.py experiment=merry-heron.2" in capsys.readouterr().out
    config, faults = compose_config("train", ["experiment=merry-heron.2"], place / "conf")
    assert faults == []
    assert config is not None
    assert config.dataset.train_dataframe == "train.csv"
    assert "override /lora: rslora" in (place / "conf/experiment/merry-heron.2.yaml").read_text(encoding="utf-8")


def test_the_table_has_every_setting() -> None:
    counts = {"G": 5, "D": 15, "T": 3, "A": 4, "R": 26, "U": 4, "P": 13, "E": 8, "L": 6, "X": 31}
    every = {f"{letter}{number}" for letter, count in counts.items() for number in range(1, count + 1)}
    elsewhere = {"G1", "G2", "G3", "X31"}  # dataset=table, problem_type, this command, the environment's variables
    assert {row.spec for row in TABLE} - {"old"} == every - elsewhere


def test_every_row_is_mapped_or_says_why_not() -> None:
    assert all(bool(row.new) != bool(row.why) for row in TABLE)
    assert all(row.new for row in TABLE if row.pick)


def test_the_page_names_what_is_not_mapped() -> None:
    page = (ROOT / "docs" / "h2o.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`.*`) \| (.*) \|$", page, re.MULTILINE)
    said = {key: why for keys, why in rows for key in re.findall(r"`([^`]+)`", keys)}
    expected = {row.old: row.why for row in TABLE if row.why}
    assert {key: said.get(key) for key in expected} == expected
    assert set(said) == set(expected)
