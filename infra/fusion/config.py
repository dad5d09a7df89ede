"""Configuration of a saved fusion encoder, ``config.json`` in the folder of its weights; loads no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from infra.formats.region_shape import RegionShape
from infra.store import Store

__all__ = ["FOLDER", "fusion_folder", "read_fusion_config", "regions_read"]

FOLDER = "fusion"
"""Folder of the fusion encoder beside open_clip's files: ``config.json`` and ``model.safetensors``."""


def fusion_folder(store: Store) -> str | None:
    """Return the folder of the fusion encoder in ``store``, a training artifact or its data; None if there is none."""
    return next((folder for folder in (f"data/{FOLDER}", FOLDER) if store.exists(f"{folder}/config.json")), None)


def read_fusion_config(store: Store, folder: str) -> dict[str, Any]:
    """Read the configuration that :func:`infra.fusion.build.build_fusion` takes."""
    config: dict[str, Any] = json.loads(store.read(f"{folder}/config.json"))
    return config


def regions_read(config: Mapping[str, Any]) -> RegionShape | None:
    """Return which regions a fusion encoder of this configuration reads of an image; None: it reads pixels."""
    if "regions" not in config:
        return None
    # Only a loss on masked regions asks for their classes.
    return RegionShape(*config["regions"])._replace(classes=0, pictures=config.get("images", 1))
