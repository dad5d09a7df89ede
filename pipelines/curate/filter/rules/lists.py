"""Rules by lists: words in captions, hosts and URLs of images and pages, and ids of pairs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, PrivateAttr, model_validator

from pipelines.curate.filter.rules.base import Answers, Rule

if TYPE_CHECKING:
    import pyarrow as pa

    from infra.run.manifest import Artifact

__all__ = ["Listed", "Subset", "TextList", "UrlList"]


class Listed(Rule):
    """Base of rules by a list: a short one in the recipe, or a long one in a file, an input of the stage."""

    entries: tuple[str, ...] = Field((), description="the list, where it is short")
    source: str = Field("", description="input with the list, as list_hosts: a text file, an entry a line")
    keep: bool = Field(False, description="keep what the list names and drop all else, not the other way round")
    _file: Any = PrivateAttr(None)

    @model_validator(mode="after")
    def _is_given(self) -> Self:
        if bool(self.entries) == bool(self.source):
            raise ValueError("either entries or the source of a list")
        return self

    def reading(self, artifact: Artifact) -> Self:
        """This rule with the artifact its list is read from."""
        rule = self.model_copy()
        rule._file = artifact
        return rule


class TextList(Listed):
    """Drops captions that hold a word or phrase of a list, as whole words, whatever their case."""

    columns = ("caption",)

    def keeps(self, rows: pa.Table) -> Answers:
        return _lists().holds_entry(rows["caption"], self.entries, self._file, self.keep)


class UrlList(Listed):
    """Drops images by their URL or their page's: a host with all below it, ``example.org``, or what is below a path,
    ``example.org/ads``."""

    of: Literal["url", "page_url"] = Field("url", description="the column that is looked up")

    def needs(self) -> tuple[str, ...]:
        return (self.of,)

    def keeps(self, rows: pa.Table) -> Answers:
        return _lists().is_listed(rows[self.of], self.entries, self._file, self.keep)


class Subset(Listed):
    """Keeps the pairs of a list of ids: 32 hex digits a line, or DataComp's ``.npy``.

    Where the list has ids several times, the column ``repeats`` says how often; shard writes such a pair as often.
    """

    columns = ("uid",)

    keep: bool = Field(True, description="keep what the list names and drop all else, not the other way round")

    def keeps(self, rows: pa.Table) -> Answers:
        return _lists().is_in_subset(rows["uid"], self.entries, self._file, self.keep)

    def rewrites(self, rows: pa.Table) -> Mapping[str, Any]:
        times = _lists().repeats(rows["uid"], self.entries, self._file) if self.keep else None
        return {} if times is None else {"repeats": times}


def _lists() -> Any:  # noqa: ANN401 - a module
    """Functions that look captions and URLs up; they import what planning does without."""
    from pipelines.curate.filter import lists

    return lists
