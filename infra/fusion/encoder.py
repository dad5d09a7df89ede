"""A trained fusion encoder with open_clip's towers below it, for stages that score pairs of images and texts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load
from torch import Tensor

from infra.errors import DataError
from infra.formats.regions import Regions, pack
from infra.fusion.answering import answer
from infra.fusion.build import build_fusion
from infra.fusion.config import FOLDER, read_fusion_config
from infra.fusion.heads import FusionModel
from infra.fusion.network import Layout, token_places
from infra.fusion.towers import lengths_of, word_embedding

if TYPE_CHECKING:
    from PIL.Image import Image

    from infra.encoder.open_clip import OpenClipEncoder
    from infra.formats.region_shape import RegionShape
    from infra.run.manifest import Artifact
    from infra.store import Store

__all__ = ["FusionEncoder", "load_fusion", "read_fusion"]

_PAIRS = 8  # for each image of a batch: pairs that are fused at once


class FusionEncoder:
    """A :class:`infra.encoder.Matcher` of open_clip's ``encoder`` and the fusion encoder trained with it."""

    def __init__(self, encoder: OpenClipEncoder, fusion: FusionModel, answers: Sequence[str] = ()) -> None:
        self.encoder, self.fusion, self.answers = encoder, fusion.to(encoder.device).eval(), tuple(answers)

    @property
    def regions(self) -> RegionShape | None:
        return self.fusion.regions

    def match(self, images: Iterable[Image | Regions], texts: Iterable[Sequence[str]]) -> NDArray[np.float32]:
        if self.fusion.match_head is None:
            raise DataError(f"{self.encoder.name} was trained without matching", expected="objective.itm_weight > 0")
        found = [logits for batch in self._batches(images, texts) for logits in self._fused(self._matched, *batch)]
        return np.concatenate([np.empty(0, np.float32), *found])

    def guess_words(
        self, images: Iterable[Image | Regions], texts: Iterable[Sequence[str]], rate: float
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        self._check_words()
        counts = [count for batch in self._batches(images, texts) for count in self._guessed(*batch, rate)]
        right, masked = np.array(counts, np.int64).reshape(-1, 2).T
        return right, masked

    def answer(self, images: Iterable[Image | Regions], texts: Iterable[Sequence[str]]) -> NDArray[np.float32]:
        if self.fusion.answer_head is None:
            raise DataError(f"{self.encoder.name} was trained without answers", expected="the objective vqa")
        found = [logits for batch in self._batches(images, texts) for logits in self._fused(self._answered, *batch)]
        return np.concatenate([np.empty((0, len(self.answers)), np.float32), *found])

    def rank_answers(
        self, images: Iterable[Image | Regions], texts: Iterable[Sequence[str]], answers: Sequence[str]
    ) -> NDArray[np.float32]:
        self._check_words()
        tokens = self.encoder.tokenize(list(answers))
        rows = [row[1 : length - 1] for row, length in zip(tokens, lengths_of(tokens).tolist(), strict=True)]
        found = [part for batch in self._batches(images, texts) for part in self._ranked(*batch, rows)]
        return np.concatenate([np.empty((0, len(rows)), np.float32), *found])

    def _check_words(self) -> None:
        if not hasattr(self.fusion, "word_head"):
            raise DataError(
                f"{self.encoder.name} was trained without masked words", expected="objective.mlm_weight > 0"
            )

    def _batches(
        self, images: Iterable[Image | Regions], texts: Iterable[Sequence[str]]
    ) -> Iterator[tuple[Tensor, list[str], NDArray[np.int64]]]:
        """Tokens of some images, texts that are read with them, and which of these images each is read with."""
        size, prepared, asked = self.encoder.batch_size, [], []
        for image, own in zip(images, texts, strict=True):
            prepared.append(self._prepared(image))
            asked.append(own)
            if len(asked) == size:
                yield self._read(prepared, asked)
                prepared, asked = [], []
        if prepared:
            yield self._read(prepared, asked)

    def _prepared(self, image: Image | Regions) -> NDArray[Any]:
        """The pixels of an image, each of its pictures scaled by itself, or the table of its regions."""
        if (shape := self.regions) is None:
            assert not isinstance(image, Regions)
            return np.concatenate([self.encoder.prepare(part) for part in _parts(image, self.fusion.images)], axis=1)
        assert isinstance(image, Regions)
        try:
            return pack(image, shape)
        except ValueError as error:
            raise DataError(f"{self.encoder.name} was trained on other regions", found=str(error)) from None

    def _read(self, prepared: list[Any], asked: list[Sequence[str]]) -> tuple[Tensor, list[str], NDArray[np.int64]]:
        encoder = self.encoder
        with encoder.inference():
            if self.regions is None:
                seen = encoder.pixels(prepared)
            else:
                seen = torch.from_numpy(np.stack(prepared)).to(encoder.device)
            tokens = self.fusion.read_images(encoder.model, self.fusion.apart(seen))
        image_of = np.repeat(np.arange(len(asked)), [len(own) for own in asked])
        return tokens, [text for own in asked for text in own], image_of

    def _fused(
        self,
        read: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor],
        images: Tensor,
        texts: list[str],
        image_of: NDArray[np.int64],
    ) -> Iterator[NDArray[np.float32]]:
        """Yield what ``read`` says of the pairs of a batch; equal texts go through the text tower once."""
        place = {text: number for number, text in enumerate(dict.fromkeys(texts))}
        if not place:
            return
        chosen = torch.tensor([place[text] for text in texts])
        with self.encoder.inference():
            tokens = self.encoder.tokenize(list(place))
            lengths = lengths_of(tokens)
            words = self.fusion.read_texts(self.encoder.model, tokens, lengths)
            step = _PAIRS * self.encoder.batch_size
            for start in range(0, len(texts), step):
                part = chosen[start : start + step]
                own = torch.from_numpy(image_of[start : start + step]).to(words.device)
                words_of = words[token_places(lengths, part).to(words.device)]
                yield read(words_of, lengths[part], images, own).cpu().numpy()

    def _matched(self, words: Tensor, lengths: Tensor, images: Tensor, image_of: Tensor) -> Tensor:
        layout = Layout(lengths, words.device)
        return self.fusion.match(self.fusion.fuse(self.encoder.model, words, layout, images, image_of), layout.ends)

    def _answered(self, words: Tensor, lengths: Tensor, images: Tensor, image_of: Tensor) -> Tensor:
        return answer(self.fusion, self.encoder.model, words, lengths, images, image_of)

    def _ranked(
        self, images: Tensor, texts: list[str], image_of: NDArray[np.int64], answers: Sequence[Tensor]
    ) -> Iterator[NDArray[np.float32]]:
        """Yield each answer's log-likelihood behind the questions of a batch: (part, answers).

        All tokens of an answer are masked at once, so answers of equally many tokens share a pass.
        """
        step = _PAIRS * self.encoder.batch_size
        for start in range(0, len(texts), step):
            own = image_of[start : start + step]
            scores = np.empty((len(own), len(answers)), np.float32)
            for size in sorted({len(row) for row in answers}):
                same = [number for number, row in enumerate(answers) if len(row) == size]
                guessed = self._behind(images, texts[start : start + step], own, size)
                chosen = torch.stack([answers[number] for number in same]).to(guessed.device)  # (same, size)
                picked = guessed[:, torch.arange(size), chosen]  # (part, same, size)
                scores[:, same] = picked.sum(-1).cpu().numpy()
            yield scores

    def _behind(self, images: Tensor, texts: list[str], image_of: NDArray[np.int64], size: int) -> Tensor:
        """Log-likelihoods (texts, size, vocabulary) of ``size`` words behind each text, which is cut if it must be."""
        model = self.encoder.model
        with self.encoder.inference():
            tokens = self.encoder.tokenize(texts)
            begins = (lengths_of(tokens) - 1).clamp(max=tokens.shape[1] - size - 1)
            masked, end = begins[:, None] + torch.arange(size), tokens.max()
            tokens = tokens.scatter(1, masked, model.vocab_size)
            tokens[torch.arange(len(texts)), begins + size] = end
            lengths = begins + size + 1
            words = self.fusion.read_texts(model, tokens, lengths, masked=True)
            layout, own = Layout(lengths, words.device), torch.from_numpy(image_of).to(words.device)
            fused = self.fusion.fuse(model, words, layout, images, own)
            places = (lengths.cumsum(0) - lengths)[:, None] + masked
            logits = self.fusion.words(fused[places.flatten().to(fused.device)], word_embedding(model))
            return logits.log_softmax(-1).view(len(texts), size, -1)

    def _guessed(
        self, images: Tensor, texts: list[str], image_of: NDArray[np.int64], rate: float
    ) -> Iterator[tuple[int, int]]:
        """Words guessed right and masked in each text of a batch."""
        step = _PAIRS * self.encoder.batch_size
        for start in range(0, len(texts), step):
            part = texts[start : start + step]
            with self.encoder.inference():
                tokens = self.encoder.tokenize(part)
                lengths = lengths_of(tokens)
                masked = _masks(part, tokens, lengths, rate)
                hidden = torch.where(masked, self.encoder.model.vocab_size, tokens)
                words = self.fusion.read_texts(self.encoder.model, hidden, lengths, masked=True)
                own = torch.from_numpy(image_of[start : start + step]).to(words.device)
                layout = Layout(lengths, words.device)
                fused = self.fusion.fuse(self.encoder.model, words, layout, images, own)
                real = torch.arange(tokens.shape[1]) < lengths[:, None]
                places = masked[real].nonzero()[:, 0].to(words.device)
                guessed = self.fusion.words(fused[places], word_embedding(self.encoder.model)).argmax(-1).cpu()
            right = torch.zeros_like(masked)
            right[masked] = guessed == tokens[masked]
            yield from zip(right.sum(1).tolist(), masked.sum(1).tolist(), strict=True)


def _parts(image: Image, count: int) -> list[Image]:
    """The pictures that lie side by side in ``image``, of equal width."""
    edges = [round(image.width * number / count) for number in range(count + 1)]
    return [image.crop((left, 0, right, image.height)) for left, right in pairwise(edges)] if count > 1 else [image]


def _masks(texts: Sequence[str], tokens: Tensor, lengths: Tensor, rate: float) -> Tensor:
    """Choose the masked words of each text: one at least, the same whatever else is in the batch."""
    masked = torch.zeros_like(tokens, dtype=torch.bool)
    for row, (text, length) in enumerate(zip(texts, lengths.tolist(), strict=True)):
        words = length - 2  # without start and end
        if words > 0:
            draws = np.random.default_rng(list(text.encode())).random(words)
            chosen = (draws < rate) | (draws == draws.min())
            masked[row, 1 : length - 1] = torch.from_numpy(chosen)
    return masked


def load_fusion(encoder: OpenClipEncoder, model: Artifact) -> FusionEncoder:
    """Load the fusion encoder of ``model``, whose towers ``encoder`` has loaded. Raises DataError if it has none."""
    paths = [f"data/{FOLDER}/config.json", f"data/{FOLDER}/model.safetensors"]
    if missing := [path for path in paths if not model.files(path)]:
        raise DataError(
            f"{model.manifest.name} has no fusion encoder",
            expected=f"{missing[0]}, as the objectives albef, vilt, vilbert and vqa leave it",
            fix="train with an objective that fuses images and texts",
        )
    return FusionEncoder(encoder, *read_fusion(encoder.model, model.store, f"data/{FOLDER}"))


def read_fusion(model: Any, store: Store, folder: str) -> tuple[FusionModel, Sequence[str]]:  # noqa: ANN401
    """Read the fusion encoder in ``folder`` of ``store``, on open_clip's ``model``, and the answers it chooses from."""
    config = read_fusion_config(store, folder)
    fusion = build_fusion(model, config)
    fusion.load_state_dict(load(store.read(f"{folder}/model.safetensors")))
    return fusion, config.get("answers", ())
