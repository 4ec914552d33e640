"""Training written out plainly: one sample at a time, whole logits, formulas as in the papers, one division per update.

Nothing here packs, shares, pads or fuses. The models are those of `transformers` with the adapters of `peft`.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from leyden.backbone.checkpoint import find_checkpoint
from leyden.data.sampler import epoch_order
from leyden.data.trees import Tree
from leyden.settings.schema import Settings
from leyden.training.prepare import Material

Scores = tuple[Tensor, Tensor, Tensor, Tensor]  # summed log-probability of both answers, and their lengths
MakeOptimizer = Callable[[list[Tensor]], torch.optim.Optimizer]


@dataclass
class Trace:
    """What a training did: loss and gradient norm of each update, gradients of the first, weights after the last."""

    losses: list[float]
    norms: list[float]
    gradients: dict[str, Tensor]
    weights: dict[str, Tensor]


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


def draw_trained(model: nn.Module, deviation: float = 0.05) -> None:
    """Give every trained weight numbers that depend on its name alone, so that two models start alike."""
    for name, weight in trained(model).items():
        generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        weight.data.copy_(torch.randn(weight.shape, generator=generator) * deviation)


def plain_model(settings: Settings, classes: int = 0) -> PeftModel:
    """The checkpoint as the library loads it, with an adapter as `peft` makes it; with classes, a head for them."""
    assert settings.lora is not None
    kind: Any = AutoModelForSequenceClassification if classes else AutoModelForCausalLM
    head = {"num_labels": classes} if classes else {}
    model = kind.from_pretrained(find_checkpoint(settings.backbone).location, dtype=torch.float32, **head)
    config = LoraConfig(
        r=settings.lora.r, lora_alpha=settings.lora.alpha, lora_dropout=0.0, target_modules="all-linear",
        task_type="SEQ_CLS" if classes else "CAUSAL_LM",
    )  # fmt: skip
    adapted = get_peft_model(model, config)
    assert isinstance(adapted, PeftModel)
    return adapted


def path_logps(model: nn.Module, tree: Tree) -> list[Tensor]:
    """For each sequence of a sample, the log-probabilities of its targets, by one plain forward pass each."""
    found = []
    for sequence, path in enumerate(tree.paths()):
        ids = torch.from_numpy(tree.tokens[path]).long()[None]
        targets = set(tree.targets[tree.sequences == sequence].tolist())
        logps = model(input_ids=ids, use_cache=False).logits[0, :-1].log_softmax(-1)
        columns = [column for column in range(1, len(path)) if int(path[column]) in targets]
        found.append(torch.stack([logps[column - 1, ids[0, column]] for column in columns]))
    return found


def sides(model: nn.Module, trees: list[Tree]) -> Scores:
    both = [path_logps(model, tree) for tree in trees]
    chosen, rejected = ([sample[side] for sample in both] for side in (0, 1))
    sums = (torch.stack([x.sum() for x in chosen]), torch.stack([x.sum() for x in rejected]))
    return *sums, torch.tensor([len(x) for x in chosen]), torch.tensor([len(x) for x in rejected])


def reference_sides(model: PeftModel, trees: list[Tree]) -> Scores:
    with torch.no_grad(), model.disable_adapter():
        return sides(model, trees)


def plain_pair_losses(name: str, policy: Scores, reference: Scores, beta: float = 0.2) -> Tensor:
    w, r, n_w, n_r = policy
    a, c = w - reference[0], r - reference[1]
    if name == "dpo":
        return -F.logsigmoid(beta * (a - c))
    if name == "hinge":
        return torch.relu(1 - beta * (a / n_w - c / n_r))
    if name == "ipo":
        return (a / n_w - c / n_r - 1 / (2 * beta)) ** 2
    if name == "kto_pair":
        moved_w, moved_l = a.mean().clamp(min=0), c.mean().clamp(min=0)
        return torch.cat([1 - torch.sigmoid(beta * (a - moved_l)), 1 - torch.sigmoid(beta * (moved_w - c))])
    if name == "cpo":
        return -F.logsigmoid(beta * (w - r))
    return -F.logsigmoid(beta * (w / n_w - r / n_r) - 1.0)


def plain_loss(settings: Settings, model: PeftModel, trees: list[Tree], reference: Scores | None) -> Tensor:
    """The mean loss of the samples of an update."""
    name = settings.problem.loss.target.rpartition(".")[2]
    if reference is not None:
        return plain_pair_losses(name, sides(model, trees), reference).mean()
    if settings.problem.scores == "classes":
        inputs = [torch.from_numpy(tree.tokens).long()[None] for tree in trees]
        outputs = torch.cat([model(input_ids=ids, use_cache=False).logits for ids in inputs])
        return F.cross_entropy(outputs, torch.tensor([int(tree.labels[0]) for tree in trees]))
    rows = [path_logps(model, tree)[0] for tree in trees]
    if name == "token_averaged_cross_entropy":
        return -torch.cat(rows).mean()
    return torch.stack([-row.mean() for row in rows]).mean()


def plain_training(
    settings: Settings, material: Material, model: PeftModel, per_update: int, make: MakeOptimizer, clip: float = 0.0
) -> Trace:
    """Train a model on the samples in the order of the settings' seed, so many per update."""
    weights = trained(model)
    optimizer = make(list(weights.values()))
    trace = Trace([], [], {}, {})
    samples = material.train.trees
    trees = [samples[number].tree for number in range(len(samples))]
    reference = reference_sides(model, trees) if settings.problem.scores == "pair" else None
    for epoch in range(settings.trainer.epochs):
        order = epoch_order(len(trees), settings.seed, epoch, samples.groups())
        for start in range(0, len(order), per_update):
            own = order[start : start + per_update]
            fixed = None if reference is None else (reference[0][own], reference[1][own], *reference[2:])
            loss = plain_loss(settings, model, [trees[sample] for sample in own], fixed)
            optimizer.zero_grad()
            loss.backward()
            gradients = {name: weight.grad for name, weight in weights.items() if weight.grad is not None}
            norm = torch.stack([gradient.norm() for gradient in gradients.values()]).norm()
            if not trace.losses:
                trace.gradients = {name: gradient.clone() for name, gradient in gradients.items()}
            trace.losses.append(loss.item())
            trace.norms.append(norm.item())
            if clip and norm > clip:
                for gradient in gradients.values():
                    gradient *= clip / norm
            optimizer.step()
    trace.weights = {name: weight.detach().clone() for name, weight in weights.items()}
    return trace
