"""Encode images and texts as unit vectors with any open_clip model.

:class:`Encoder` is what filters and evaluation tasks are written against; :mod:`infra.encoder.open_clip` loads one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from infra.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

    from infra.captioning.config import Decoding
    from infra.encoder.patch_features import PatchFeatures
    from infra.formats.region_shape import RegionShape
    from infra.formats.regions import Regions

__all__ = ["Captioner", "Encoder", "Matcher", "PatchEncoder", "Precision", "check_architecture"]

Precision = Literal["fp32", "bf16", "fp16"]


class Encoder(Protocol):
    """A contrastive model: two functions into one space. ``batch_size``: inputs it encodes at once."""

    name: str
    batch_size: int

    @property
    def logit_scale(self) -> float:
        """The learned inverse temperature that turns cosines into logits."""
        ...

    def encode_images(self, images: Iterable[Image]) -> NDArray[np.float32]:
        """Encode RGB images of any size: (len(images), d), rows of unit length. Holds one batch of them at a time."""
        ...

    def encode_texts(self, texts: Iterable[str]) -> NDArray[np.float32]:
        """Encode texts: (len(texts), d), rows of unit length."""
        ...


class PatchEncoder(Encoder, Protocol):
    """An encoder whose image tower has patches in the space of texts."""

    def encode_patches(self, images: Iterable[Image], way: PatchFeatures) -> Iterator[NDArray[np.float32]]:
        """Encode the patches of whole images, one image after the other: (rows, columns, d), of unit length."""
        ...


class Matcher(Protocol):
    """A fusion model: it reads an image and a text together. Image i is read with each of ``texts[i]``.

    Images are RGB, or a detector's regions, whichever it reads. Results are of all these pairs, one image after the
    other.
    """

    @property
    def answers(self) -> Sequence[str]:
        """The answers it can give; none if it was not trained to."""
        ...

    @property
    def regions(self) -> RegionShape | None:
        """The regions that it reads of an image; None: it reads pixels."""
        ...

    def match(self, images: Iterable[Image | Regions], texts: Iterable[Sequence[str]]) -> NDArray[np.float32]:
        """Logits (pairs,) that image and text belong together; above 0: rather than not."""
        ...

    def answer(self, images: Iterable[Image | Regions], texts: Iterable[Sequence[str]]) -> NDArray[np.float32]:
        """Logits (pairs, answers) of the answers to questions."""
        ...

    def rank_answers(
        self, images: Iterable[Image | Regions], texts: Iterable[Sequence[str]], answers: Sequence[str]
    ) -> NDArray[np.float32]:
        """Log-likelihoods (pairs, answers) of given ``answers`` as the words behind a question."""
        ...

    def guess_words(
        self, images: Iterable[Image | Regions], texts: Iterable[Sequence[str]], rate: float
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Count the masked words that are guessed right, and all masked (a share ``rate`` of a text): (pairs,) each."""
        ...


class Captioner(Protocol):
    """A model that writes about images."""

    def write(self, images: Iterable[Image], decoding: Decoding) -> list[str]:
        """Write a caption of each image."""
        ...


def check_architecture(name: str) -> None:
    """Raise ConfigError unless open_clip has a model of that name. Reads its files only: importing it loads torch."""
    open_clip = find_spec("open_clip")
    if open_clip is None or open_clip.origin is None:
        return
    known = sorted(path.stem for path in Path(open_clip.origin).parent.glob("model_configs/*.json"))
    if name not in known:
        near = ", ".join(get_close_matches(name, known, n=3))
        raise ConfigError(
            f"open_clip has no model {name!r}",
            expected="one of open_clip.list_models()",
            fix=f"did you mean {near}?" if near else "",
        )
