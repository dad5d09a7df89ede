"""The number formats a model is trained in.

========  =======  =================  ======================================================
name      weights  towers compute in  notes
========  =======  =================  ======================================================
fp32      fp32     fp32, or TF32      with ``tf32``, GPUs multiply with 10 bits of mantissa
amp_bf16  fp32     bf16 (autocast)    what open_clip's users train with
========  =======  =================  ======================================================

In both, weights, features, logits, loss and optimizer state stay fp32. Why there is no mode with weights in bf16:
docs/decisions.md, 2026-11-28.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

__all__ = ["Precision"]


@dataclass(frozen=True)
class Precision:
    """The number formats of forward passes and of GPUs' fp32 matrix products."""

    name: str  # fp32, amp_bf16
    tf32: bool = False

    def autocast(self, device: torch.device) -> torch.autocast:
        """Context of every forward pass, in training and in validation."""
        return torch.autocast(device.type, torch.bfloat16, enabled=self.name == "amp_bf16")

    def apply(self) -> None:
        """Set how GPUs multiply fp32 matrices, for the whole process."""
        torch.set_float32_matmul_precision("high" if self.tf32 else "highest")
        torch.backends.cudnn.allow_tf32 = self.tf32
