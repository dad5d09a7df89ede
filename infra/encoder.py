"""What the data and evaluation sides need of a model: images and texts to unit vectors.

:class:`OpenClipEncoder` serves any folder in open_clip's hub layout (ours, or a download) and any open_clip model name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

__all__ = ["Encoder"]


class Encoder(Protocol):
    """A contrastive model as a pair of functions into one space."""

    name: str

    def encode_images(self, images: Sequence[Image]) -> NDArray[np.float32]:
        """RGB images of any size -> (len(images), d), rows of unit length."""
        ...

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """-> (len(texts), d), rows of unit length."""
        ...
