"""The base of all rules: conditions on the columns of a table of images."""

from __future__ import annotations

import inspect
import re
from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeAlias

from infra.config import Choice

if TYPE_CHECKING:
    import pyarrow as pa

    from pipelines.curate.filter.survey import Question

__all__ = ["Answers", "Range", "Rule"]

Answers: TypeAlias = Any  # booleans: a pyarrow or numpy array, or a list
Numbers: TypeAlias = Any  # a pyarrow or numpy array
_REASON = r"[a-z][a-z0-9_]*"  # becomes part of a figure's file name and of a metric's name


class Rule(Choice):
    """A condition on rows of images.

    ``columns``: what it reads, of the download (the list's own columns too), added by an earlier stage, or one of
    :data:`pipelines.curate.filter.measures.MEASURED`, which are measured where they are missing.
    ``reason``: recorded with the rows that fail, lower-case letters, digits and ``_``; by default the rule's kind.
    """

    columns: ClassVar[tuple[str, ...]] = ()
    reason: ClassVar[str] = ""

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:  # noqa: ANN401 - pydantic's signature
        super().__pydantic_init_subclass__(**kwargs)
        if "reason" not in vars(cls):
            cls.reason = cls.kind
        if not (inspect.isabstract(cls) or re.fullmatch(_REASON, cls.reason)):
            raise TypeError(f"{cls.__qualname__}.reason is {cls.reason!r}: use lower-case letters, digits and _")
        if isinstance(cls.columns, str) or not (cls.columns or cls.needs is not Rule.needs or inspect.isabstract(cls)):
            raise TypeError(f"{cls.__qualname__} must name the columns it reads, as columns = ('caption',)")

    @property
    def name(self) -> str:
        """Reason recorded with rows that fail; override it where a field tells several rules of one kind apart."""
        return self.reason

    def needs(self) -> tuple[str, ...]:
        """The columns :meth:`keeps` reads; override it where they depend on a field."""
        return self.columns

    @abstractmethod
    def keeps(self, rows: pa.Table) -> Answers:
        """One boolean per row, False for those to drop; null counts as False. ``rows`` has the columns of needs()."""

    def rewrites(self, rows: pa.Table) -> Mapping[str, Any]:
        """Columns as they shall be from this rule on, by name; none by default."""
        return {}

    def question(self) -> Question | None:
        """A question about all rows that :meth:`keeps` needs answered; None if it judges each row by itself."""
        return None

    def settled(self, answer: Any) -> Self:  # noqa: ANN401 - what the question asks for
        """This rule with the answer to its question, ready to judge."""
        return self


class Range(Rule):
    """Base of rules that compare a number of each row with ``min`` and ``max``, fields of which one may be missing.

    A row without the number is dropped.
    """

    @abstractmethod
    def value(self, rows: pa.Table) -> Numbers:
        """The number of each row, or null."""

    def bounds(self) -> tuple[float | None, float | None]:
        """The smallest and the largest number to keep."""
        return getattr(self, "min", None), getattr(self, "max", None)

    def keeps(self, rows: pa.Table) -> Answers:
        return columns().within(self.value(rows), *self.bounds())


def columns() -> Any:  # noqa: ANN401 - a module
    """Functions on columns; they import pyarrow, which planning does without."""
    from pipelines.curate.filter import columns

    return columns
