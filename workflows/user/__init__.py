"""Import users' recipe files as modules ``workflows.user.{name}_{digest}`` in every process of a run.

Ray's workers cannot see a file on the machine that started the run, and classes that pydantic builds cannot be pickled
by value. So the process that reads a recipe registers its source here and, once connected, publishes it in the
cluster's key-value store; a worker that unpickles something of the recipe imports this package first, which teaches it
to import the recipe from there. The digest of the source is part of the name, so two versions never mix.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import InspectLoader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import CodeType, ModuleType
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from ray._raylet import GcsClient  # type: ignore[attr-defined]

__all__ = ["is_user_module", "load", "publish"]

_PREFIX = f"{__name__}."
_NAMESPACE = b"clipline"

_registered: dict[str, tuple[str, str]] = {}
"""Path and source of each recipe read by this process, by module name."""


def load(path: Path) -> ModuleType:
    """The recipe file as a module; the same one again if it has not changed. Raises what its code raises."""
    source = path.read_text("utf-8")
    stem = "".join(char if char.isalnum() else "_" for char in path.stem)
    digest = hashlib.sha256(f"{path}\n{source}".encode()).hexdigest()[:8]
    name = f"{_PREFIX}{stem}_{digest}"
    _registered[name] = str(path), source
    return importlib.import_module(name)


def is_user_module(name: str) -> bool:
    """True for the name of a module that came from a recipe file."""
    return name.startswith(_PREFIX)


def publish() -> None:
    """Put the recipes that this process has read where the workers of the connected Ray cluster find them."""
    for name, (path, source) in _registered.items():
        _cluster().internal_kv_put(name.encode(), f"{path}\n{source}".encode(), True, _NAMESPACE)


def _cluster() -> GcsClient:
    """The client of the connected cluster's key-value store.

    That of this process's own connection: the one in ``ray.experimental.internal_kv`` is None as soon as any
    ``ray.cluster_utils.Cluster`` of the process has been shut down.
    """
    from ray._private import worker

    return cast("GcsClient", worker.global_worker.gcs_client)  # type: ignore[attr-defined]


def _published(name: str) -> tuple[str, str] | None:
    ray = sys.modules.get("ray")  # without it this is no worker
    if ray is None or not ray.is_initialized():
        return None
    stored = _cluster().internal_kv_get(name.encode(), _NAMESPACE)
    if stored is None:
        return None
    path, _, source = stored.decode().partition("\n")
    return path, source


class _Recipes(MetaPathFinder, InspectLoader):
    """Find and load ``workflows.user.*`` from what is registered or published."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not is_user_module(fullname):
            return None
        found = _registered.get(fullname) or _published(fullname)
        if found is None:
            return None
        _registered[fullname] = found
        return importlib.util.spec_from_loader(fullname, self, origin=found[0])

    def get_source(self, fullname: str) -> str:
        return _registered[fullname][1]

    def get_code(self, fullname: str) -> CodeType:
        path, source = _registered[fullname]
        return compile(source, path, "exec", dont_inherit=True)

    def get_filename(self, fullname: str) -> str:
        return _registered[fullname][0]

    def exec_module(self, module: ModuleType) -> None:
        module.__file__ = self.get_filename(module.__name__)
        exec(self.get_code(module.__name__), module.__dict__)


sys.meta_path.append(_Recipes())
