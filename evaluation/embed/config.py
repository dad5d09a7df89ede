"""Configuration of the one pass of a model over test sets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

from pydantic import Field, model_validator

from evaluation.corruptions import Change, Corruptions
from evaluation.embed.long_captions import Cut, LongCaptions
from infra.cluster import Limits
from infra.config import Input, Runtime
from infra.encoder.config import EncoderConfig
from infra.formats.testset import EvalSet

__all__ = ["NAME", "Config", "Part", "folder"]

NAME = "clip"
"""Name of the arrays: ``clip_img`` and ``clip_txt``, as those of the training images have it."""


class Config(EncoderConfig):
    """Configuration of the embedding of test sets. It knows no tasks, so one more task encodes nothing again."""

    code_version: ClassVar[int] = 4
    inputs: ClassVar[Mapping[str, Input]] = {
        "model": Input("model", required=False, description="a trained or adopted model; or else pretrained is set"),
        "dataset": Input("testsets", description="test sets"),
    }
    produces: ClassVar[tuple[str, ...]] = ("embedded_testsets",)

    sets: tuple[str, ...] = Field(description="test sets by name: folders below the artifact's data/", min_length=1)
    splits: tuple[str, ...] = Field(("test",), description="splits of each; a probe learns from train", min_length=1)
    long_captions: LongCaptions = Field(
        Cut(), description="what becomes of captions that are longer than the model's context"
    )
    corruptions: Corruptions | None = Field(None, description="encode each split under these, too")
    corrupted: tuple[str, ...] = Field((), description="test sets that are encoded under corruptions; none: all")
    batch_size: Runtime[int] = Field(64, ge=1, description="images or texts encoded at once")
    limits: Runtime[Limits] = Field(
        Limits(), description="how to use the cluster; a task decodes in as many threads as it has CPUs"
    )

    @model_validator(mode="after")
    def _embeds_what_it_corrupts(self) -> Self:
        if self.corrupted and self.corruptions is None:
            raise ValueError("corrupted names test sets, corruptions say nothing of what is done to them")
        if unknown := sorted({*self.corrupted} - {*self.sets}):
            raise ValueError(f"corrupted names test sets that are not among sets: {', '.join(unknown)}")
        return self

    def changes(self, name: str) -> tuple[Change | None, ...]:
        """The changes that the set ``name`` is encoded under: none of them (None), and each corruption."""
        if self.corruptions is None or (self.corrupted and name not in self.corrupted):
            return (None,)
        return None, *self.corruptions.changes().values()


@dataclass(frozen=True)
class Part:
    """Unit of encoding: a ``shard`` of a set's split, under a ``change`` or unchanged; None: the classes of the set."""

    examples: EvalSet
    shard: int | None
    change: Change | None = None

    @property
    def split(self) -> str:
        """The name of the split, as it is or changed."""
        return self.change.split(self.examples.split) if self.change else self.examples.split

    @property
    def name(self) -> str:
        """Its name in the ledger."""
        if self.shard is None:
            return f"{self.examples.name}-classes"
        return f"{self.examples.name}-{self.split}-{self.shard:05d}"


def folder(name: str, split: str) -> str:
    """Return the folder of a split's shards below ``data/``, as in the test set itself."""
    return f"{name.strip('/')}/{split}"
