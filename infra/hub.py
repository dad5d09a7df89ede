"""Check within seconds that a hub answers: its own client tries again for the better part of a minute."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from huggingface_hub import HfApi, constants
from huggingface_hub.errors import (  # type: ignore[attr-defined]
    HTTPError,  # of its HTTP client, which differs from version to version
)

__all__ = ["PATIENCE_S", "HTTPError", "part_out_of_reach", "unreachable"]

PATIENCE_S = 10


def unreachable(repository: str) -> Exception | None:
    """Why ``org/name`` cannot be fetched, by one short question; None if it can, or its files are in the cache."""
    folder = Path(constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}"
    if (folder / "snapshots").is_dir():
        return None
    try:
        HfApi().model_info(repository, timeout=PATIENCE_S)
    except (OSError, HTTPError, ValueError) as error:
        found: Exception = error
        return found
    return None


def part_out_of_reach(parts: Mapping[str, str]) -> tuple[str, Exception] | None:
    """The first of a model's parts whose repository cannot be fetched, and why; None as well without transformers,
    which fetches them and whose absence is said first."""
    for part, repository in parts.items() if find_spec("transformers") else ():
        if (error := unreachable(repository)) is not None:
            return part, error
    return None
