"""The two rich consoles of a command: data goes to stdout, progress and messages to stderr."""

from __future__ import annotations

from rich.console import Console

__all__ = ["stderr", "stdout"]


def stdout() -> Console:
    """A console for data. Made for each use, since colour depends on the environment at that moment."""
    return Console(highlight=False, soft_wrap=True)


def stderr() -> Console:
    """A console for progress, messages and errors."""
    return Console(stderr=True, highlight=False, soft_wrap=True)
