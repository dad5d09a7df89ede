"""Scores as a user would write them, in a module that workers can import."""

from __future__ import annotations

from pipelines.curate.score import Score


class Oddness(Score):
    """A user's: how far a caption is from the mean of the shard's captions."""

    def values(self, rows, known):
        return 1 - rows.texts @ rows.texts.mean(axis=0)


class Wrong(Score):
    def values(self, rows, known):
        return rows.images
