"""The root of this process, below which stages find registered models by their names."""

from __future__ import annotations

import os
from contextvars import ContextVar

__all__ = ["root", "set_root"]

_root: ContextVar[str] = ContextVar("root", default="")


def set_root(root: str) -> None:
    """Say below which root models that runs have registered are looked for."""
    _root.set(root)


def root() -> str:
    """The root that was set, else that of the environment."""
    return _root.get() or os.environ.get("CLIPLINE_ROOT") or ".clipline"
