"""Names and numbers as a report writes them."""

from __future__ import annotations

import math

from workflows.cli.console import seconds

__all__ = ["duration", "label", "number", "size"]

_NAMES = {
    "acc1": "top-1 accuracy",
    "acc5": "top-5 accuracy",
    "mean_per_class_recall": "mean per-class recall",
    "acc1_corrupted": "top-1 accuracy under corruptions",
    "acc1_lost": "top-1 accuracy lost by corruptions",
    "lp_acc1": "linear probe accuracy",
    "knn_acc1": "nearest neighbours' accuracy",
    "lr": "learning rate",
    "grad_norm": "gradient norm",
    "logit_scale": "logit scale",
    "text_to_image": "captions and the images they find",
    "image_to_text": "images and the captions they find",
    "confusion": "confusion matrix",
    "predictions": "sample predictions",
}


def label(name: str) -> str:
    """A readable name: ``dropped_text_length`` -> ``dropped: text length``."""
    if name in _NAMES:
        return _NAMES[name]
    for prefix in ("kept", "dropped"):
        if name.startswith((f"{prefix}_", f"{prefix}-")):
            return f"{prefix}: {label(name[len(prefix) + 1 :])}"
    return name.replace("_retrieval_recall", " recall").replace("_", " ").strip()


def duration(value: float | None) -> str:
    return "–" if value is None or not math.isfinite(value) else seconds(value)


def size(count: int | None) -> str:
    if count is None:
        return "–"
    value = float(count)
    for unit in ("bytes", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "bytes" else f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} TB"


def number(value: float) -> str:
    """A number for people: 12,345; 0.734; 5e-04."""
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) >= 0.01 else f"{value:.1e}"
