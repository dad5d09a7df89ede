"""Captions of images by a model in open_clip's layout, whichever way it was trained to write."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load
from torch import Tensor

from infra.captioning.coca import CoCaDecoder, check_coca
from infra.captioning.decoder import Decoder
from infra.captioning.prefix import FOLDER, PrefixCaptioner, PrefixDecoder

if TYPE_CHECKING:
    from PIL.Image import Image

    from infra.captioning.config import Decoding
    from infra.encoder.open_clip import OpenClipEncoder
    from infra.run.manifest import Artifact
    from infra.store import Store

__all__ = ["ModelCaptioner", "load_captioner", "read_captioner"]

Opener = Callable[[Any, Tensor, tuple[int, int], range], Decoder]
"""The decoder of a model that has seen images (b, 3, h, w); its tokens at start and end; which images these are."""


class ModelCaptioner:
    """A :class:`infra.encoder.Captioner` of open_clip's ``encoder``: CoCa itself, or with a ``writer`` trained to it.

    Raises DataError if the model cannot write.
    """

    def __init__(self, encoder: OpenClipEncoder, writer: PrefixCaptioner | None = None) -> None:
        self.encoder = encoder
        if writer is None:
            check_coca(encoder.model, encoder.name)
            self._open: Opener = CoCaDecoder
        else:
            trained = writer.to(encoder.device).eval()
            self._open = lambda *seen: PrefixDecoder(trained, *seen)
        self._ends: tuple[int, int] = tuple(encoder.tokenize([""])[0, :2].tolist())

    def write(self, images: Iterable[Image], decoding: Decoding) -> list[str]:
        return self.encoder.detokenize(self.tokens(images, decoding))

    def tokens(self, images: Iterable[Image], decoding: Decoding) -> list[list[int]]:
        """Write captions as tokens, without those at start and end."""
        found: list[list[int]] = []
        for pixels in self.encoder.batches(images):
            with self.encoder.inference():
                numbers = range(len(found), len(found) + len(pixels))
                texts = decoding.search(self._open(self.encoder.model, pixels, self._ends, numbers)).cpu()
            found += [self._between(row) for row in texts.tolist()]
        return found

    def _between(self, row: Sequence[int]) -> list[int]:
        """The tokens of a caption before its end."""
        end = row.index(self._ends[1]) if self._ends[1] in row else len(row)
        return list(row[1:end])


def load_captioner(encoder: OpenClipEncoder, model: Artifact) -> ModelCaptioner:
    """Load what writes captions in ``model``, whose towers ``encoder`` has loaded. Raises DataError if nothing does."""
    return read_captioner(encoder, model.store, f"data/{FOLDER}")


def read_captioner(encoder: OpenClipEncoder, store: Store, folder: str) -> ModelCaptioner:
    """Read the writer in ``folder`` of ``store``, or ``encoder``'s own. Raises DataError if there is neither."""
    try:
        config = json.loads(store.read(f"{folder}/config.json"))
    except FileNotFoundError:
        return ModelCaptioner(encoder)
    with torch.random.fork_rng(devices=[]):
        writer = PrefixCaptioner(**config)
    writer.load_state_dict(load(store.read(f"{folder}/model.safetensors")))
    return ModelCaptioner(encoder, writer)
