"""Steps of an objective as the training loop makes them, on this rank's share and in any number of parts."""

from __future__ import annotations

import torch

from training import step
from training.distributed.parallel import gathered, wrap
from training.distributed.world import World

__all__ = ["steps_of"]


def steps_of(module, settings, draw, batch, *, parts, dtype, count, start=0):
    """Take ``count`` steps of ``batch`` samples by plain descent; ``draw(position)`` gives a batch's images and texts.

    What the losses of each step come to, and on rank 0 what :func:`training.distributed.parallel.gathered` makes of the
    last gradients and of the module's state, by name and as arrays.
    """
    module, world = module.to(dtype), World.join(torch.device("cpu"))
    wrapped = wrap(module, settings, world)
    optimizer = torch.optim.SGD([weight for weight in module.parameters() if weight.requires_grad], lr=0.3)
    share = batch // world.size
    size, losses = share // parts, []
    for seen in range(start, start + count * batch, batch):
        images, texts = (x[world.rank * share :][:share] for x in draw(seen))

        def encode(part, seen=seen, images=images, texts=texts):
            module.position = seen + world.rank * share + part * size
            rows = slice(part * size, (part + 1) * size)
            return wrapped(images[rows].to(dtype), texts[rows])

        optimizer.zero_grad()
        losses.append(step.backward(module, encode, parts, wrapped.no_sync))
        wrapped.clip(None)
        optimizer.step()
        module.after_step(seen + batch)
    gradients = {name: weight.grad for name, weight in module.named_parameters() if weight.grad is not None}
    whole = gathered([gradients, module.state_dict()], world)
    arrays = [{name: value.numpy() for name, value in tree.items() if value is not None} for tree in whole]
    return [{name: loss.item() for name, loss in line.items()} for line in losses], *arrays
