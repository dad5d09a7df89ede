"""The base of every evaluation task, and the form in which a task returns what it measured.

As in big_vision, a task only computes: it gets a test set as a model's vectors (:mod:`evaluation.embedded`) and returns
numbers, tables and figures. They are made once for all tasks by :mod:`evaluation.embed`; intervals, files and logging
are the same for all and done by :mod:`evaluation.evaluate`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import Field, model_validator

from infra.config import Choice
from infra.errors import ConfigError
from infra.formats.testset import KINDS

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from evaluation.corruptions import Corruptions
    from evaluation.embedded import Embedded
    from infra.measures import Metric

__all__ = ["Columns", "Scores", "Task"]

Columns = Mapping[str, "Sequence[Any] | NDArray[Any]"]
"""A table by columns of equal length."""


@dataclass(frozen=True)
class Scores:
    """Measurements of a task on a test set: metrics by name, all of the same images, the main one first.

    A metric knows its value on the whole test set and on resamples of its images, which give its confidence interval:
    see :mod:`infra.measures`. Where all are means over images, :meth:`means` writes them for you.

    ``groups`` are metrics of parts of the set: tables by name, with a row for each group, whose metrics are of its own
    images. They become ``data/{name}.parquet``, with intervals. So do ``tables``, as they are, and ``figures`` (PNG
    bytes) ``figures/{name}.png``; ``facts`` are counts and other small JSON values for the manifest.
    """

    metrics: Mapping[str, Metric]
    groups: Mapping[str, Mapping[str, Mapping[str, Metric]]] = field(default_factory=dict)
    tables: Mapping[str, Columns] = field(default_factory=dict)
    figures: Mapping[str, bytes] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def means(cls, values: Mapping[str, ArrayLike], **rest: Any) -> Scores:  # noqa: ANN401 - the other fields
        """Scores whose metrics are means over images: for each metric, one number or boolean per image."""
        from infra.measures import means  # loads numpy

        return cls(means(values), **rest)


class Task(Choice):
    """One measurement of a model on one test set.

    A subclass adds its own fields and :meth:`evaluate`, in a recipe file or an installed package as well as here; ours
    name a function instead, ``implementation``, which loads numpy and more. Its
    ``kind`` names it in results; ours use CLIP_benchmark's names. The others say what ``clipline tasks`` and suites
    should know of it, and may be left out. ``needs``: kinds of test sets it can measure, of
    :data:`infra.formats.testset.KINDS`; none: any. ``main``: the metric that counts. ``units``: what it is a mean over.
    ``takes``: inputs of the stage that it uses where they are given. ``regions_by``: the option by which it reads a
    detector's regions, for a task that does so only then.
    """

    needs: ClassVar[tuple[str, ...]] = ()
    takes: ClassVar[tuple[str, ...]] = ()
    main: ClassVar[str] = ""
    units: ClassVar[str] = "images"
    regions_by: ClassVar[str] = ""

    dataset: str = Field(description="test set: a folder in CLIP_benchmark's layout below the artifact's data/")
    split: str = Field("test", description="split of the test set")
    language: str = Field("en", description="language of the set's texts, as recorded in the result")

    @model_validator(mode="after")
    def _can_evaluate(self) -> Self:
        if type(self).evaluate is Task.evaluate and not self.implementation:
            raise ConfigError(f"the task {self.kind!r} has neither a method evaluate nor an implementation")
        return self

    def splits(self) -> tuple[str, ...]:
        """The splits of the set that must be embedded."""
        return (self.split,)

    def changes(self) -> Corruptions | None:
        """The corruptions under which the set must be embedded, too."""
        return None

    def inputs(self) -> tuple[str, ...]:
        """The inputs of the stage that it needs besides the vectors and the test set: ``model``, or none."""
        return ()

    def reads_regions(self) -> bool:
        """True if it can measure a fusion model on images that have a detector's regions and no pixels."""
        return False

    def lacking(self, kind: str, splits: Collection[str]) -> str:
        """Reason why a set of that kind with these splits does not serve the task; "" if it does. Data are not read."""
        if self.needs and kind not in self.needs:
            return f"it needs a set for {' or '.join(self.needs)}, and in this {KINDS.get(kind, kind)}"
        if missing := [split for split in self.splits() if split not in splits]:
            return f"it needs the split {' and '.join(missing)}"
        return ""

    def evaluate(self, data: Embedded) -> Scores:
        """Measure the model by its vectors. Runs once, in a Ray worker; must be deterministic.

        Raises DataError if the test set is of a kind the task cannot use.
        """
        found: Scores = self.implemented()(self, data)
        return found
