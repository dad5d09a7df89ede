"""Configuration of the one pass of a model over test sets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field

from evaluation.embed.long_captions import Cut, LongCaptions
from infra.cluster import Limits
from infra.config import Input, Runtime
from infra.encoder_config import EncoderConfig

__all__ = ["NAME", "Config", "folder"]

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
    batch_size: Runtime[int] = Field(64, ge=1, description="images or texts encoded at once")
    limits: Runtime[Limits] = Field(
        Limits(), description="how to use the cluster; a task decodes in as many threads as it has CPUs"
    )


def folder(name: str, split: str) -> str:
    """Return the folder of a split's shards below ``data/``, as in the test set itself."""
    return f"{name.strip('/')}/{split}"
