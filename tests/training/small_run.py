"""A training run of a tiny CLIP without a loader, for tests of training.distributed and training.checkpoint."""

from __future__ import annotations

from typing import Any

import torch
from nesting import nested
from torch import Tensor, nn

from training import train
from training.checkpoint.checkpoints import Checkpoints
from training.distributed.collectives import all_gather_with_grad
from training.distributed.parallel import Parallel, gathered, wrap
from training.distributed.world import World
from training.inputs import Inputs
from training.loop import identity
from training.optim.schedule import adamw

BATCH = 8


class Contrast(nn.Module):
    """InfoNCE written out, with something to remember beside the weights, as objectives with queues have."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model: Any = model
        self.register_buffer("mean", torch.zeros(16))

    def forward(self, images: Tensor, texts: Tensor) -> dict[str, Tensor]:
        image, text = self.model.encode_image(images, normalize=True), self.model.encode_text(texts, normalize=True)
        return {"image": image.float(), "text": text.float(), "scale": self.model.logit_scale.exp()}

    def loss(self, outputs: dict[str, Tensor]) -> Tensor:
        own = torch.arange(len(outputs["image"])) + World.join().rank * len(outputs["image"])
        image, text = all_gather_with_grad(outputs["image"]), all_gather_with_grad(outputs["text"])
        self.mean.lerp_(image.detach().mean(0), 0.1)
        cross = nn.functional.cross_entropy
        of_images = cross(outputs["scale"] * outputs["image"] @ text.T, own)
        of_texts = cross(outputs["scale"] * outputs["text"] @ image.T, own)
        return (of_images + of_texts) / 2


def config(**changes: Any) -> train.Config:
    from small_data import MODEL

    model = {**MODEL, "vision_cfg": {**MODEL["vision_cfg"], "layers": 2}}
    values = {
        "model__architecture": model,
        "batch_size": BATCH,
        "samples": 80,
        "optimizer__lr": 1e-2,
        "checkpoint__every": 16,
    }
    return train.Config(**nested({**values, **changes}))


class Run:
    """One rank's objective, optimizer and the record of what it did."""

    def __init__(self, settings: train.Config, world: World | None = None) -> None:
        import open_clip

        self.config, self.world = settings, world or World.join(torch.device("cpu"))
        torch.manual_seed(settings.seed)
        self.objective = Contrast(open_clip.model.CLIP(**settings.model.architecture))
        self.parallel: Parallel = wrap(self.objective, settings, self.world)
        self.optimizer = adamw(self.objective, settings.optimizer)
        self.samples = 0
        self.losses: list[float] = []
        self.norms: list[float] = []

    def checkpoints(self, store: Any, **changes: Any) -> Checkpoints:
        return Checkpoints(
            store, self.config.checkpoint.replace(**changes), self.world, identity=identity(self.config, Inputs({}))
        )

    def restore(self, checkpoints: Checkpoints) -> bool:
        state = checkpoints.restore(self.objective, self.optimizer)
        if state is not None:
            self.samples, self.losses = state["samples"], state["losses"]
        return state is not None

    def save(self, checkpoints: Checkpoints, **metrics: float) -> None:
        state = {"samples": self.samples, "losses": self.losses}
        checkpoints.save(self.samples, self.objective, self.optimizer, state, lambda: metrics)

    def step(self, parts: int = 1) -> float:
        draw = torch.Generator().manual_seed(self.samples)
        images = torch.randn(BATCH, 3, 16, 16, generator=draw)
        texts = torch.randint(1, 49408, (BATCH, 8), generator=draw)
        share = BATCH // self.world.size
        own = slice(self.world.rank * share, (self.world.rank + 1) * share)
        self.optimizer.zero_grad()
        loss = self.objective.loss(self.parallel(images[own], texts[own]))
        loss.backward()
        self.norms.append(float(self.parallel.clip(0.5)))
        self.optimizer.step()
        self.samples += BATCH
        self.losses.append(sum(self.world.gather(float(loss.detach()))) / self.world.size)
        return self.losses[-1]

    def state(self) -> dict[str, Any]:
        """Weights and moments, whole, by name; on rank 0."""
        weights = gathered(self.objective.state_dict(), self.world)
        moments = {name: dict(self.optimizer.state[weight]) for name, weight in self.objective.named_parameters()}
        return {"weights": weights, "moments": gathered(moments, self.world)}


def arrays(tree: Any) -> Any:
    """A tree with arrays in the places of tensors, which cannot outlive the process that made them."""
    if isinstance(tree, Tensor):
        return tree.detach().float().numpy().copy()
    return {key: arrays(value) for key, value in tree.items()} if isinstance(tree, dict) else tree
