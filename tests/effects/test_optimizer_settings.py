"""Each setting of `optimizer` and what it does: R2, R3, R4, R12, X16 of the specification, B2, B49, B50."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import bitsandbytes
import pytest
import schedulefree
import torch
from tests.effects.small_runs import CONF, material_of, predicted, results, settings_of, trained
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from leyden.backbone.tiny import tiny_model
from leyden.settings import checks_training
from leyden.settings.composition import compose_config
from leyden.settings.errors import ConfigError
from leyden.settings.read import read
from leyden.training.assembly import load_backbone
from leyden.training.muon import Muon
from leyden.training.optimizer import build_optimizer, optimizer_factory, parameter_groups, set_mode

ROWS = {"p": ["red", "green", "blue", "white"] * 3, "a": ["one", "two", "three", "four"] * 3}
CLASSES = {"p": ["red sky", "green sea", "red sun", "green tea"] * 3, "a": [0, 1] * 6}
HEAD = ["problem=classification", "metric=accuracy", "backbone=tiny"]
IDS = torch.arange(20, 44).reshape(2, 12)


def choices() -> list[str]:
    return sorted(file.stem for file in (CONF / "optimizer").glob("*.yaml") if not file.stem.startswith("_"))


def factory_of(*overrides: str) -> Callable[..., Optimizer]:
    config, faults = compose_config("train", ["backbone=tiny", *overrides], CONF)
    assert config is not None, faults
    assert not faults
    return optimizer_factory(read(config).optimizer)


def language_loss(model: nn.Module) -> torch.Tensor:
    scores = model(input_ids=IDS, use_cache=False).logits[:, :-1].log_softmax(-1)
    return -scores.gather(2, IDS[:, 1:, None]).mean()


def train(model: nn.Module, optimizer: Optimizer, loss: Callable[[nn.Module], torch.Tensor], steps: int) -> list[float]:
    losses = []
    for name in ("train", "eval"):
        if hasattr(optimizer, name):
            getattr(optimizer, name)()
        for _ in range(steps if name == "train" else 1):
            optimizer.zero_grad()
            value = loss(model)
            losses.append(value.item())
            if name == "train":
                value.backward()
                optimizer.step()
    return losses


BUILT: dict[str, tuple[type[Optimizer], dict[str, Any]]] = {
    "adamw": (torch.optim.AdamW, {"betas": [0.9, 0.999], "eps": 1e-8, "decoupled_weight_decay": True}),
    "adam": (torch.optim.Adam, {"betas": [0.9, 0.999], "decoupled_weight_decay": False}),
    "sgd": (torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
    "rmsprop": (torch.optim.RMSprop, {"momentum": 0.9, "alpha": 0.9}),
    "adadelta": (torch.optim.Adadelta, {"rho": 0.9, "eps": 1e-6}),
    "adamw_8bit": (bitsandbytes.optim.AdamW8bit, {"betas": [0.9, 0.999]}),
    "muon": (Muon, {}),
    "schedule_free_adamw": (schedulefree.AdamWScheduleFree, {"betas": [0.9, 0.999]}),
    "adafactor": (torch.optim.Adafactor, {"beta2_decay": -0.8, "d": 1.0}),
}


@pytest.mark.parametrize("name", choices())
def test_r2_each_choice_is_its_class_with_its_hyperparameters(name: str) -> None:
    factory = factory_of(f"optimizer={name}", "optimizer.learning_rate=3e-4")
    optimizer = build_optimizer(tiny_model("llama"), factory, weight_decay=0.1)
    kind, expected = BUILT[name]
    assert type(optimizer) is kind
    found = {key: optimizer.defaults[key] for key in expected}
    assert {key: list(value) if isinstance(value, tuple) else value for key, value in found.items()} == expected
    assert {group["lr"] for group in optimizer.param_groups} == {3e-4}
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.1, 0.0}


# What each wants: plain gradients and Adadelta need far higher rates than those that divide by the gradient's size.
RATES = {"sgd": 0.1, "adadelta": 10.0, "adafactor": 0.05, "schedule_free_adamw": 0.01}


@pytest.mark.parametrize("name", choices())
def test_r2_each_choice_lowers_the_loss_of_a_model_and_solves_a_task(name: str) -> None:
    model = tiny_model("llama").train()
    factory = factory_of(f"optimizer={name}", f"optimizer.learning_rate={RATES.get(name, 2e-3)}")
    losses = train(model, build_optimizer(model, factory, weight_decay=0.0), language_loss, 12)
    assert losses[-1] < losses[0] - 0.5, losses
    torch.manual_seed(0)
    inputs, truth = torch.randn(256, 16), nn.Linear(16, 4)
    targets = truth(inputs).detach()
    learner = nn.Sequential(nn.Linear(16, 32), nn.LayerNorm(32), nn.Linear(32, 4))
    factory = factory_of(f"optimizer={name}", f"optimizer.learning_rate={RATES.get(name, 1e-2)}")
    optimizer = build_optimizer(learner, factory, weight_decay=0.0)
    losses = train(learner, optimizer, lambda net: (net(inputs) - targets).square().mean(), 80)
    assert losses[-1] < 0.3 * losses[0], losses


def test_r2_any_class_of_torch_works_by_its_dotted_path(tmp_path: Path) -> None:
    run = trained(
        tmp_path, ROWS, "optimizer._target_=torch.optim.NAdam", "optimizer.learning_rate=1e-3",
        "+optimizer.momentum_decay=0.01", "trainer.evaluate_before_training=true", "trainer.epochs=2",
    )  # fmt: skip
    assert results(run)["validation/loss"] < numbers(run, "validation/loss")[0]


@pytest.mark.parametrize(
    ("overrides", "fault"),
    [
        (["optimizer.betas=[0.9,2.0]"], "optimizer: Invalid beta parameter at index 1: 2.0"),
        (["+optimizer.speed=1"], "optimizer.speed: AdamW has no such argument"),
        (["optimizer._target_=torch.optim.LBFGS", "~optimizer.betas", "~optimizer.eps"], "optimizer: LBFGS"),
        (["optimizer._target_=torch.optim.Nix"], "optimizer._target_='torch.optim.Nix' cannot be imported"),
        (["optimizer._target_=builtins.dict"], "optimizer._target_='builtins.dict' is no optimizer"),
        (["+optimizer.lr=1e-3"], "optimizer.lr is filled by optimizer.learning_rate. Leave it out."),
        (["+optimizer.params=3"], "optimizer.params is filled by the weights that are trained"),
        (["optimizer._target_=torch.optim.SparseAdam"], "optimizer: SparseAdam does not support dense gradients"),
        (["optimizer._target_=torch.optim.Muon"], "moves matrices alone. Use optimizer=muon."),
        (["optimizer.betas=0.9"], "optimizer: .*with values that it takes"),
        (["optimizer=muon", "optimizer.adjust_lr_fn=mine"], "Adjust learning rate function mine is not supported"),
    ],
)
def test_r2_what_an_optimizer_refuses_is_said_before_weights_are_loaded(
    overrides: list[str], fault: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=fault.replace("(", r"\(")):
        material_of(tmp_path, ROWS, *overrides)


@pytest.mark.parametrize(("name", "extra"), [("adamw_8bit", "quantization"), ("schedule_free_adamw", "schedulefree")])
def test_r2_a_missing_library_names_its_extra(
    name: str, extra: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(checks_training, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=rf"optimizer._target_=.* needs .*pip install -e '\.\[{extra}\]'"):
        settings_of(tmp_path, ROWS, f"optimizer={name}")


def test_r2_eight_bits_are_eight_bits() -> None:
    model = tiny_model("llama").train()
    optimizer = build_optimizer(model, factory_of("optimizer=adamw_8bit"), weight_decay=0.0)
    train(model, optimizer, language_loss, 1)
    embedding = model.get_input_embeddings().weight
    assert optimizer.state[embedding]["state1"].dtype == torch.uint8
    assert optimizer.state[model.model.norm.weight]["state1"].dtype == torch.float32


def test_r2_muon_is_torchs_muon_and_torchs_adamw_side_by_side() -> None:
    ours, theirs = tiny_model("llama").train(), tiny_model("llama").train()
    optimizer = build_optimizer(ours, factory_of("optimizer=muon", "optimizer.learning_rate=1e-3"), weight_decay=0.1)
    weights = dict(theirs.named_parameters())
    hidden = {name for name in weights if "_proj." in name}
    groups = {"hidden decayed": hidden, "decayed": {"model.embed_tokens.weight", "lm_head.weight"}}
    names = {id(weight): name for name, weight in ours.named_parameters()}
    found = {group["name"]: {names[id(weight)] for weight in group["params"]} for group in optimizer.param_groups}
    assert found == groups | {"undecayed": set(weights) - hidden - groups["decayed"]}
    norms = [weights[name] for name in found["undecayed"]]
    muon = torch.optim.Muon(
        [weights[name] for name in hidden], lr=1e-3, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"
    )
    adamw = torch.optim.AdamW(
        [{"params": [weights[name] for name in groups["decayed"]], "weight_decay": 0.1},
         {"params": norms, "weight_decay": 0.0}],
        lr=1e-3, betas=(0.9, 0.95),
    )  # fmt: skip
    schedule = LambdaLR(optimizer, lambda step: 1 / (1 + step))
    for step in range(4):
        for model in (ours, theirs):
            model.zero_grad()
            language_loss(model).backward()
        for group in (*muon.param_groups, *adamw.param_groups):
            group["lr"] = 1e-3 / (1 + step)
        optimizer.step()
        schedule.step()
        muon.step()
        adamw.step()
    for name, weight in ours.named_parameters():
        torch.testing.assert_close(weight, weights[name], rtol=0, atol=0)


@pytest.mark.parametrize("name", choices())
def test_r2_a_saved_optimizer_goes_on_exactly(name: str, tmp_path: Path) -> None:
    model = tiny_model("llama").train()
    factory = factory_of(f"optimizer={name}", "optimizer.learning_rate=1e-3")
    optimizer = build_optimizer(model, factory, weight_decay=0.1)
    if hasattr(optimizer, "train"):
        optimizer.train()

    def updates(net: nn.Module, moves: Optimizer) -> None:
        for _ in range(2):
            moves.zero_grad()
            language_loss(net).backward()
            moves.step()

    updates(model, optimizer)
    torch.save(optimizer.state_dict(), tmp_path / "state.pt")
    other = copy.deepcopy(model)
    again = build_optimizer(other, factory, weight_decay=0.1)
    again.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    updates(model, optimizer)
    updates(other, again)
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["muon", "schedule_free_adamw", "adamw_8bit"])
def test_r2_what_was_evaluated_is_what_is_saved(name: str, tmp_path: Path) -> None:
    run = trained(
        tmp_path, ROWS, f"optimizer={name}", "optimizer.learning_rate=3e-3", "trainer.epochs=2", "lora.dropout=0.0",
        "trainer.evaluation_epochs=0.5", "trainer.evaluate_before_training=true", "schedule.warmup_epochs=0.5",
    )  # fmt: skip
    losses = numbers(run, "validation/loss")
    assert losses[-1] < losses[0] - 0.05
    table = predicted(run, tmp_path / "table.jsonl")
    perplexities = torch.tensor(table["score_perplexity"].to_numpy())
    assert perplexities.mean().item() == pytest.approx(results(run)["validation/perplexity"], rel=1e-5)


def test_r2_schedule_free_weights_are_averaged_for_evaluation_only() -> None:

    model = tiny_model("llama").train()
    optimizer = build_optimizer(model, factory_of("optimizer=schedule_free_adamw"), weight_decay=0.0)
    set_mode([optimizer], training=True)
    for _ in range(3):
        optimizer.zero_grad()
        language_loss(model).backward()
        optimizer.step()
    moved = [weight.detach().clone() for weight in model.parameters()]
    set_mode([optimizer], training=False)
    averaged = [weight.detach().clone() for weight in model.parameters()]
    for y, x, z in zip(moved, averaged, (optimizer.state[weight]["z"] for weight in model.parameters()), strict=True):
        torch.testing.assert_close(y, 0.9 * x + 0.1 * z, rtol=0, atol=1e-6)
    assert any(not torch.equal(x, y) for x, y in zip(averaged, moved, strict=True))
    set_mode([torch.optim.SGD(model.parameters(), lr=1.0)], training=True)  # has no two sets


def test_r2_schedule_free_comes_with_a_constant_rate() -> None:
    config, _ = compose_config("train", ["optimizer=schedule_free_adamw"], CONF)
    assert config is not None
    assert config.schedule._target_ == "leyden.training.schedule.constant"
    config, _ = compose_config("train", ["optimizer=schedule_free_adamw", "schedule=cosine", "backbone=tiny"], CONF)
    assert config is not None
    assert "averages weights in place of a falling rate" in " ".join(checks_training.training_advice(read(config)))


@pytest.mark.parametrize("name", ["adamw", "muon", "adamw_8bit"])
def test_r12_a_step_with_zero_gradient_shrinks_matrices_only(name: str) -> None:
    model = tiny_model("llama")
    factory = factory_of(f"optimizer={name}", "optimizer.learning_rate=0.1")
    optimizer = build_optimizer(model, factory, weight_decay=0.2)
    before = {key: value.detach().clone() for key, value in model.named_parameters()}
    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight)
    optimizer.step()
    for key, value in model.named_parameters():
        factor = 1.0 if "norm" in key else 1 - 0.1 * 0.2  # B49: norms are exempt, whatever they are called
        torch.testing.assert_close(value.detach(), before[key] * factor, rtol=1e-6, atol=0)


def numbers(run: Path, name: str) -> list[float]:
    lines = [line.split(",") for line in (run / "metrics.csv").read_text(encoding="utf-8").splitlines()]
    place = lines[0].index("name"), lines[0].index("value")
    return [float(line[place[1]]) for line in lines[1:] if line[place[0]] == name]


def test_r3_x16_both_rates_are_logged_as_they_were_used(tmp_path: Path) -> None:
    run = trained(
        tmp_path, CLASSES, *HEAD, "optimizer.learning_rate=1e-3", "schedule.warmup_epochs=0.5",
        "optimizer.differential_learning_rate=2e-4", "trainer.epochs=2", "trainer.batch_size=3",
    )  # fmt: skip
    rates, slow = numbers(run, "train/learning_rate"), numbers(run, "train/learning_rate_differential")
    assert len(rates) == 8
    assert (rates[0], rates[1], rates[2]) == (0.0, 5e-4, 1e-3)  # the first update of a warmup has the rate 0
    assert slow == pytest.approx([rate / 5 for rate in rates], rel=1e-12, abs=0)


@pytest.mark.parametrize(
    ("problem", "expected"),
    [("causal_lm", []), ("dpo", []), ("classification", ["classification_head"]), ("regression", ["regression_head"])],
)
def test_r4_the_default_goes_with_the_problem(problem: str, expected: list[str]) -> None:
    config, _ = compose_config("train", [f"problem={problem}"], CONF)
    assert config is not None
    assert list(config.optimizer.differential_learning_rate_layers) == expected


@pytest.mark.parametrize("entry", ["classification_head", "value_head", "head", "score"])
def test_r4_the_head_is_the_slow_group_and_the_adapters_are_not(entry: str, tmp_path: Path) -> None:
    overrides = [*HEAD, f"optimizer.differential_learning_rate_layers=[{entry}]"]
    material = material_of(tmp_path, CLASSES, *overrides)
    model, _, _ = load_backbone(settings_of(tmp_path, CLASSES, *overrides), material)
    groups = parameter_groups(model, 0.1, layers=[entry], rate=1e-5)
    assert [(group["name"], group.get("lr")) for group in groups] == [
        ("decayed", None),
        ("differential decayed", 1e-5),
    ]
    head = [weight for name, weight in model.named_parameters() if "score" in name and weight.requires_grad]
    assert {id(weight) for weight in groups[1]["params"]} == {id(weight) for weight in head}
    assert sum(weight.numel() for weight in head) == 64
    assert len(groups[0]["params"]) == 2 * 2 * 7


def test_r4_groups_are_the_kinds_of_rate_times_the_kinds_of_decay() -> None:
    model = tiny_model("llama")
    groups = {g["name"]: g for g in parameter_groups(model, 0.1, layers=["layers.0.", "lm_head"], rate=3e-5)}
    assert list(groups) == ["decayed", "undecayed", "differential decayed", "differential undecayed"]
    assert [len(group["params"]) for group in groups.values()] == [1 + 7, 2 + 1, 7 + 1, 2]
    assert [group["weight_decay"] for group in groups.values()] == [0.1, 0.0, 0.1, 0.0]
    groups = {g["name"]: g for g in parameter_groups(model, 0.1, layers=["layers.0."], rate=3e-5, hidden_apart=True)}
    assert {name: len(group["params"]) for name, group in groups.items()} == {
        "hidden decayed": 7, "decayed": 2, "undecayed": 3, "differential hidden decayed": 7,
        "differential undecayed": 2,
    }  # fmt: skip


def test_r4_b50_entries_that_fit_nothing_that_is_trained_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        parameter_groups(tiny_model("llama"), 0.0, layers=["embd", "norm", "hed"], rate=1e-5)
    assert [fault.split(": ")[1].split()[0] for fault in caught.value.faults] == ["'embd'", "'hed'"]
    assert "backbone.model.embed_tokens.weight" in caught.value.faults[0]
    frozen = tiny_model("llama")
    frozen.get_input_embeddings().requires_grad_(False)
    with pytest.raises(ConfigError, match="'embed' is in the name of no weight that is trained"):
        parameter_groups(frozen, 0.0, layers=["embed"], rate=1e-5)
    with pytest.raises(ConfigError, match="'embed' is in the name of no weight that is trained"):
        trained(tmp_path, ROWS, "optimizer.differential_learning_rate_layers=[embed]")


def test_r4_a_list_that_covers_everything_is_warned_about(caplog: pytest.LogCaptureFixture) -> None:
    make = partial(torch.optim.SGD, lr=1.0)
    build_optimizer(tiny_model("llama"), make, 0.0, layers=["backbone"], rate=1e-5)
    assert "optimizer.learning_rate has no effect" in caplog.text


def test_x16_a_rate_without_layers_is_an_error() -> None:
    config, _ = compose_config("train", ["backbone=tiny"], CONF)
    assert config is not None
    with pytest.raises(ConfigError, match=r"optimizer.differential_learning_rate has no effect here .*layers=\[\]"):
        read(config, frozenset({"optimizer.differential_learning_rate"}))


def test_r4_recipes_that_were_measured_without_slow_heads_keep_that() -> None:
    for file in sorted((CONF / "experiment").glob("*.yaml")):
        config, _ = compose_config("train", [f"experiment={file.stem}"], CONF)
        assert config is not None
        assert list(config.optimizer.differential_learning_rate_layers) == []
