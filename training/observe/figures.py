"""Draw the figure of a training run that belongs to its artifact, from the history alone."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from infra.figures import png

__all__ = ["curves"]


def curves(history: Sequence[dict[str, float]]) -> bytes:
    """Loss, learning rate, logit scale and gradient norm over samples seen, as PNG."""
    panels = {"loss": "loss", "lr": "learning rate", "logit_scale": "logit scale", "grad_norm": "gradient norm"}
    figure = Figure(figsize=(9, 5), layout="constrained")
    for axes, (name, title) in zip(figure.subplots(2, 2, sharex=True).flat, panels.items(), strict=True):
        axes.plot([line["samples"] for line in history], [line[name] for line in history], color="#2a6f97")
        axes.set_title(title, fontsize=10)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.ticklabel_format(style="sci", axis="both", scilimits=(-3, 5))
    figure.supxlabel("samples seen", fontsize=10)
    return png(figure, dpi=120)
