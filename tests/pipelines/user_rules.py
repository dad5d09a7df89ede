"""Rules as a user's package would define them, in a module that Ray workers can import."""

from __future__ import annotations

import os
import time
from pathlib import Path

from pipelines.curate.filter.rules import Rule


class Above(Rule):
    """A lower limit on any column of numbers."""

    column: str = "similarity"
    min: float = 0.3

    def needs(self):
        return (self.column,)

    def keeps(self, rows):
        import pyarrow.compute as pc

        return pc.greater_equal(rows[self.column], self.min)


class TakenIn(Rule):
    """The year of a column of dates."""

    columns = ("taken",)

    year: int

    def keeps(self, rows):
        return [day.year == self.year for day in rows["taken"].to_pylist()]


class Rendezvous(Rule):
    """Keeps everything, once two processes are here at the same time; nothing if no other comes within a minute."""

    columns = ("uid",)

    folder: str

    def keeps(self, rows):
        Path(self.folder, str(os.getpid())).touch()
        deadline = time.monotonic() + 60
        while len(os.listdir(self.folder)) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        return [len(os.listdir(self.folder)) >= 2] * rows.num_rows


class Answer(Rule):
    """Returns or raises what its field says."""

    columns = ("caption",)

    answer: str

    def keeps(self, rows):
        match self.answer:
            case "raise":
                raise ValueError("no idea")
            case "undeclared":
                return rows["url"]
            case "short":
                return [True] * (rows.num_rows - 1)
            case "none":
                return [False] * rows.num_rows
            case "texts":
                return rows["caption"]
        return [True, *[None] * (rows.num_rows - 1)]


class Touchy(Rule):
    """Keeps odd numbers, and fails at all that is none: at the whole table, as a library would."""

    columns = ("caption",)

    def keeps(self, rows):
        return [int(caption) % 2 == 1 for caption in rows["caption"].to_pylist()]
