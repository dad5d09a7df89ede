"""Nested configurations from flat keywords: ``optimizer__lr=1e-3`` is ``optimizer={"lr": 1e-3}``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["nested"]


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """``values`` with each double underscore as a step into a dictionary. Later values go before earlier ones."""
    tree: dict[str, Any] = {}
    for key, value in values.items():
        *path, last = key.split("__")
        place = tree
        for name in path:
            place = place.setdefault(name, {})
        place[last] = value
    return tree
