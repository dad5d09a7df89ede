"""What numbers a model is trained in.

========  =====================  =================  =======================================
name      weights                towers compute in  notes
========  =====================  =================  =======================================
fp32      fp32                   fp32, or TF32      ``tf32``: matmuls of GPUs with 10 bits of mantissa
amp_bf16  fp32                   bf16 (autocast)    what open_clip's users train with
bf16      bf16, and fp32 masters bf16               half the memory of activations; no casts
========  =====================  =================  =======================================

In each of them norms' gains, embeddings and logit scale stay fp32, as do features, logits, loss and the optimizer.
Where FSDP2 shards the weights, its shards are the masters, and both bf16 modes multiply by autocast in bf16; they
differ in what goes through the blocks, fp32 or bf16.
A step of AdamW is often smaller than half the distance between two bf16 numbers, so weights kept in bf16 alone would
stand still. They therefore have a master copy in fp32, which AdamW moves and which they are the rounding of.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

__all__ = ["AdamW", "Precision", "exact"]


@dataclass(frozen=True)
class Precision:
    """How to build, run and step a model; the loop need not know which."""

    name: str  # fp32, amp_bf16, bf16
    tf32: bool = False
    sharded: bool = False  # FSDP2 keeps fp32 weights and rounds them itself as it brings them together

    @property
    def weights(self) -> str:
        """What the weights are kept in, in the words of ``open_clip.create_model(precision=...)``."""
        return "bf16" if self.name == "bf16" and not self.sharded else "fp32"

    def autocast(self, device: torch.device) -> torch.autocast:
        """Around forward passes, of training and of validation."""
        half = self.name == "amp_bf16" or (self.name == "bf16" and self.sharded)
        return torch.autocast(device.type, torch.bfloat16, enabled=half)

    def apply(self) -> None:
        """Set how GPUs multiply fp32 matrices, for the whole process."""
        torch.set_float32_matmul_precision("high" if self.tf32 else "highest")
        torch.backends.cudnn.allow_tf32 = self.tf32


class AdamW(torch.optim.AdamW):
    """torch's, for weights of which some are bf16: each of those has its ``master`` in fp32 beside its moments.

    With fp32 weights it is torch's own step. Its state is torch's with ``master`` added, and goes into checkpoints as
    it is.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step by the gradients there are."""
        assert closure is None, "the loss is not computed again"
        if all(weight.dtype != torch.bfloat16 for group in self.param_groups for weight in group["params"]):
            super().step()
            return
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            states = [self._state_of(weight) for weight in weights]
            masters = [state.get("master", weight) for state, weight in zip(states, weights, strict=True)]
            beta1, beta2 = group["betas"]
            adamw(
                masters,
                [weight.grad.float() for weight in weights],
                [state["exp_avg"] for state in states],
                [state["exp_avg_sq"] for state in states],
                [],
                [state["step"] for state in states],
                fused=group["fused"],
                foreach=group["foreach"],
                amsgrad=False,
                beta1=beta1,
                beta2=beta2,
                lr=group["lr"],
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                maximize=False,
            )
            pairs = [(w, m) for w, m in zip(weights, masters, strict=True) if w is not m]
            if pairs:
                torch._foreach_copy_([weight for weight, _ in pairs], [master for _, master in pairs])

    def _state_of(self, weight: Tensor) -> dict[str, Tensor]:
        state: dict[str, Tensor] = self.state[weight]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=weight.device)
            state["exp_avg"] = torch.zeros_like(weight, dtype=torch.float32)
            state["exp_avg_sq"] = torch.zeros_like(weight, dtype=torch.float32)
            if weight.dtype == torch.bfloat16:
                state["master"] = weight.detach().float()
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """torch's would round moments and masters to the weights' bf16."""
        super().load_state_dict(state_dict)
        weights = [weight for group in self.param_groups for weight in group["params"]]
        for number, weight in enumerate(weights):
            if weight.dtype == torch.bfloat16:
                for name, value in state_dict["state"].get(number, {}).items():
                    self.state[weight][name] = value.to(weight.device, torch.float32, copy=True)


def exact(module: nn.Module, optimizer: torch.optim.Optimizer) -> Iterable[tuple[str, Tensor]]:
    """The names and values of ``module``'s state with masters in the place of bf16 weights, all else as it is."""
    masters = {
        id(weight): optimizer.state[weight]["master"]
        for group in optimizer.param_groups
        for weight in group["params"]
        if "master" in optimizer.state.get(weight, {})
    }
    for name, value in module.state_dict(keep_vars=True).items():
        yield name, masters.get(id(value), value).detach()
