"""The encoder of open_clip's models. Loads open_clip and torch, which takes seconds; :mod:`infra.encoder` is light."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import open_clip
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError

from infra.encoder import Precision
from infra.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["OpenClipEncoder"]

T = TypeVar("T")


class OpenClipEncoder:
    """An :class:`Encoder` of open_clip's model, inference transform and tokenizer, in evaluation mode.

    ``model`` is a built-in name such as ``ViT-B-32`` with ``pretrained`` a tag or checkpoint file, or
    ``local-dir:{folder}`` or ``hf-hub:{repository}``, which bring their weights along. ``precision`` below fp32 means
    autocast; features are l2-normalised in fp32 either way. Loading open_clip takes seconds, so build one per process.

    Raises DataError if the weights are missing or do not fit the configuration: open_clip itself would go on with
    random ones.
    """

    def __init__(
        self,
        model: str,
        pretrained: str | None = None,
        *,
        name: str = "",
        device: str = "cpu",
        precision: Precision = "fp32",
        batch_size: int = 64,
    ) -> None:
        self.name = name or model
        self.device = torch.device(device)
        self.batch_size = batch_size
        self._dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
        try:
            self._model, preprocess = open_clip.create_model_from_pretrained(model, pretrained, device=device)
        # RuntimeError, AssertionError: unknown names, weights that do not fit. The others: no checkpoint at all.
        except (RuntimeError, AssertionError, LookupError, EOFError, UnpicklingError, SafetensorError) as error:
            tags = open_clip.list_pretrained_tags_by_model(model)
            raise DataError(
                f"the weights of {self.name} cannot be used",
                expected="weights that fit the model's configuration",
                found=f"{type(error).__name__}: {error}"[:500],
                fix="" if ":" in model or Path(pretrained or "").is_file() else f"open_clip knows: {tags}",
            ) from error
        self._model.eval()
        self._tokenizer = open_clip.get_tokenizer(model)
        *self._resizing, _, self._normalise = preprocess.transforms  # between them: bytes to floats

    @property
    def logit_scale(self) -> float:
        """The learned inverse temperature that turns cosines into logits."""
        return float(self._model.logit_scale.detach().exp())

    def prepare(self, image: Image) -> NDArray[np.uint8]:
        """Resize and crop an image as the model wants it: (h, w, 3). Many threads may do this at once."""
        for transform in self._resizing:
            image = transform(image)
        return np.asarray(image)

    def encode_images(self, images: Iterable[Image]) -> NDArray[np.float32]:
        return self.encode_prepared(map(self.prepare, images))

    def encode_prepared(self, pixels: Iterable[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Encode images that :meth:`prepare` has made: (n, d), rows of unit length."""
        return self._encode(pixels, images=True)

    def encode_texts(self, texts: Iterable[str]) -> NDArray[np.float32]:
        return self._encode(texts, images=False)

    def _encode(self, items: Iterable[Any], *, images: bool) -> NDArray[np.float32]:
        encode = self._model.encode_image if images else self._model.encode_text
        parts = []
        with torch.inference_mode(), torch.autocast(self.device.type, self._dtype, self._dtype != torch.float32):
            for part in _batched(items, self.batch_size):
                batch = self._pixels(part) if images else self._tokenizer(part).to(self.device)
                parts.append(torch.nn.functional.normalize(encode(batch).float(), dim=-1).cpu().numpy())
        return np.concatenate(parts) if parts else self.encode_texts([""])[:0]  # (0, d)

    def _pixels(self, part: Sequence[NDArray[np.uint8]]) -> torch.Tensor:
        """A batch as the model takes it. It goes to the device as bytes, a quarter of what floats would be."""
        batch = torch.from_numpy(np.stack(part)).to(self.device).permute(0, 3, 1, 2).contiguous()
        normalised: torch.Tensor = self._normalise(batch.float().div_(255))
        return normalised


def _batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
