"""Models that are called by a name: ``models:/clip@champion`` of an MLflow registry, ``hf-hub:org/name`` of a hub.

Each becomes a folder on this machine, whose files are then identified by their content. A kind of name of your own is
an entry of :data:`PUBLISHED`: its beginning, and the module with ``fetch(name, pick)``, which returns the folder.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path

from infra.cache import cache_folder

__all__ = ["PUBLISHED", "Pick", "fetched", "is_published", "models_folder"]

PUBLISHED = {"models:/": "pipelines.adopt.registry", "hf-hub:": "pipelines.adopt.hub"}

Pick = Callable[[Sequence[str]], list[str]]
"""Those of some files that are part of the data."""


def is_published(path: str) -> bool:
    """True for a name, False for a path or URL."""
    return path.startswith(tuple(PUBLISHED))


def fetched(name: str, pick: Pick) -> str:
    """The folder with the files of what is called ``name``; nothing is fetched twice. Raises ConfigError."""
    module = next(module for start, module in PUBLISHED.items() if name.startswith(start))
    folder: str = importlib.import_module(module).fetch(name, pick)
    return folder


def models_folder() -> Path:
    """The folder for models that are fetched, in the user's cache."""
    return cache_folder() / "models"
