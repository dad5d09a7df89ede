"""Models that are called by a name: ``models:/clip@champion`` of an MLflow registry, ``hf-hub:org/name`` of a hub.

Each becomes a folder on this machine, whose files are then identified by their content. A kind of name of your own is
an entry of :data:`PUBLISHED`: its beginning, and the module with ``fetch(name, pick)``, which returns the folder.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path

from infra.cache import cache_folder
from infra.errors import ConfigError
from infra.extras import EXTRAS, install

__all__ = ["PUBLISHED", "Pick", "fetched", "is_published", "models_folder"]

PUBLISHED = {"models:/": "pipelines.adopt.registry", "hf-hub:": "pipelines.adopt.hub"}

Pick = Callable[[Sequence[str]], list[str]]
"""Those of some files that are part of the data."""


def is_published(path: str) -> bool:
    """True for a name, False for a path or URL."""
    return path.startswith(tuple(PUBLISHED))


def fetched(name: str, pick: Pick) -> str:
    """The folder with the files of what is called ``name``; nothing is fetched twice. Raises ConfigError."""
    place = next(module for start, module in PUBLISHED.items() if name.startswith(start))
    try:
        module = importlib.import_module(place)
    except ModuleNotFoundError as error:
        bringing = [extra for extra, modules in EXTRAS.items() if error.name in modules]
        fix = install(bringing[:1]) if bringing else ""
        raise ConfigError(f"{name} needs the package {error.name}, which is not installed here", fix=fix) from error
    folder: str = module.fetch(name, pick)
    return folder


def models_folder() -> Path:
    """The folder for models that are fetched, in the user's cache."""
    return cache_folder() / "models"
