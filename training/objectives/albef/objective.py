"""ALBEF: align before fuse, with momentum distillation.

Li et al. 2021, https://arxiv.org/abs/2107.07651. Three losses on open_clip's towers:

- image-text contrast (ITC) with momentum towers, queues of their features and soft targets;
- image-text matching (ITM): a fusion encoder tells true pairs from the wrong ones that look most alike;
- masked language modelling (MLM): it guesses hidden words from the other words and the image.

ITC alone, with ``alpha`` 0, is MoCo's contrast between two modalities. What is trained for the world are the
towers. The fusion encoder is exported beside them, for :class:`.matcher.Matcher` to rank candidates with.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from infra.errors import ConfigError
from training.distributed.collectives import all_gather, all_reduce, rank, size
from training.model.blocks import compile_blocks
from training.objectives.albef.fusion import Fusion, Layout, pick
from training.objectives.albef.matcher import FOLDER, Matcher
from training.objectives.albef.momentum import Momentum, Queue, contrast
from training.objectives.albef.sampling import HARD_NEGATIVES, MASKING, gumbel, hard_negatives, hide_words, uniform
from training.objectives.base import Companion, Objective, features, unit
from training.objectives.towers import (
    encode_images,
    encode_texts,
    lengths_of,
    measure,
    send,
    shared_width,
    word_embedding,
)

if TYPE_CHECKING:
    from training.config import Config as Run
    from training.objectives.albef.config import Config

__all__ = ["ALBEF"]


class _Captions(NamedTuple):
    """On the CPU, where their lengths are known without waiting for a GPU."""

    texts: Tensor  # (b, context)
    lengths: Tensor  # (b,)
    hiding: Tensor | None  # (b, context): with words hidden
    hidden: Tensor | None  # (b, context): which


class _Encoded(NamedTuple):
    image: Tensor  # (b, d), unit length
    text: Tensor
    image_tokens: Tensor  # (b, n, image width)
    words: Tensor  # (t, text width): of all captions, one after the other
    hidden_words: Tensor  # the same of the captions with words hidden, if there are


class ALBEF(Objective):
    """The objective. ITM and MLM want open_clip's CLIP or CustomTextCLIP with a ViT; others raise ConfigError."""

    def __init__(self, model: nn.Module, config: Config, run: Run) -> None:
        super().__init__(model)
        self.config, self.seed = config, run.seed
        self.momentum = Momentum(model)
        if run.cluster.compile:
            compile_blocks(self.momentum.average)  # a copy forgets that its blocks were compiled
        self.image_queue, self.text_queue = (Queue(config.queue_size, shared_width(model)) for _ in range(2))
        self._half = any(weight.dtype == torch.bfloat16 for weight in model.parameters())
        self.fusion: Any = None
        self.fusion_momentum: Any = None
        if config.itm_weight or config.mlm_weight:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(run.seed)
                self.fusion = Fusion(
                    measure(model),
                    config.fusion_layers,
                    vocabulary=int(self.model.vocab_size) if config.mlm_weight else None,
                    matching=config.itm_weight > 0,
                )
            self.fusion.grad_checkpointing = run.cluster.grad_checkpointing
            if run.cluster.compile:
                compile_blocks(self.fusion)
        if config.mlm_weight and config.alpha:
            self.fusion_momentum = Momentum(self.fusion)
            if run.cluster.compile:
                compile_blocks(self.fusion_momentum.average)
        self._fresh: tuple[Tensor, Tensor] | None = None

    def forward(self, images: Tensor, texts: Tensor) -> dict[str, Tensor]:
        """Of images (b, 3, h, w) and texts (b, context): features, those of the momentum towers (``_key``), ``scale``.

        With ``itm`` and ``mlm`` each sample's sum of losses, and how many there are: ``itm_pairs``, ``mlm_words``.
        ``alpha`` is each sample's share of soft targets.
        """
        if self.fusion is None:
            if self.again:
                return super().forward(images, texts)
            with torch.no_grad(), self._precision(images.device):
                keys = features(self.momentum.average, images, texts)
            return super().forward(images, texts) | self._keys(keys["image"], keys["text"])
        captions = self._captions(texts)
        fast = _encode(self.model, self.fusion, images, captions)
        with torch.no_grad(), self._precision(images.device):
            if self.fusion_momentum:
                slow = _encode(self.momentum.average, self.fusion_momentum.average, images, captions)
            else:
                slow = _encode(self.momentum.average, None, images, captions._replace(hiding=None))
        outputs = {"image": fast.image, "text": fast.text, **self.scalars(), **self._keys(slow.image, slow.text)}
        with self._precision(images.device):
            return outputs | self._fuse(fast, slow, captions, outputs)

    def loss(self, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """``itc``, ``itm``, ``mlm`` and their weighted sum; the mean over ranks is that of the whole batch.

        Queries meet keys without gradients, those of the whole batch and the queue: only keys travel between ranks.
        """
        keys = all_gather(outputs["image_key"].detach()), all_gather(outputs["text_key"].detach())
        self._fresh = keys
        image, text, scale, alpha = (outputs[name] for name in ("image", "text", "scale", "alpha"))
        own = torch.arange(len(image), device=image.device) + rank() * len(image)
        losses = {}
        with torch.autocast(image.device.type, enabled=False):
            image_keys = torch.cat([keys[0], self.image_queue.filled])
            text_keys = torch.cat([keys[1], self.text_queue.filled])
            teachers = (keys[0][own], keys[1][own]) if self.config.alpha else (None, None)
            losses["itc"] = (
                contrast(image, text_keys, own, scale, teachers=teachers[0], alpha=alpha)
                + contrast(text, image_keys, own, scale, teachers=teachers[1], alpha=alpha)
            ) / 2
            loss = losses["itc"]
            if self.config.itm_weight:
                losses["itm"] = _mean(outputs["itm"], outputs["itm_pairs"])
                loss = loss + self.config.itm_weight * losses["itm"]
            if self.config.mlm_weight:
                losses["mlm"] = _mean(outputs["mlm"], outputs["mlm_words"])
                loss = loss + self.config.mlm_weight * losses["mlm"]
        return losses | {"loss": loss}

    @torch.no_grad()
    def after_step(self, samples: int) -> None:
        """Move the averages, and let the batch that :meth:`loss` saw last into the queues."""
        assert self._fresh is not None, "there was no loss before"
        super().after_step(samples)
        self.momentum.update(self.model, self.config.momentum)
        if self.fusion_momentum:
            self.fusion_momentum.update(self.fusion, self.config.momentum)
        self.image_queue.put(self._fresh[0])
        self.text_queue.put(self._fresh[1])
        self._fresh = None

    def matcher(self) -> Matcher:
        """The model as it scores pairs. Raises ConfigError if it was made without matching."""
        return Matcher(self.model, self.fusion)

    def companions(self) -> dict[str, Companion]:
        if self.fusion is None:
            return {}
        config = {
            "layers": self.config.fusion_layers,
            "vocabulary": int(self.model.vocab_size) if self.config.mlm_weight else None,
            "matching": self.config.itm_weight > 0,
        }
        return {FOLDER: Companion(self.fusion, config)}

    def _precision(self, device: torch.device) -> AbstractContextManager[object]:
        """That of the towers, where these are kept in bf16, for what is kept in fp32 all the same."""
        return torch.autocast(device.type, torch.bfloat16) if self._half else nullcontext()

    def _keys(self, image: Tensor, text: Tensor) -> dict[str, Tensor]:
        """Soft targets are worth little while the momentum towers know little: their share grows with the samples."""
        share = torch.ones(len(image))
        if self.config.alpha_warmup:
            number = torch.arange(len(image), dtype=torch.float64) + self.position
            share = (number / self.config.alpha_warmup).clamp(max=1)
        alpha = (self.config.alpha * share).to(image.device, image.dtype)
        return {"image_key": image, "text_key": text, "alpha": alpha}

    def _captions(self, texts: Tensor) -> _Captions:
        texts, lengths = texts.cpu(), lengths_of(texts)
        if not self.config.mlm_weight:
            return _Captions(texts, lengths, None, None)
        count, context = texts.shape
        draws = uniform(self.seed, MASKING, self.position, count, 3 * context).view(count, 3, context)
        hidden = hide_words(texts, lengths, draws, self.config.mask_rate, self.model.vocab_size)
        return _Captions(texts, lengths, *hidden)

    def _fuse(
        self, fast: _Encoded, slow: _Encoded, captions: _Captions, outputs: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """ITM and MLM of each sample, in one pass of the fusion encoder."""
        device, count, losses = fast.words.device, len(captions.texts), {}
        own = torch.arange(count, device=device)
        words, lengths, images = [], [], []
        if self.config.itm_weight:
            other_text, other_image, found = self._negatives(fast, slow, captions, outputs["scale"].detach())
            chosen = other_text.cpu()  # how many tokens come next is nothing a GPU may keep for itself
            words = [fast.words, fast.words[send(pick(captions.lengths, chosen), device)], fast.words]
            lengths = [captions.lengths, captions.lengths[chosen], captions.lengths]
            images = [own, own, other_image]
        if captions.hidden is not None:
            words, lengths, images = [*words, fast.hidden_words], [*lengths, captions.lengths], [*images, own]
        layout = Layout(torch.cat(lengths), device)
        fused = self.fusion(torch.cat(words), layout, fast.image_tokens, torch.cat(images))
        if self.config.itm_weight:
            right, wrong_text, wrong_image = self.fusion.match(fused, layout.ends[: 3 * count]).view(3, -1)
            losses["itm"] = F.softplus(-right) + found * (F.softplus(wrong_text) + F.softplus(wrong_image))
            losses["itm_pairs"] = 1 + 2 * found
        if captions.hidden is not None:
            losses["mlm"] = self._guess(fused[-len(fast.hidden_words) :], slow, captions, outputs["alpha"])
            losses["mlm_words"] = send(captions.hidden.sum(-1), device).to(losses["mlm"].dtype)
        return losses

    def _negatives(
        self, fast: _Encoded, slow: _Encoded, captions: _Captions, scale: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Wrong texts and images by the similarities that ITC works on; see :func:`.sampling.hard_negatives`."""
        (count, width), among = fast.image.shape, self.config.negatives_among
        if count % among or self.position % among:
            raise ConfigError(
                "negatives_among does not divide the samples that are worked on at a time, so that the split "
                "of a batch over ranks and parts would decide who meets whom",
                expected=f"a divisor of {math.gcd(count, self.position)}",
                found=str(among),
                fix="change negatives_among, or batch_size / workers / accumulate",
            )
        noise = gumbel(uniform(self.seed, HARD_NEGATIVES, self.position, count, 2 * among))
        with torch.no_grad(), torch.autocast(scale.device.type, enabled=False):
            to_texts, to_images = (
                scale * queries.view(-1, among, width) @ keys.view(-1, among, width).mT
                for queries, keys in ((fast.image, slow.text), (fast.text, slow.image))
            )
        other_text, other_image, found = hard_negatives((to_texts, to_images), captions.texts, noise)
        return other_text, other_image, found.to(scale.dtype)

    def _guess(self, fused: Tensor, slow: _Encoded, captions: _Captions, alpha: Tensor) -> Tensor:
        """Summed cross-entropy of each sample's hidden words (b,), against the words and the momentum model's guess."""
        hidden, device = captions.hidden, fused.device
        assert hidden is not None
        real = torch.arange(hidden.shape[1]) < captions.lengths[:, None]
        among_words = send(hidden[real].nonzero()[:, 0], device)
        samples, places = hidden.nonzero(as_tuple=True)
        targets = send(captions.texts[samples, places], device)
        logits = self.fusion.words(fused[among_words], word_embedding(self.model))
        if self.fusion_momentum is None:
            losses = F.cross_entropy(logits, targets, reduction="none")
        else:
            with torch.no_grad():
                teacher, layout = self.fusion_momentum.average, Layout(captions.lengths, device)
                own = torch.arange(len(hidden), device=device)
                guess = teacher(slow.hidden_words, layout, slow.image_tokens, own)[among_words]
                soft = teacher.words(guess, word_embedding(self.momentum.average)).softmax(-1)
                share = alpha[send(samples, device), None].to(soft.dtype)
                soft = (share * soft).scatter_add_(1, targets[:, None], 1 - share)
            losses = F.cross_entropy(logits, soft, reduction="none")
        where = send(samples * hidden.shape[1] + places, device)
        per_token: Tensor = logits.new_zeros(hidden.numel()).index_copy(0, where, losses)
        return per_token.view(hidden.shape).sum(-1)


def _encode(model: Any, fusion: Any, images: Tensor, captions: _Captions) -> _Encoded:  # noqa: ANN401 - untyped modules
    """The towers' view of a batch; captions with hidden words go through the text tower along with the whole ones."""
    image, image_tokens = encode_images(model, images)
    texts, lengths, blank = captions.texts, captions.lengths, None
    if captions.hiding is not None:
        texts, lengths, blank = torch.cat([texts, captions.hiding]), lengths.repeat(2), fusion.blank
    text, words = encode_texts(model, texts, lengths, blank)
    words, hidden_words = words.tensor_split([int(captions.lengths.sum())])
    return _Encoded(unit(image), unit(text[: len(images)]), image_tokens, words, hidden_words)


def _mean(losses: Tensor, counts: Tensor) -> Tensor:
    """The mean of all losses of all ranks, of which this rank has the sums ``losses``, as a mean over ranks."""
    total = all_reduce(counts.detach().sum())
    return losses.sum() * size() / total.clamp(min=1)
