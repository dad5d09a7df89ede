"""The gradient of one batch's loss, in as many parts as memory wants.

A contrastive loss compares every sample with every other, so the losses of parts of a batch do not add up to the loss
of the batch. What is exact instead (GradCache; Gao et al. 2021, https://arxiv.org/abs/2101.06983): encode the parts
without keeping activations, take the loss of all features at once and its gradient in each feature, then encode the
parts again, each with the random numbers it had before, and send the features' gradients back through the towers.
Memory is that of one part; the price is a second forward pass.

What is learnt outside the towers (temperature, bias) enters the loss as a number that ``forward`` hands out; its
gradient is complete after the loss and goes back once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from training.objectives.base import Objective

__all__ = ["backward"]

Outputs = dict[str, Tensor]
Encode = Callable[[int], Outputs]
"""Forward pass of a part, by number."""


def backward(
    objective: Objective,
    encode: Encode,
    parts: int,
    no_sync: Callable[[], AbstractContextManager[object]],
    look: Callable[[Outputs], None] = lambda _: None,
) -> Outputs:
    """Add the gradient of this rank's samples to the weights'; the losses by name, detached, 0-D.

    ``encode(part)`` gives ``objective``'s outputs for a part of the samples, the same each time it is called;
    gradients are exchanged between ranks in the backward pass unless it runs under ``no_sync()``. ``look`` is shown the
    outputs of all parts together.
    """
    if parts == 1:
        outputs = encode(0)
        look(outputs)
        losses = objective.loss(outputs)
        losses["loss"].backward()  # type: ignore[no-untyped-call]
        return {name: loss.detach() for name, loss in losses.items()}

    states, encoded = [], []
    with torch.no_grad():
        for part in range(parts):
            states.append(_Random.now())
            encoded.append(encode(part))
    leaves = {name: _leaf(tensor) for name, tensor in _together(encoded).items()}
    look(leaves)
    losses = objective.loss(leaves)
    losses["loss"].backward()  # type: ignore[no-untyped-call]
    objective.again = True
    for part, state in enumerate(states):
        last = part == parts - 1
        with state.again(), nullcontext() if last else no_sync():
            outputs = encode(part)
            gradients = dict(_gradients(outputs, leaves, part, parts))
            torch.autograd.backward([outputs[name] for name in gradients], list(gradients.values()))
    objective.again = False
    return {name: loss.detach() for name, loss in losses.items()}


def _together(encoded: list[Outputs]) -> Outputs:
    """The outputs of all parts as those of one."""
    joined: Outputs = {}
    for name, first in encoded[0].items():
        joined[name] = torch.cat([outputs[name] for outputs in encoded]) if first.ndim else first
    return joined


def _leaf(tensor: Tensor) -> Tensor:
    return tensor.detach().requires_grad_(tensor.is_floating_point())


def _gradients(outputs: Outputs, leaves: Mapping[str, Tensor], part: int, parts: int) -> Iterator[tuple[str, Tensor]]:
    """The gradient of the batch's loss in each of a part's outputs that lead back to weights."""
    for name, output in outputs.items():
        gradient = leaves[name].grad
        if not output.requires_grad:
            continue
        if gradient is None:
            gradient = torch.zeros_like(leaves[name])  # unused by the loss, but DDP waits for every weight
        if output.ndim:
            yield name, gradient.chunk(parts)[part]
        else:
            yield name, gradient if part == parts - 1 else torch.zeros_like(gradient)


class _Random:
    """The state of the random generators that layers draw from."""

    def __init__(self, cpu: Tensor, cuda: Tensor | None) -> None:
        self._cpu, self._cuda = cpu, cuda

    @classmethod
    def now(cls) -> _Random:
        return cls(torch.get_rng_state(), torch.cuda.get_rng_state() if torch.cuda.is_available() else None)

    @contextmanager
    def again(self) -> Iterator[None]:
        """Draw the same numbers as then; afterwards go on as if nothing had been."""
        before = _Random.now()
        self._set()
        yield
        before._set()

    def _set(self) -> None:
        torch.set_rng_state(self._cpu)
        if self._cuda is not None:
            torch.cuda.set_rng_state(self._cuda)
