"""Choosing among hard negatives, as SugarCrepe and Winoground ask it: which caption is the image's, which image the
caption's?

The first caption of an image is right, the others are wrong. Images whose ``json`` names the same ``group`` are one
group: their captions are wrong for each other. An image alone with a right and a wrong caption is SugarCrepe's form
(Hsieh et al., 2023), two images with a caption each are Winoground's (Thrush et al., 2022). A ``category`` in the
``json`` makes a table by category.

What scores level is decided by chance, each choice by itself, and counts as its expectation: a model that cannot tell
the captions apart gets what guessing gets.
"""

from __future__ import annotations

from typing import ClassVar

from evaluation.tasks.task import Task

__all__ = ["ImageCaptionSelection"]


class ImageCaptionSelection(Task):
    """Winoground's text, image and group score and the group match; ``acc`` where there are no groups (SugarCrepe)."""

    kind: ClassVar[str] = "image_caption_selection"
    implementation: ClassVar[str] = "evaluation.tasks.work.selection:measure"
    needs: ClassVar[tuple[str, ...]] = ("image_caption_selection",)
    main: ClassVar[str] = "acc"
    units: ClassVar[str] = "images, or groups of them"
