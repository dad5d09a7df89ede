"""The family of ways to take an image's patches into the space of texts, light to import."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from infra.config import Choice

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Attention", "PatchFeatures", "Value"]


class PatchFeatures(Choice):
    """Way to take a vector for each patch of an image from a model, which texts can be compared with.

    ``implementation`` is a function of the model and the images, unless a member has :meth:`features` itself.
    """

    def features(self, model: Any, images: Tensor) -> Tensor:  # noqa: ANN401 - open_clip is untyped
        """Return the vectors (b, rows, columns, d), of any length, of preprocessed ``images`` (b, 3, h, w).

        Patch (row, column) is that part of the image. Raises DataError for a model that has no such patches.
        """
        found: Tensor = self.implemented()(model, images)
        return found


class Value(PatchFeatures):
    """Each patch passes the last block of a ViT by its own value alone (MaskCLIP; Zhou et al., 2022)."""

    implementation: ClassVar[str] = "infra.encoder.patches:by_value"


class Attention(PatchFeatures):
    """Patches pass the last block of a ViT by attention, as in the model's own forward pass."""

    implementation: ClassVar[str] = "infra.encoder.patches:by_attention"
