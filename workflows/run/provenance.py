"""Provenance of an artifact: source, versions and machine of its making, which do not enter its identity."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Callable, Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from infra.config import Config
from infra.run.manifest import Manifest
from workflows.run.drift import source_digests

__all__ = ["commit", "provenance"]

_PACKAGES = ("clipline", "mlflow", "numpy", "open_clip_torch", "pillow", "pyarrow", "ray", "torch")


def provenance(function: Callable[..., Any], config: Config | None, inputs: Mapping[str, Manifest]) -> dict[str, Any]:
    """Source digests, versions, and the content of each input.

    The same code and inputs give the same answer. The commit is left out: one that touches none of the code behind a
    stage must not change the stage's manifest.
    """
    return {
        "source": source_digests(function, config),
        "versions": _versions(),
        "inputs": {name: manifest.content_digest for name, manifest in sorted(inputs.items())},
    }


@cache
def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


@cache
def commit() -> str:
    """The commit of clipline's checkout, with ``+`` if it has local changes; empty outside a checkout."""
    here, name = Path(__file__).parent, Path(__file__).name
    try:
        _git(here, "ls-files", "--error-unmatch", name)  # or else it is the checkout of whoever installed clipline
        head = _git(here, "rev-parse", "--short=12", "HEAD")
        return head + ("+" if _git(here, "status", "--porcelain", "--untracked-files=no") else "")
    except (FileNotFoundError, subprocess.CalledProcessError):
        return ""


def _git(folder: Path, *words: str) -> str:
    return subprocess.run(["git", *words], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()
