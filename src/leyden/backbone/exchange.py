"""Parts of a frozen model in exchange for ours that compute the same in fewer steps."""

from __future__ import annotations

import inspect

import torch
from torch import nn
from transformers import PreTrainedModel

from leyden.backbone.gated import GatedMLP
from leyden.backbone.rms_norm import FusedRMSNorm

_KINDS = (GatedMLP, FusedRMSNorm)
_TOLERANCE = 1e-5  # of two ways to the same outputs, beside the largest of them


def exchange_parts(model: PreTrainedModel) -> None:
    """Put our gated blocks and norms in place of the library's, weights and their names as they are.

    A class of modules is exchanged if its first one, tried on a few tokens, computes what ours does. Modules in other
    types than float32 stay: there ours would take the library's steps, and families of models order theirs differently.
    """
    tried: dict[type[nn.Module], bool] = {}
    for parent in list(model.modules()):
        for name, module in list(parent.named_children()):
            kind = next((kind for kind in _KINDS if kind.fits(module)), None)
            if kind is None or len(inspect.signature(module.forward).parameters) != 1:
                continue
            ours = kind(module).train(module.training)
            if type(module) not in tried:
                tried[type(module)] = _agree(ours, module)
            if tried[type(module)]:
                setattr(parent, name, ours)


@torch.no_grad()
def _agree(ours: nn.Module, theirs: nn.Module) -> bool:
    """Whether two modules make the same of a few tokens, under autocast to the bit and in the same type."""
    weight = next(theirs.parameters())
    if weight.is_meta or weight.numel() == 0 or weight.dtype != torch.float32:
        return False
    tokens = torch.randn(4, weight.shape[-1], generator=torch.Generator().manual_seed(0)).to(weight.device)
    one, other = (module(tokens) for module in (ours, theirs))
    with torch.autocast(weight.device.type, torch.bfloat16):
        rounded, expected = (module(tokens.bfloat16()) for module in (ours, theirs))
    same = rounded.dtype == expected.dtype and torch.equal(rounded, expected)
    return same and bool((one - other).abs().max() <= _TOLERANCE * other.abs().max())
