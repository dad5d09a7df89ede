"""Scores: each gives every caption, or every image, a number that is computed of embeddings.

A score sees the rows of one shard at a time. One that depends on others names in ``over`` whose rows it must see first:
all of them are shown to :meth:`Score.collect`, shard by shard, and what that returns is merged and given to
:meth:`Score.values` of every shard. So it is exact over any number of rows, in the memory of what it collects.

A score of your own is a subclass of :class:`Score`, in a recipe file or an installed package; docs/scores.md has one.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

from pydantic import Field, field_validator

from infra.config import Choice

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from infra.formats.vectors import Floats, Vectors
    from infra.run.manifest import Artifact

    Arrays: TypeAlias = Mapping[str, NDArray[Any]]

__all__ = ["Aesthetic", "ClipScore", "Head", "NegCLIPLoss", "NormSim", "Score", "TMars", "Unsafe"]


class Score(Choice):
    """A number for each caption or each image.

    ``of``: what :meth:`values` returns one number for. ``over``: the input whose rows :meth:`collect` sees before,
    ``"embeddings"`` for those that are scored; empty for a score that needs no other rows.
    """

    of: ClassVar[Literal["caption", "image"]] = "caption"
    over: ClassVar[Literal["", "embeddings", "references"]] = ""

    column: str = Field("", description="name of the column; by default the kind")
    embeddings: str = Field("embeddings", description="the input whose vectors are scored")

    @field_validator("column", mode="after")
    @classmethod
    def _is_a_name(cls, value: str) -> str:
        if value and not (value.isidentifier() and value == value.lower()):  # of a figure and a metric, too
            raise ValueError("lower-case letters, digits and _")
        return value

    @property
    def name(self) -> str:
        """The column of the values."""
        return self.column or self.kind

    def needs(self) -> tuple[str, ...]:
        """The inputs it reads."""
        return (self.embeddings, self.over or self.embeddings) if self.over != "embeddings" else (self.embeddings,)

    def load(self, inputs: Mapping[str, Artifact]) -> Arrays:
        """Read what the values depend on besides embeddings, such as weights."""
        return {}

    def collect(self, rows: Vectors, total: int) -> Arrays:
        """Return what must be known of ``rows``, of ``total`` captions in all, before any is scored."""
        return {}

    def merge(self, name: str, parts: Iterator[NDArray[Any]]) -> NDArray[Any]:
        """Merge what was collected as ``name`` of several shards, in order; by default one after the other."""
        joined: NDArray[Any] = _numbers().concatenated(parts)
        return joined

    @abstractmethod
    def values(self, rows: Vectors, known: Arrays) -> NDArray[np.floating]:
        """One number for each caption or each image of ``rows``. ``known``: what was loaded and collected."""


class ClipScore(Score):
    """The cosine of a caption and its image (LAION, DataComp; Hessel et al. 2021, arXiv:2104.08718, scales it)."""

    def values(self, rows: Vectors, known: Arrays) -> Floats:
        return rows.similarities


class TMars(ClipScore):
    """The cosine with the image's text painted over: T-MARS (Maini et al. 2023, arXiv:2307.03132).

    Its vectors are those of an ``embed`` with ``mask_text``.
    """

    kind = "tmars"

    embeddings: str = Field("embeddings_masked", description="the input whose vectors are scored")


class NegCLIPLoss(Score):
    """CLIP's loss as a score: the cosine less what other pairs take of it (Wang et al. 2024, arXiv:2405.19547).

    ``s(i, i) - t/2 (log sum_j exp(s(i, j) / t) + log sum_j exp(s(j, i) / t))``, mean over ``rounds`` of random batches:
    a caption that fits every image scores low. All pairs of a round meet the same batch, each with itself added, which
    has the expectation of a batch drawn for each; so one pass over the data serves any size. The batch is drawn by a
    hash of the rows' ids and has ``batch`` pairs on average; of fewer rows it is all of them, and the score is exact.
    """

    over = "embeddings"

    temperature: float = Field(0.01, gt=0, description="t, CLIP's own at the end of its training")
    batch: int = Field(32_768, ge=1, description="pairs of a batch, on average")
    rounds: int = Field(10, ge=1, description="batches; with one batch of everything the others are not drawn")
    seed: int = Field(0, description="seed of the batches")

    def collect(self, rows: Vectors, total: int) -> Arrays:
        batches: Arrays = _numbers().batches(rows, self, total)
        return batches

    def values(self, rows: Vectors, known: Arrays) -> Floats:
        values: Floats = _numbers().neg_clip_loss(rows, known, self)
        return values


class NormSim(Score):
    """Likeness of an image to the images of ``references``: NormSim (Wang et al. 2024, arXiv:2405.19547).

    ``inf``: the largest absolute cosine with one of them. ``2``: the root of the sum of all squared cosines; its square
    over their number is the variance alignment score, VAS (arXiv:2402.02055).
    """

    of = "image"
    over = "references"

    p: Literal["inf", "2"] = Field("inf", description="the norm over the references")

    def collect(self, rows: Vectors, total: int) -> Arrays:
        # The sum of squared cosines is a quadratic form of d x d numbers, whatever the number of references.
        return {"sum": rows.images.T.astype("f8") @ rows.images} if self.p == "2" else {"images": rows.images}

    def merge(self, name: str, parts: Iterator[NDArray[Any]]) -> NDArray[Any]:
        return sum(parts) if name == "sum" else super().merge(name, parts)  # type: ignore[return-value]

    def values(self, rows: Vectors, known: Arrays) -> Floats:
        numbers = _numbers()
        squares = self.p == "2"
        values: Floats = (
            numbers.quadratic(rows.images, known["sum"]) if squares else numbers.largest(rows.images, known["images"])
        )
        return values


class Head(Score):
    """A small network on the embedding of an image: linear layers, whose weights an input has.

    The input is a state dict (safetensors, or a checkpoint without code) of 2-d weights with their biases, in order.
    """

    of = "image"

    weights: str = Field("weights", description="the input that has the weights")
    activation: Literal["none", "relu", "gelu"] = Field("none", description="what is between the layers")
    output: Literal["none", "sigmoid"] = Field("none", description="what follows the last layer, which has one output")

    def needs(self) -> tuple[str, ...]:
        return (*super().needs(), self.weights)

    def extras(self) -> tuple[str, ...]:
        return ("train",)

    def load(self, inputs: Mapping[str, Artifact]) -> Arrays:
        layers: Arrays = _heads().layers(inputs[self.weights])
        return layers

    def values(self, rows: Vectors, known: Arrays) -> Floats:
        values: Floats = _heads().network(rows.images, known, self.activation, self.output)
        return values


class Aesthetic(Head):
    """LAION's aesthetic predictors: layers without anything between them, on ViT-L/14; 1 to 10."""


class Unsafe(Head):
    """The probability that an image is not safe for work, of a head that was trained for it; 0 to 1."""

    activation: Literal["none", "relu", "gelu"] = Field("relu", description="what is between the layers")
    output: Literal["none", "sigmoid"] = Field("sigmoid", description="what follows the last layer")


def _numbers() -> Any:  # noqa: ANN401 - a module that loads numpy, which planning has no time for
    from pipelines.curate.score import numbers

    return numbers


def _heads() -> Any:  # noqa: ANN401 - a module that loads torch
    from pipelines.curate.score import heads

    return heads
