"""Build a fusion encoder from the configuration in the folder of its weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from infra.errors import DataError
from infra.formats.region_shape import RegionShape
from infra.fusion.co_attention import CoAttention
from infra.fusion.heads import FusionModel, Heads
from infra.fusion.network import Fusion
from infra.fusion.single_stream import SingleStream
from infra.fusion.towers import token_widths

__all__ = ["build_fusion"]


def build_fusion(model: Any, config: Mapping[str, Any]) -> FusionModel:  # noqa: ANN401 - open_clip is untyped
    """Build the fusion encoder on open_clip's ``model`` that ``config`` describes; its weights are random.

    ``kind`` is ``two_stream`` (ALBEF's, also where it is not said, with its ``layers``), ``single_stream`` (ViLT's) or
    ``co_attention`` (ViLBERT's, with its ``layers`` and its ``regions``: how many, their features' width, classes);
    ``vocabulary``, ``matching`` and ``answers``, the list of them, say which heads it has, ``images``
    how many pictures an answer is about. Raises DataError.
    """
    answers, images = len(config.get("answers", ())), config.get("images", 1)
    heads = Heads(config["vocabulary"], config["matching"], answers, images)
    match config.get("kind", "two_stream"):
        case "two_stream":
            return Fusion(token_widths(model), config["layers"], heads)
        case "single_stream":
            return SingleStream(model, heads)
        case "co_attention":
            return CoAttention(model, config["layers"], RegionShape(*config["regions"]), heads)
        case kind:
            raise DataError(
                "a fusion encoder of an unknown kind",
                expected="two_stream, single_stream, co_attention",
                found=str(kind),
            )
