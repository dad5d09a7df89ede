"""data2vec: a tower that sees part of its input predicts what an averaged copy of it makes of all of it.

Baevski et al. 2022, https://arxiv.org/abs/2202.03555. The target of a patch or word is the mean of the averaged tower's
last layers there, each normalised; the loss is the smooth L1 distance at what was masked. Unlike the paper's, layers
are taken with their residual, and the text tower reads from left to right, as CLIP's does: a masked word is predicted
from the words before it, and its targets know no others.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn

from infra.device import to_device
from infra.errors import ConfigError
from infra.fusion import towers
from infra.fusion.towers import image_width, text_tower, text_width
from training.distributed.collectives import global_mean
from training.model.blocks import compile_blocks
from training.objectives.albef.momentum import Momentum
from training.objectives.albef.sampling import MASKING, uniform
from training.objectives.base import Objective, l2_normalise
from training.objectives.data2vec.masking import draws_for, masked_patches
from training.objectives.masked import mask_captions
from training.objectives.towers import encode_texts

if TYPE_CHECKING:
    from training.config import Config as Run
    from training.objectives.data2vec.config import Config

__all__ = ["Data2Vec"]


class Data2Vec(Objective):
    """The objective for one tower. Raises ConfigError for a tower without tokens, or with fewer layers than asked for.

    What the loss does not reach is frozen: the other tower, the projection, the scalars.
    """

    learnt = ()

    def __init__(self, model: nn.Module, config: Config, run: Run, *_: object) -> None:
        super().__init__(model)
        self.config, self.seed, self._is_image = config, run.seed, config.modality == "image"
        width = image_width(model) if self._is_image else text_width(model)[0]
        tower = self.model.visual if self._is_image else text_tower(model)
        if (depth := len(_blocks(tower))) < config.layers:
            raise ConfigError(
                "the tower has fewer layers than training.objectives.data2vec.config.Config.layers",
                expected=f"at most {depth}",
                found=str(config.layers),
            )
        dropout = getattr(getattr(tower, "trunk", tower), "patch_dropout", None)
        if not isinstance(dropout, nn.Identity | None):
            raise ConfigError(
                "patches are dropped, and what is masked would be dropped with them",
                expected="model.patch_dropout=0",
                found=type(dropout).__name__,
            )
        self.average = Momentum(self.model.visual if self._is_image else model)
        if run.cluster.compile:
            compile_blocks(self.average.average)  # a copy's blocks are not compiled
        with torch.random.fork_rng(devices=[]):  # the head draws without disturbing the model's generator
            torch.manual_seed(run.seed)
            self.head = nn.Linear(width, width)
            self.mask_embedding = nn.Parameter(0.02 * torch.randn(width))
        self._freeze_what_is_not_trained()
        if not any(weight.requires_grad for weight in tower.parameters()):
            raise ConfigError(
                "the tower that the objective is to train is locked",
                expected=f"no model.lock_{config.modality}, or some of its layers open",
                found="no weight that learns",
            )

    def forward(self, images: Tensor, texts: Tensor) -> dict[str, Tensor]:
        """Return each sample's sum of errors (``error``) and number of masked tokens (``masked``), (b,).

        ``image`` or ``text`` (b, width), of unit length: the mean target of each sample, which tells whether all have
        become alike.
        """
        predicted, targets, masked = self._of_images(images) if self._is_image else self._of_texts(texts)
        errors = _smooth_l1(self.head(predicted), targets[to_device(masked, targets.device)], self.config.beta)
        samples = to_device(masked.nonzero()[:, 0], errors.device)
        count = to_device(masked.sum(dim=1), errors.device).to(errors.dtype)
        return {
            "error": errors.new_zeros(len(masked)).index_add(0, samples, errors),
            "masked": count,
            self.config.modality: l2_normalise(targets.mean(dim=1)),
        }

    def loss(self, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return ``loss``, the mean error over all masked tokens of all ranks."""
        return {"loss": global_mean(outputs["error"], outputs["masked"])}

    @torch.no_grad()
    def after_step(self, samples: int) -> None:
        """Move the averaged tower towards the trained one, more slowly the later it is."""
        config = self.config
        share = min(1.0, samples / config.momentum_warmup) if config.momentum_warmup else 1.0
        decay = config.momentum + share * (config.final_momentum - config.momentum)
        self.average.update(self.model.visual if self._is_image else self.model, decay)

    def _of_images(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the trained tower's tokens at masked patches (k, width), targets (b, n, width), the mask (b, n)."""
        with torch.no_grad():
            targets = _mean_of_layers(_tokens(self.average.average, images, self.config.layers))
        grid = _grid(self.model.visual, images, targets.shape[1])
        draws = uniform(self.seed, MASKING, self.position, len(images), draws_for(grid))
        masked = masked_patches(draws, grid, self.config.mask_rate)
        where = to_device(masked, images.device)
        with _masked(self.model.visual, where, self.mask_embedding):
            (tokens,) = _tokens(self.model.visual, images, 1, normalised=True)
        return tokens[where], targets, masked

    def _of_texts(self, texts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The same of captions, padded to the longest: (k, width), (b, n, width), (b, n)."""
        rate, vocabulary = self.config.mask_rate, self.model.vocab_size
        texts, lengths, hidden, masked = mask_captions(texts, rate, vocabulary, seed=self.seed, position=self.position)
        assert hidden is not None and masked is not None
        with torch.no_grad(), _outputs_of(_blocks(text_tower(self.average.average))[-self.config.layers :]) as layers:
            towers.encode_texts(self.average.average, texts, lengths)
        longest = layers[0].shape[1]
        real = torch.arange(longest) < lengths[:, None]
        targets = _mean_of_layers(layers) * to_device(real, layers[0].device)[..., None]
        _, tokens = encode_texts(self.model, hidden, lengths, self.mask_embedding)
        masked = masked[:, :longest]
        return tokens[to_device(masked[real], tokens.device)], targets, masked

    def _freeze_what_is_not_trained(self) -> None:
        """Freeze the weights that get no gradient: DDP would wait for it in vain. Towers differ, so they are asked."""
        side = self.model.visual.image_size
        height, width = (side, side) if isinstance(side, int) else side
        texts = torch.zeros(2, self.model.context_length, dtype=torch.int64)
        texts[:, -1] = self.model.vocab_size - 1  # end-of-text, after as many words as there may be
        dtype = self.head.weight.dtype
        with torch.compiler.set_stance("force_eager"):  # compiled later, on the device of the run
            self(torch.zeros(2, 3, height, width, dtype=dtype), texts)["error"].sum().backward()
        for weight in self.parameters():
            weight.requires_grad_(weight.requires_grad and weight.grad is not None)
        self.zero_grad(set_to_none=True)


def _smooth_l1(predicted: Tensor, targets: Tensor, beta: float) -> Tensor:
    """Return the mean over the width of each token's error (k,), at least in fp32."""
    with torch.autocast(predicted.device.type, enabled=False):
        predicted, targets = (x.to(torch.promote_types(x.dtype, torch.float32)) for x in (predicted, targets))
        return F.smooth_l1_loss(predicted, targets, beta=beta, reduction="none").mean(dim=-1)


def _mean_of_layers(layers: list[Tensor]) -> Tensor:
    """Return the mean of layers (b, n, width), each token of each normalised without weights; at least fp32."""
    with torch.autocast(layers[0].device.type, enabled=False):
        wide = [layer.to(torch.promote_types(layer.dtype, torch.float32)) for layer in layers]
        return torch.stack([F.layer_norm(layer, layer.shape[-1:]) for layer in wide]).mean(dim=0)


# --- towers -----------------------------------------------------------------------------------------------------------


def _blocks(tower: Any) -> Any:  # noqa: ANN401 - open_clip and timm share no type
    """Return the blocks of a tower, first to last."""
    return tower.trunk.blocks if hasattr(tower, "trunk") else tower.transformer.resblocks


def _tokens(visual: Any, images: Tensor, layers: int, *, normalised: bool = False) -> list[Tensor]:  # noqa: ANN401
    """Return the patches' tokens (b, n, width) after each of the last ``layers``, with the final norm if asked for."""
    outputs = visual.forward_intermediates(
        images, indices=layers, normalize_intermediates=normalised, intermediates_only=True, output_fmt="NLC"
    )
    tokens: list[Tensor] = outputs["image_intermediates"]
    return tokens


def _grid(visual: Any, images: Tensor, patches: int) -> tuple[int, int]:  # noqa: ANN401
    """Return the number of patches down and across."""
    size = visual.patch_size if isinstance(visual, VisionTransformer) else visual.trunk.patch_embed.patch_size
    grid = images.shape[2] // size[0], images.shape[3] // size[1]
    assert grid[0] * grid[1] == patches, f"{patches} patches of {images.shape[2]} x {images.shape[3]} pixels"
    return grid


@contextmanager
def _masked(visual: Any, where: Tensor, embedding: Tensor) -> Iterator[None]:  # noqa: ANN401
    """In the block, masked patches (b, n) get ``embedding`` (width,) for their own before positions are added."""

    def hide(_: nn.Module, __: object, patches: Tensor) -> Tensor:
        if isinstance(visual, VisionTransformer):  # (b, width, rows, columns)
            hidden = where.view(len(where), 1, *patches.shape[2:])
            return torch.where(hidden, embedding.to(patches.dtype)[:, None, None], patches)
        return torch.where(where[..., None].view(*patches.shape[:-1], 1), embedding.to(patches.dtype), patches)

    module = visual.conv1 if isinstance(visual, VisionTransformer) else visual.trunk.patch_embed
    handle = module.register_forward_hook(hide)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _outputs_of(blocks: Any) -> Iterator[list[Tensor]]:  # noqa: ANN401
    """Collect what ``blocks`` return in the block, in order."""
    found: list[Tensor] = []
    handles = [block.register_forward_hook(lambda _, __, output: found.append(output)) for block in blocks]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
