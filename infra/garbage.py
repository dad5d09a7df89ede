"""Control Python's garbage collector: rare runs where many objects are made and few cycles, or not at all."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["few_collections", "no_collections"]


@contextmanager
def few_collections() -> Iterator[None]:
    """Run the garbage collector rarely inside the block.

    Rows, JSON and waiting tasks hold hardly any cycles; searching thousands of them for cycles every few hundred
    allocations costs up to a tenth of the time.
    """
    before = gc.get_threshold()
    gc.set_threshold(100_000, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


@contextmanager
def no_collections() -> Iterator[None]:
    """Keep the garbage collector from running inside the block, in any thread."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()
