"""Classification and regression against the library's own model, called plainly on each row."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.utils.class_weight import compute_class_weight
from tests.effects.small_runs import Columns, settings_of
from torch import Tensor, nn

from leyden.backbone.heads import head_outputs
from leyden.backbone.scoring import base_model
from leyden.data.batches import Batch
from leyden.data.collation import pack
from leyden.data.trees import Segment, build_tree
from leyden.problem.head_losses import squared_error
from leyden.problem.regression import Regression
from leyden.settings.errors import ConfigError
from leyden.training.assembly import load_backbone, make_collator
from leyden.training.prepare import Material, prepare

PROMPTS = [f"row {number}{' and more' * (number % 4)}" for number in range(9)]
WORDS = ["no", "yes", "no", "no", "no", "yes", "no", "no", "no"]
KINDS = ["a", "b", "c", "a", "a", "b", "a", "c", "a"]
FLAGS = [1, 0, 0, 1, 0, 0, 1, 0, 0]
NUMBERS = [0.5, 10.0, -3.0, 7.25, 2.0, 2.0, 100.0, -20.0, 1.0]
WEIGHTS = [1.0, 0.5, 2.0, 0.0, 1.0, 3.0, 1.0, 0.25, 1.0]
TABLE: Columns = {"p": PROMPTS, "a": KINDS, "word": WORDS, "x": FLAGS, "y": FLAGS[::-1], "n": NUMBERS, "w": WEIGHTS}
BINARY = ["problem=classification", "dataset.answer_column=word"]
MULTICLASS = ["problem=classification"]
MULTILABEL = ["problem=classification", "dataset.answer_column=[x,y]"]
REGRESSION = ["problem=regression", "dataset.answer_column=[n,x]"]
KIND_OF = {"binary": BINARY, "multiclass": MULTICLASS, "multilabel": MULTILABEL, "regression": REGRESSION}


class Headed:
    """The backbone of a run with its batch of all rows."""

    def __init__(self, folder: Path, *overrides: str) -> None:
        settings = settings_of(folder, TABLE, *overrides)
        self.material: Material = prepare(settings)
        torch.manual_seed(3)
        self.model, _, attention = load_backbone(settings, self.material)
        self.model.eval()
        collate = make_collator(settings, self.material.tokenizer, self.model, attention)
        trees = self.material.train.trees
        self.batch: Batch = collate([trees[number] for number in range(len(trees))])

    def outputs(self, batch: Batch) -> Tensor:
        return head_outputs(self.model, batch)

    def plain(self, **labels: Tensor) -> Any:
        """The library's output of each row alone, its attention and all."""
        base: Any = base_model(self.model)
        before = base.config._attn_implementation
        base.set_attn_implementation("sdpa")
        try:
            found = []
            for row, prompt in enumerate(PROMPTS):
                inputs = self.material.tokenizer(prompt, add_special_tokens=False, return_tensors="pt")
                found.append(self.model(**inputs, **{name: value[row : row + 1] for name, value in labels.items()}))
            return found
        finally:
            base.set_attn_implementation(before)


def logits(headed: Headed) -> Tensor:
    return torch.cat([output.logits for output in headed.plain()])


@pytest.mark.parametrize("lora", ["lora=none", "lora=lora"])
@pytest.mark.parametrize("engine", ["segments", "sdpa"])
@pytest.mark.parametrize("kind", KIND_OF)
def test_outputs_loss_and_gradient_are_those_of_the_librarys_model(
    tmp_path: Path, kind: str, engine: str, lora: str
) -> None:
    extra = ["problem.standardize=false"] if kind == "regression" else []
    headed = Headed(tmp_path, *KIND_OF[kind], lora, f"backbone.attention_implementation={engine}", *extra)
    labels = {
        "binary": torch.tensor([[float(word == "yes")] for word in WORDS]),
        "multiclass": torch.tensor([ord(name) - ord("a") for name in KINDS]),
        "multilabel": torch.tensor([FLAGS, FLAGS[::-1]]).T.float(),
        "regression": torch.tensor([NUMBERS, FLAGS]).T.float(),
    }[kind]
    outputs = headed.plain(labels=labels)
    theirs = torch.stack([output.loss for output in outputs]).mean()
    outcome = headed.material.problem.compute(headed, headed.batch)
    ours = outcome.loss.total / outcome.loss.count
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(outcome.columns["loss"], torch.stack([o.loss for o in outputs]).detach(), rtol=1e-5, atol=1e-6)  # fmt: skip # noqa: E501
    torch.testing.assert_close(
        head_outputs(headed.model, headed.batch), torch.cat([output.logits for output in outputs]), rtol=1e-5, atol=1e-5
    )
    trainable = [weight for weight in headed.model.parameters() if weight.requires_grad]
    for one, two in zip(torch.autograd.grad(ours, trainable), torch.autograd.grad(theirs, trainable), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "rows"), [("binary", (1, 64)), ("multiclass", (3, 64)), ("multilabel", (2, 64)), ("regression", (2, 64))]
)
def test_the_head_has_a_row_per_output_and_labels_a_column_each(
    tmp_path: Path, kind: str, rows: tuple[int, int]
) -> None:
    headed = Headed(tmp_path, *KIND_OF[kind])
    head = next(module for name, module in base_model(headed.model).named_modules() if name == "score")
    weight: Any = nn.Module.get_parameter(head, "modules_to_save.default.weight")
    assert tuple(weight.shape) == rows
    assert weight.requires_grad
    assert tuple(headed.batch.labels.shape) == (9, 1 if kind in ("binary", "multiclass") else 2)


def test_standardised_targets_train_on_their_scale_and_come_back(tmp_path: Path) -> None:
    headed = Headed(tmp_path, *REGRESSION)
    wanted = np.array([NUMBERS, FLAGS], dtype=np.float64).T
    mean, deviation = wanted.mean(axis=0), wanted.std(axis=0)
    outcome = headed.material.problem.compute(headed, headed.batch)
    plain = logits(headed).detach().double()
    scaled = torch.from_numpy((wanted - mean) / deviation)
    expected = F.mse_loss(plain, scaled)
    torch.testing.assert_close((outcome.loss.total / outcome.loss.count).double(), expected, rtol=1e-5, atol=1e-6)
    back = torch.from_numpy(mean) + torch.from_numpy(deviation) * plain
    torch.testing.assert_close(outcome.columns["predicted_values"], back, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(outcome.columns["target_values"], torch.from_numpy(wanted))


def test_absolute_error_is_the_mean_over_rows_and_targets(tmp_path: Path) -> None:
    headed = Headed(tmp_path, *REGRESSION, "problem/loss=absolute_error", "problem.standardize=false")
    outcome = headed.material.problem.compute(headed, headed.batch)
    expected = F.l1_loss(logits(headed), torch.tensor([NUMBERS, FLAGS]).T.float())
    torch.testing.assert_close(outcome.loss.total / outcome.loss.count, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("overrides", "column"), [(MULTICLASS, KINDS), (BINARY, WORDS)])
def test_balanced_class_weights_are_those_of_scikit_learn(
    tmp_path: Path, overrides: list[str], column: list[str]
) -> None:
    headed = Headed(tmp_path, *overrides, "problem.class_weights=balanced")
    names = sorted(set(column))
    theirs = compute_class_weight("balanced", classes=np.array(names), y=np.array(column))
    numbers = torch.tensor([names.index(name) for name in column])
    weights, plain = torch.from_numpy(theirs).float(), logits(headed)
    if len(names) > 2:
        expected = F.cross_entropy(plain, numbers, weight=weights)  # the weighted mean, as torch defines it
    else:
        rows = F.binary_cross_entropy_with_logits(plain[:, 0], numbers.float(), reduction="none")
        expected = (weights[numbers] * rows).sum() / weights[numbers].sum()
    outcome = headed.material.problem.compute(headed, headed.batch)
    torch.testing.assert_close(outcome.loss.total / outcome.loss.count, expected, rtol=1e-5, atol=1e-6)


def test_balanced_weights_of_several_labels_are_those_of_scikit_learn_column_by_column(tmp_path: Path) -> None:
    headed = Headed(tmp_path, *MULTILABEL, "problem.class_weights=balanced")
    wanted = np.array([FLAGS, FLAGS[::-1]]).T
    columns = [compute_class_weight("balanced", classes=np.array([0, 1]), y=column)[column] for column in wanted.T]
    weights = torch.from_numpy(np.stack(columns, axis=1)).float()
    losses = F.binary_cross_entropy_with_logits(logits(headed), torch.from_numpy(wanted).float(), reduction="none")
    outcome = headed.material.problem.compute(headed, headed.batch)
    torch.testing.assert_close(
        outcome.loss.total / outcome.loss.count, (weights * losses).sum() / weights.sum(), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("kind", KIND_OF)
def test_the_weight_column_weighs_rows(tmp_path: Path, kind: str) -> None:
    headed = Headed(tmp_path, *KIND_OF[kind], "dataset.weight_column=w")
    outcome = headed.material.problem.compute(headed, headed.batch)
    rows, weights = outcome.columns["loss"], torch.tensor(WEIGHTS)
    torch.testing.assert_close(
        (outcome.loss.total / outcome.loss.count).detach(), (rows * weights).sum() / weights.sum(), rtol=1e-5, atol=1e-6
    )


def test_two_classes_may_have_an_output_each(tmp_path: Path) -> None:
    headed = Headed(tmp_path, *BINARY, "problem/loss=cross_entropy")
    assert logits(headed).shape == (9, 2)
    assert base_model(headed.model).config.id2label == {0: "no", 1: "yes"}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([*MULTICLASS, "problem/loss=binary_cross_entropy"], "binary_cross_entropy is for yes-or-no questions"),
        ([*MULTILABEL, "problem/loss=cross_entropy"], "problem/loss=cross_entropy is for one class of several"),
        ([*MULTILABEL, "problem.num_classes=3"], "problem.num_classes=3 does not fit the 2 columns"),
        ([*BINARY, "problem.class_weights=[1,2,3]"], "class_weights has 3 numbers, and there are 2 classes"),
        ([*MULTICLASS, "problem.class_weights=[1,2]"], "class_weights has 2 numbers, and there are 3 classes"),
    ],
)
def test_what_does_not_go_together_is_refused_before_the_weights(
    tmp_path: Path, overrides: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message.replace("[", r"\[")):
        prepare(settings_of(tmp_path, TABLE, *overrides))


@pytest.mark.parametrize("element", [torch.float32, torch.bfloat16])
def test_columns_are_float32_whatever_the_default_type_is(element: torch.dtype) -> None:
    """`bf16-true` makes bfloat16 the default type of new tensors during a step."""
    before = torch.get_default_dtype()
    told = {"id2label": {"0": "y"}, "target_mean": [0.0], "target_deviation": [1.0]}
    problem = Regression(loss=squared_error).restored(told)
    trees = [replace(build_tree([Segment([5, 6, 7], False)], num_sequences=0), labels=(value,)) for value in (1.0, 2.0)]
    scorer = SimpleNamespace(outputs=lambda batch: torch.ones(2, 1, dtype=element))
    try:
        torch.set_default_dtype(element)
        outcome = problem.compute(scorer, pack(trees, range(2)))  # type: ignore[arg-type]
    finally:
        torch.set_default_dtype(before)
    assert outcome.columns["loss"].dtype == torch.float32
    assert outcome.columns["loss"].tolist() == [0.0, 1.0]


END = ("dataset.add_eos_token_to_prompt=true", "dataset.text_answer_separator=''")


@pytest.mark.parametrize("problem", [BINARY, REGRESSION])
def test_samples_that_end_with_the_padding_are_refused(problem: list[str], tmp_path: Path) -> None:
    """Elsewhere padding is told by its id; Leyden tells it by its place, so the two would read apart."""
    with pytest.raises(
        ConfigError, match=r"samples end with '<\|im_end\|>', which is the padding .* one token too early"
    ):
        Headed(tmp_path, *problem, *END, "+tokenizer.tokenizer_kwargs.pad_token='<|im_end|>'")


def test_samples_that_end_with_another_token_are_read_as_the_library_does(tmp_path: Path) -> None:
    headed = Headed(tmp_path, *BINARY, *END)
    trees = [headed.material.train.trees[number].tree for number in range(len(PROMPTS))]
    assert {int(tree.tokens[-1]) for tree in trees} == {headed.material.tokenizer.eos_token_id}
    ours = head_outputs(headed.model, headed.batch)
    base_model(headed.model).set_attn_implementation("sdpa")
    theirs = [headed.model(input_ids=torch.tensor([tree.tokens.tolist()])).logits for tree in trees]
    torch.testing.assert_close(ours, torch.cat(theirs), rtol=1e-5, atol=1e-5)
