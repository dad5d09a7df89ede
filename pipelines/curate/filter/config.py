"""Configuration of the filter stage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field

from infra.cluster import Limits
from infra.config import Input, Runtime, StageConfig
from pipelines.curate.filter.rules import BASIC, Rule

__all__ = ["Config"]


class Config(StageConfig):
    code_version: ClassVar[int] = 2
    inputs: ClassVar[Mapping[str, Input]] = {
        "images": Input("images", repeated=True, description="a download, and retries of it"),
        "selection": Input("selection", required=False, description="judge only the rows it keeps"),
    }
    produces: ClassVar[tuple[str, ...]] = ("selection",)

    rules: tuple[Rule, ...] = Field(BASIC, description="rules a row must pass, in the order they are applied")
    limits: Runtime[Limits] = Field(Limits(), description="how to use the cluster")
