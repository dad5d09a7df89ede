"""Packages that only some work needs, and the extras of clipline that install them.

A node that crawls needs no torch. A configuration names the extras of its work (:meth:`infra.config.Config.extras`), so
what is missing is told before anything starts, where the work would run.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec

from infra.config import Config
from infra.errors import ConfigError

__all__ = ["EXTRAS", "extras_of", "install", "missing", "require"]

EXTRAS = {
    "train": ("torch", "torchvision", "open_clip", "huggingface_hub"),
    "img2dataset": ("img2dataset",),
    "ocr": ("onnxruntime", "rapidocr"),
    "s3": ("boto3", "s3fs"),
    "postgres": ("psycopg",),
}
"""The modules that each extra of pyproject.toml brings."""


def extras_of(config: Config) -> list[str]:
    """Names of the extras that the work of a configuration needs, with those of all configurations within it."""
    return sorted({extra for part in config.parts() for extra in part.extras()})


def missing(extra: str) -> list[str]:
    """Modules of an extra that are not installed here. Nothing is imported."""
    return [module for module in EXTRAS[extra] if find_spec(module) is None]


def install(extras: Iterable[str]) -> str:
    """Return the command that installs the extras."""
    return f"pip install 'clipline[{','.join(extras)}]'"


def require(extras: Iterable[str], what: str) -> None:
    """Raise ConfigError, with the command that helps, if ``what`` needs extras that are not installed here."""
    lacking = {extra: modules for extra in extras if (modules := missing(extra))}
    if lacking:
        names = ", ".join(module for modules in lacking.values() for module in modules)
        raise ConfigError(f"{what} needs what is not installed here: {names}", fix=install(lacking))
