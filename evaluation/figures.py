"""Draw the figures of an evaluation as PNG bytes; the same input gives the same bytes.

Drawn without pyplot, which has global state.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec
from numpy.typing import NDArray
from PIL.Image import Image

from evaluation.calibration import CalibrationError
from infra.figures import INK, QUIET, RIGHT, WRONG, png

__all__ = ["Answer", "Prediction", "Query", "confusion", "image_to_text", "predictions", "reliability", "text_to_image"]

_MAX_CLASSES = 40  # more rows than this cannot be read


@dataclass(frozen=True)
class Prediction:
    """One classified image: its true class, and the top classes with their probabilities, best first."""

    image: Image
    truth: str
    top: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Answer:
    """One retrieved item: a text or an image, its cosine to the query, and whether it belongs to it."""

    item: Any
    cosine: float
    right: bool


@dataclass(frozen=True)
class Query:
    """A retrieval query (a text or an image) and its answers, best first."""

    query: Any
    answers: tuple[Answer, ...]


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), dpi=110, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _png(figure: Figure) -> bytes:
    return png(figure, bbox_inches="tight", pad_inches=0.15)


def _wrap(text: str, width: int, lines: int = 2) -> str:
    return "\n".join(textwrap.wrap(" ".join(text.split()), width, max_lines=lines, placeholder=" …") or [""])


def confusion(matrix: NDArray[np.int64], classes: Sequence[str]) -> bytes:
    """Draw a confusion matrix, (C, C) counts with true classes in rows; of over 40 classes, those with most errors."""
    # Which classes to show, and the share of each true class by predicted class.
    errors = matrix.sum(axis=1) - matrix.diagonal()
    shown = np.arange(len(matrix))
    if len(matrix) > _MAX_CLASSES:
        shown = np.sort(np.argsort(-errors, kind="stable")[:_MAX_CLASSES])
    counts = matrix[np.ix_(shown, shown)]
    shares = counts / np.maximum(matrix.sum(axis=1)[shown], 1)[:, None]
    names = [_wrap(classes[index], 22, 1) for index in shown.tolist()]

    # One coloured cell per pair of classes, with its count where there is one.
    size = 2.2 + 0.27 * len(shown)
    figure = _figure(size + 0.8, size)
    axes = figure.add_subplot()
    # The square root lifts small confusions out of the white: 1 in 25 is as visible as it is interesting.
    picture = axes.imshow(np.sqrt(shares), cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        if count:
            colour = "white" if shares[row, column] > 0.4 else INK
            axes.text(column, row, str(count), ha="center", va="center", fontsize=6.5, color=colour)
    # Class names on both axes, and thin lines between the cells.
    axes.set_xticks(range(len(shown)), names, rotation=90, fontsize=7.5)
    axes.set_yticks(range(len(shown)), names, fontsize=7.5)
    axes.set_xlabel("predicted", fontsize=9, color=QUIET)
    axes.set_ylabel("true", fontsize=9, color=QUIET)
    axes.tick_params(length=0)
    axes.set_xticks(np.arange(len(shown)) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(shown)) - 0.5, minor=True)
    axes.grid(which="minor", color="#e6eaee", linewidth=0.6)
    axes.tick_params(which="minor", length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    # Title and colour scale.
    subset = "" if len(shown) == len(matrix) else f"; the {len(shown)} of {len(matrix)} classes with the most errors"
    axes.set_title(f"{errors.sum()} of {matrix.sum()} images misclassified{subset}", fontsize=10, color=INK, loc="left")
    bar = figure.colorbar(picture, ax=axes, fraction=0.03, pad=0.02, aspect=30, ticks=np.sqrt([0, 0.04, 0.25, 0.5, 1]))
    bar.ax.set_yticklabels(["0", "4 %", "25 %", "50 %", "100 %"], fontsize=7)
    bar.outline.set_visible(False)
    return _png(figure)


def reliability(error: CalibrationError) -> bytes:
    """Draw accuracy by confidence, a bar for each bin with images, over the share of images in it."""
    count, right, sure = error.by_bin
    used = np.flatnonzero(count)
    accuracy, confidence = right[used] / count[used], sure[used] / count[used]
    figure = _figure(3.9, 4.3)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3.2, 1], gridspec_kw={"hspace": 0.08})
    middle, width = (used + 0.5) / error.bins, 0.92 / error.bins
    above.plot([0, 1], [0, 1], color=QUIET, linewidth=0.8, linestyle=":")
    above.bar(middle, accuracy, width, color="#9ec5e8")
    above.vlines(confidence, accuracy, confidence, color=WRONG, linewidth=1.4)
    above.plot(confidence, accuracy, "o", color=INK, markersize=3)
    above.set_ylim(0, 1)
    above.set_ylabel("right", fontsize=8.5, color=QUIET)
    above.set_title(
        f"expected calibration error {error.value:.3f} of {error.images} images", fontsize=9.5, color=INK, loc="left"
    )
    below.bar(middle, count[used] / error.images, width, color="#c9d1d9")
    below.set_xlim(0, 1)
    below.set_ylabel("images", fontsize=8.5, color=QUIET)
    below.set_xlabel("probability of the predicted class", fontsize=8.5, color=QUIET)
    for axes in (above, below):
        axes.tick_params(labelsize=7)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    return _png(figure)


def _grid(
    width: float,
    height: float,
    title: str,
    rows: int,
    columns: int,
    **spacing: Any,  # noqa: ANN401 - GridSpec's
) -> tuple[Figure, GridSpec]:
    """Create a figure of that size in inches, with its title above a grid that fills it."""
    figure = _figure(width, height)
    figure.text(0, 1, title, fontsize=10, color=INK, ha="left", va="top")
    return figure, figure.add_gridspec(rows, columns, left=0, right=1, bottom=0, top=1 - 0.42 / height, **spacing)


def _show(axes: Axes, image: Image, colour: str | None) -> None:
    axes.imshow(np.asarray(image), interpolation="lanczos")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(colour is not None)
        spine.set_linewidth(3)
        spine.set_edgecolor(colour or "none")


def predictions(items: Sequence[Prediction], title: str) -> bytes:
    """Draw a grid of images, each with its true class and the top classes as bars of probability."""
    columns = min(6, max(1, len(items)))
    rows = math.ceil(len(items) / columns)
    figure, grid = _grid(1.65 * columns, 2.5 * rows + 0.42, title, rows, columns, hspace=0.16, wspace=0.16)
    for place, item in enumerate(items):
        row, column = divmod(place, columns)
        right = bool(item.top) and item.top[0][0] == item.truth
        cell = grid[row, column].subgridspec(2, 1, height_ratios=[1.9, 0.8], hspace=0.05)
        above = figure.add_subplot(cell[0])
        above.set_anchor("S")
        _show(above, item.image, RIGHT if right else WRONG)
        above.set_title(_wrap(item.truth, 24, 1), fontsize=8, color=INK, pad=4)
        below = figure.add_subplot(cell[1])
        below.set_axis_off()
        below.set_xlim(0, 1)
        below.set_ylim(2.6, -0.6)
        for line, (name, probability) in enumerate(item.top):
            colour = RIGHT if name == item.truth else WRONG if line == 0 else "#b8c2cc"
            below.barh(line, 1, height=0.82, color="#f1f4f6")
            below.barh(line, probability, height=0.82, color=colour, alpha=0.35)
            below.text(0.02, line, _wrap(name, 18, 1), fontsize=7, va="center", color=INK)
            below.text(0.98, line, f"{probability:.0%}", fontsize=7, va="center", ha="right", color=INK)
    return _png(figure)


def text_to_image(queries: Sequence[Query], title: str) -> bytes:
    """Draw a row per caption with the images it retrieves, best first; its own image is framed."""
    columns = max((len(query.answers) for query in queries), default=1)
    size = (2.4 + 1.35 * columns, 1.5 * len(queries) + 0.42)
    widths = [1.8] + [1] * columns
    figure, grid = _grid(*size, title, len(queries), columns + 1, width_ratios=widths, hspace=0.2, wspace=0.08)
    for row, query in enumerate(queries):
        words = figure.add_subplot(grid[row, 0])
        words.set_axis_off()
        words.text(0, 0.5, _wrap(query.query, 26, 5), fontsize=8.5, va="center", color=INK, transform=words.transAxes)
        for column, answer in enumerate(query.answers):
            axes = figure.add_subplot(grid[row, column + 1])
            _show(axes, answer.item, RIGHT if answer.right else None)
            axes.set_xlabel(
                f"{'✓ ' if answer.right else ''}{answer.cosine:.2f}",
                fontsize=7.5,
                labelpad=2,
                color=RIGHT if answer.right else QUIET,
            )
    return _png(figure)


def image_to_text(queries: Sequence[Query], title: str) -> bytes:
    """Draw a row per image with the captions it retrieves, best first; its own captions are marked."""
    columns = 2 if len(queries) > 1 else 1
    rows = math.ceil(len(queries) / columns)
    size = (5.4 * columns, 1.5 * rows + 0.42)
    widths = [1, 2.9] * columns
    figure, grid = _grid(*size, title, rows, columns * 2, width_ratios=widths, hspace=0.12, wspace=0.05)
    for place, query in enumerate(queries):
        row, column = divmod(place, columns)
        _show(figure.add_subplot(grid[row, 2 * column]), query.query, None)
        words = figure.add_subplot(grid[row, 2 * column + 1])
        words.set_axis_off()
        words.set_xlim(0, 1)
        words.set_ylim(len(query.answers) - 0.5, -0.5)
        for line, answer in enumerate(query.answers):
            colour = RIGHT if answer.right else WRONG
            words.text(0.0, line, "✓" if answer.right else "✗", fontsize=9, va="center", color=colour)
            words.text(0.05, line, f"{answer.cosine:.2f}", fontsize=7, va="center", color=QUIET)
            words.text(0.15, line, _wrap(answer.item, 52, 1), fontsize=8, va="center", color=INK)
    return _png(figure)
