"""Rules on images: their size, what they say of their origin, and what measuring their pixels tells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from pipelines.curate.filter.rules.base import Answers, Range, Rule, columns

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "BytesPerPixel",
    "DigitalSource",
    "ImageAspect",
    "ImageBytes",
    "ImageEntropy",
    "ImageSharpness",
    "ImageSide",
    "ImageSolid",
]


class ImageSide(Range):
    """Limits on the shorter side of the original image."""

    columns = ("original_width", "original_height")

    min: int = Field(200, ge=1, description="smallest side, pixels")

    def value(self, rows: pa.Table) -> Any:  # noqa: ANN401 - an array
        return columns().shorter_side(rows)


class ImageAspect(Range):
    """An upper limit on the longer side of the original image over the shorter."""

    columns = ("original_width", "original_height")

    max: float = Field(3.0, ge=1, description="largest ratio")

    def value(self, rows: pa.Table) -> Any:  # noqa: ANN401 - an array
        return columns().aspect(rows)


class DigitalSource(Rule):
    """Drops images that say they were made by AI, in XMP or a C2PA manifest.

    The terms are those of the IPTC's Digital Source Type vocabulary; an image that says nothing is kept.
    """

    columns = ("digital_source",)

    exclude: tuple[str, ...] = Field(
        ("trainedAlgorithmicMedia", "compositeWithTrainedAlgorithmicMedia", "compositeSynthetic", "algorithmicMedia"),
        description="source types to drop: cv.iptc.org/newscodes/digitalsourcetype",
    )

    def keeps(self, rows: pa.Table) -> Answers:
        excluded = {term.lower() for term in self.exclude}
        return [excluded.isdisjoint((said or "").lower().split(", ")) for said in rows["digital_source"].to_pylist()]


# --- measured ---------------------------------------------------------------------------------------------------------


class ImageBytes(Range):
    """A lower limit on the size of the image's file, as it is stored."""

    columns = ("image_bytes",)

    min: int = Field(5000, ge=0, description="fewest bytes")

    def value(self, rows: pa.Table) -> Any:  # noqa: ANN401 - an array
        return rows["image_bytes"]


class BytesPerPixel(Range):
    """Limits on the bytes of the stored file per stored pixel: little for what is empty, much for noise."""

    columns = ("image_bytes", "width", "height")

    min: float = Field(0.02, ge=0, description="fewest bytes per pixel")
    max: float = Field(4.0, gt=0, description="most bytes per pixel")

    def value(self, rows: pa.Table) -> Any:  # noqa: ANN401 - an array
        return columns().ratio(rows["image_bytes"], rows["width"], rows["height"])


class ImageEntropy(Range):
    """A lower limit on the entropy of the image's brightness: 0 for one shade, 8 for all of them alike."""

    columns = ("image_entropy",)
    code_version: ClassVar[int] = 2

    min: float = Field(0.3, ge=0, le=8, description="least entropy, bits; drawings on white have 0.4 or more")

    def value(self, rows: pa.Table) -> Any:  # noqa: ANN401 - an array
        return rows["image_entropy"]


class ImageSharpness(Range):
    """A lower limit on sharpness: the variance of the Laplacian of brightness, at a longer side of 256 pixels."""

    columns = ("image_sharpness",)
    code_version: ClassVar[int] = 2

    min: float = Field(10.0, ge=0, description="least variance, levels squared; 5 is blurred beyond use, 20 slightly")

    def value(self, rows: pa.Table) -> Any:  # noqa: ANN401 - an array
        return rows["image_sharpness"]


class ImageSolid(Range):
    """An upper limit on the share of pixels that have one colour, to within 16 levels."""

    columns = ("image_solid",)
    code_version: ClassVar[int] = 2

    max: float = Field(0.98, gt=0, le=1, description="largest share of one colour; a drawing on white up to 0.97")

    def value(self, rows: pa.Table) -> Any:  # noqa: ANN401 - an array
        return rows["image_solid"]
