"""ALBEF: align before fuse, with momentum distillation.

Li et al. 2021, https://arxiv.org/abs/2107.07651. Three losses on open_clip's towers:

- image-text contrast (ITC) with momentum encoders, queues of their features and soft targets;
- image-text matching (ITM): a fusion encoder separates matching pairs from hard negatives;
- masked language modelling (MLM): it predicts masked words from the other words and the image.

ITC alone, with ``alpha`` 0, is MoCo's contrast between two modalities. The fusion encoder is
exported beside the towers, for :class:`.matcher.Matcher` to rank candidates with.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from infra.device import to_device
from infra.fusion.config import FOLDER
from infra.fusion.network import Layout, token_places
from infra.fusion.towers import encode_images, shared_width, vocabulary_size, word_embedding
from training.distributed.collectives import all_gather, global_mean, rank
from training.model.blocks import compile_blocks
from training.objectives.albef.matcher import Matcher
from training.objectives.albef.momentum import Momentum, Queue, contrast
from training.objectives.albef.sampling import HARD_NEGATIVES, check_among, gumbel, hard_negatives, uniform
from training.objectives.base import Companion, Objective, features, l2_normalise
from training.objectives.fusion import fusion_encoder
from training.objectives.masked import Captions, mask_captions
from training.objectives.towers import encode_texts

if TYPE_CHECKING:
    from training.config import Config as Run
    from training.objectives.albef.config import Config

__all__ = ["ALBEF"]


class _Encoded(NamedTuple):
    """The towers' outputs for a batch."""

    image: Tensor  # (b, d), l2-normalised
    text: Tensor
    image_tokens: Tensor  # (b, n, image width)
    words: Tensor  # (t, text width): tokens of all captions, one after the other
    masked_words: Tensor  # the same of the captions with words masked; empty without MLM


class ALBEF(Objective):
    """The objective. ITM and MLM need open_clip's CLIP or CustomTextCLIP with a ViT; others raise ConfigError."""

    def __init__(self, model: nn.Module, config: Config, run: Run, *_: object) -> None:
        super().__init__(model)
        self.config, self.seed = config, run.seed
        self.momentum = Momentum(model)
        if run.cluster.compile:
            compile_blocks(self.momentum.average)  # a copy's blocks are not compiled
        self.image_queue, self.text_queue = (Queue(config.queue_size, shared_width(model)) for _ in range(2))
        self.fusion: Any = None
        self.fusion_momentum: Any = None
        if config.itm_weight or config.mlm_weight:
            self.described = {
                "layers": config.fusion_layers,
                "vocabulary": vocabulary_size(model) if config.mlm_weight else None,
                "matching": config.itm_weight > 0,
            }
            self.fusion = fusion_encoder(model, self.described, run)
        if config.mlm_weight and config.alpha:
            self.fusion_momentum = Momentum(self.fusion)
            if run.cluster.compile:
                compile_blocks(self.fusion_momentum.average)
        self._fresh: tuple[Tensor, Tensor] | None = None

    def forward(self, images: Tensor, texts: Tensor) -> dict[str, Tensor]:
        """Encode images (b, 3, h, w) and texts (b, context).

        Returns features, those of the momentum encoders (``_key``), and ``scale``.
        ``itm`` and ``mlm`` are each sample's sum of losses, ``itm_pairs`` and ``mlm_words`` the number of its terms.
        ``alpha`` is each sample's weight of soft targets.
        """
        # Contrast alone needs pooled features only, and no keys when a part is encoded again for its gradient.
        if self.fusion is None:
            if self.again:
                return super().forward(images, texts)
            with torch.no_grad():
                keys = features(self.momentum.average, images, texts)
            return super().forward(images, texts) | self._keys(keys["image"], keys["text"])
        # Both the trained and the momentum encoders see the masked captions along with the original ones.
        captions = self._captions(texts)
        online = _encode(self.model, self.fusion, images, captions)
        with torch.no_grad():
            if self.fusion_momentum:
                momentum = _encode(self.momentum.average, self.fusion_momentum.average, images, captions)
            else:
                momentum = _encode(self.momentum.average, None, images, captions._replace(masked_texts=None))
        outputs = {
            "image": online.image,
            "text": online.text,
            **self.scalars(),
            **self._keys(momentum.image, momentum.text),
        }
        return outputs | self._fuse(online, momentum, captions, outputs)

    def loss(self, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return ``itc``, ``itm``, ``mlm`` and their weighted sum; the mean over ranks is that of the whole batch.

        Keys are those of the whole batch and the queue, without gradient, so only keys are gathered over ranks.
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
                losses["itm"] = global_mean(outputs["itm"], outputs["itm_pairs"])
                loss = loss + self.config.itm_weight * losses["itm"]
            if self.config.mlm_weight:
                losses["mlm"] = global_mean(outputs["mlm"], outputs["mlm_words"])
                loss = loss + self.config.mlm_weight * losses["mlm"]
        return losses | {"loss": loss}

    @torch.no_grad()
    def after_step(self, samples: int) -> None:
        """Update the momentum encoders, and add the keys of the last :meth:`loss` to the queues."""
        assert self._fresh is not None, "call loss() before after_step()"
        super().after_step(samples)
        self.momentum.update(self.model, self.config.momentum)
        if self.fusion_momentum:
            self.fusion_momentum.update(self.fusion, self.config.momentum)
        self.image_queue.put(self._fresh[0])
        self.text_queue.put(self._fresh[1])
        self._fresh = None

    def matcher(self) -> Matcher:
        """Return the model as it scores pairs. Raises ConfigError if it was made without matching."""
        return Matcher(self.model, self.fusion)

    def companions(self) -> dict[str, Companion]:
        if self.fusion is None:
            return {}
        return {FOLDER: Companion(self.fusion, self.described)}

    def _keys(self, image: Tensor, text: Tensor) -> dict[str, Tensor]:
        """Return the keys, and the weight of soft targets, which rises as the momentum encoders learn."""
        ramp = torch.ones(len(image))
        if self.config.alpha_warmup:
            number = torch.arange(len(image), dtype=torch.float64) + self.position
            ramp = (number / self.config.alpha_warmup).clamp(max=1)
        alpha = (self.config.alpha * ramp).to(image.device, image.dtype)
        return {"image_key": image, "text_key": text, "alpha": alpha}

    def _captions(self, texts: Tensor) -> Captions:
        """Bring ``texts`` to the CPU and mask words, by position in the run."""
        rate = self.config.mask_rate if self.config.mlm_weight else 0.0
        return mask_captions(texts, rate, self.model.vocab_size, seed=self.seed, position=self.position)

    def _fuse(
        self, online: _Encoded, momentum: _Encoded, captions: Captions, outputs: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """Compute ITM and MLM of each sample in one pass of the fusion encoder."""
        device, count, losses = online.words.device, len(captions.texts), {}
        own = torch.arange(count, device=device)
        # Collect the texts that the fusion encoder reads, and their images: for ITM the matching pairs, each image with
        # a wrong text and each text with a wrong image; for MLM the masked texts with their images.
        words, lengths, images = [], [], []
        if self.config.itm_weight:
            other_text, other_image, found = self._negatives(online, momentum, captions, outputs["scale"].detach())
            chosen = other_text.cpu()  # shapes depend on it, so the CPU must know it
            words = [
                online.words,
                online.words[to_device(token_places(captions.lengths, chosen), device)],
                online.words,
            ]
            lengths = [captions.lengths, captions.lengths[chosen], captions.lengths]
            images = [own, own, other_image]
        if captions.masked is not None:
            words, lengths, images = [*words, online.masked_words], [*lengths, captions.lengths], [*images, own]
        layout = Layout(torch.cat(lengths), device)
        fused = self.fusion(torch.cat(words), layout, online.image_tokens, torch.cat(images))
        if self.config.itm_weight:
            right, wrong_text, wrong_image = self.fusion.match(fused, layout.ends[: 3 * count]).view(3, -1)
            losses["itm"] = F.softplus(-right) + found * (F.softplus(wrong_text) + F.softplus(wrong_image))
            losses["itm_pairs"] = 1 + 2 * found
        # The masked texts' tokens are the last ones.
        if captions.masked is not None:
            losses["mlm"] = self._masked_word_losses(
                fused[-len(online.masked_words) :], momentum, captions, outputs["alpha"]
            )
            losses["mlm_words"] = to_device(captions.masked.sum(-1), device).to(losses["mlm"].dtype)
        return losses

    def _negatives(
        self, online: _Encoded, momentum: _Encoded, captions: Captions, scale: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Draw wrong texts and images by ITC's similarities; see :func:`.sampling.hard_negatives`."""
        (count, width), among = online.image.shape, self.config.negatives_among
        check_among(among, count, self.position)
        noise = gumbel(uniform(self.seed, HARD_NEGATIVES, self.position, count, 2 * among))
        with torch.no_grad(), torch.autocast(scale.device.type, enabled=False):
            to_texts, to_images = (
                scale * queries.view(-1, among, width) @ keys.view(-1, among, width).mT
                for queries, keys in ((online.image, momentum.text), (online.text, momentum.image))
            )
        other_text, other_image, found = hard_negatives((to_texts, to_images), captions.texts, noise)
        return other_text, other_image, found.to(scale.dtype)

    def _masked_word_losses(self, fused: Tensor, momentum: _Encoded, captions: Captions, alpha: Tensor) -> Tensor:
        """Return each sample's summed cross-entropy over masked words (b,), with hard and soft targets."""
        device, masked = fused.device, captions.words(fused.device)
        logits = self.fusion.words(fused[masked.places], word_embedding(self.model))
        if self.fusion_momentum is None:
            return masked.losses(logits)
        with torch.no_grad():
            teacher, layout = self.fusion_momentum.average, Layout(captions.lengths, device)
            own = torch.arange(len(captions.texts), device=device)
            fused_by_teacher = teacher(momentum.masked_words, layout, momentum.image_tokens, own)[masked.places]
            soft = teacher.words(fused_by_teacher, word_embedding(self.momentum.average)).softmax(-1)
            weight = alpha[masked.samples, None].to(soft.dtype)
            soft = (weight * soft).scatter_add_(1, masked.targets[:, None], 1 - weight)
        return masked.per_sample(F.cross_entropy(logits, soft, reduction="none"))


def _encode(model: Any, fusion: Any, images: Tensor, captions: Captions) -> _Encoded:  # noqa: ANN401 - untyped modules
    """Run the towers on a batch; captions with masked words are encoded along with the original ones."""
    image, image_tokens = encode_images(model, images)
    texts, lengths, mask_embedding = captions.texts, captions.lengths, None
    if captions.masked_texts is not None:
        texts, lengths = torch.cat([texts, captions.masked_texts]), lengths.repeat(2)
        mask_embedding = fusion.mask_embedding
    text, words = encode_texts(model, texts, lengths, mask_embedding)
    words, masked_words = words.tensor_split([int(captions.lengths.sum())])
    return _Encoded(l2_normalise(image), l2_normalise(text[: len(images)]), image_tokens, words, masked_words)
