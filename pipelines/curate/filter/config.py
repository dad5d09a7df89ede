"""Configuration of the filter stage."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import ClassVar

from pydantic import Field, field_validator

from infra.cluster import Limits
from infra.config import Input, Runtime, StageConfig
from infra.errors import UsageError
from pipelines.curate.filter.rules import BASIC, PRESETS, Listed, Rule

__all__ = ["Config"]


class Config(StageConfig):
    code_version: ClassVar[int] = 5
    inputs: ClassVar[Mapping[str, Input]] = {
        "images": Input("images", required=False, repeated=True, description="a download, and retries of it"),
        "pairs": Input("pairs", required=False, description="instead of images: what is not downloaded yet"),
        "selection": Input("selection", required=False, description="judge only the rows it keeps"),
        "list": Input("metadata", required=False, repeated=True, description="lists of words or URLs that rules name"),
    }
    produces: ClassVar[tuple[str, ...]] = ("selection", "pairs")

    rules: tuple[Rule, ...] = Field(
        BASIC, description="rules a row must pass, in order, or the names of published filters: " + ", ".join(PRESETS)
    )
    limits: Runtime[Limits] = Field(Limits(), description="how to use the cluster")

    @field_validator("rules", mode="before")
    @classmethod
    def _presets(cls, value: object) -> object:
        """Put the rules of a published filter in place of its name."""
        if isinstance(value, str):
            return PRESETS.get(value, value)
        if not isinstance(value, (list, tuple)):
            return value
        return [rule for one in value for rule in (PRESETS.get(one, (one,)) if isinstance(one, str) else (one,))]

    def check_inputs(self, given: Collection[str]) -> None:
        """Images or pairs, not both, and each list that a rule names."""
        others = [name for name in given if name == "selection" or name.startswith("images")]
        if ("pairs" in given) == bool(others):
            raise UsageError(
                "a filter takes either images, and a selection of them, or pairs that are not downloaded yet",
                found=", ".join(sorted(given)) or "no inputs",
            )
        for rule in self.rules:
            if isinstance(rule, Listed) and rule.source and rule.source not in given:
                raise UsageError(
                    f"rule {rule.kind!r} reads its list from the input {rule.source!r}, which filter does not have",
                    expected=", ".join(sorted(given)),
                    fix="an adopted file, with contents metadata",
                )
