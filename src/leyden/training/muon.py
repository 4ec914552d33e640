"""Muon for hidden matrices and AdamW for everything else, as one optimizer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer


class Muon(Optimizer):
    """Both optimizers of torch on one list of groups: a group with a true `hidden` is Muon's, every other is AdamW's.

    Groups, rates and state are those of this object, so schedules, checkpoints and loggers see one optimizer.

    Args:
        params: groups; those with `hidden` hold matrices only.
        lr: of both. With `match_rms_adamw` an update of a matrix is as large as AdamW's usually are, 0.2 on average.
        weight_decay: of both; weights shrink by 1 - lr weight_decay.
        momentum: of Muon.
        nesterov: of Muon.
        ns_steps: Newton-Schulz iterations that make an update orthogonal.
        adjust_lr_fn: `match_rms_adamw`: the rate times 0.2 sqrt(max(rows, columns)); `original`: times
            sqrt(max(1, rows / columns)).
        betas: of AdamW.
        eps: of AdamW.

    Raises:
        ValueError: a hidden group holds something else than matrices.

    Source: Jordan 2024, https://kellerjordan.github.io/posts/muon; Liu et al. 2025, arXiv:2502.16982.
    """

    hidden_apart: ClassVar[bool] = True

    def __init__(  # noqa: PLR0913
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        *,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_steps: int = 5,
        adjust_lr_fn: str = "match_rms_adamw",
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
    ) -> None:
        one: list[Tensor] = [nn.Parameter(torch.zeros(1, 1))]
        self._matrices = torch.optim.Muon(
            one, lr=lr, weight_decay=weight_decay, momentum=momentum, nesterov=nesterov, ns_steps=ns_steps,
            adjust_lr_fn=adjust_lr_fn,
        )  # fmt: skip
        self._others = AdamW(one, lr=lr, weight_decay=weight_decay, betas=(betas[0], betas[1]), eps=eps)
        own = (self._others.defaults, self._matrices.defaults)
        groups = [group if isinstance(group, dict) else {"params": [group]} for group in params]
        filled = [{"hidden": False, **own[bool(group.get("hidden"))], **group} for group in groups]
        torch.optim.Muon(
            [*one, *(weight for group in filled if group["hidden"] for weight in group["params"])]
        )  # checks
        super().__init__(filled, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update every weight that has a gradient.

        Args:
            closure: evaluates the model anew and returns the loss.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        # Loading a state puts new groups and a new state here, so the inner ones are pointed at them anew.
        for inner, hidden in ((self._matrices, True), (self._others, False)):
            inner.param_groups = [group for group in self.param_groups if group["hidden"] is hidden]
            inner.state = self.state
            inner.step()  # type: ignore[no-untyped-call]
        return loss
