"""Test sets you have, as an artifact: copied once, so that every score names exactly what it was measured on."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from typing import Any

from pydantic import Field

from infra.config import Config as BaseConfig
from infra.config import digest
from infra.errors import ConfigError
from infra.formats.testset import EvalSet
from infra.run.context import Context
from infra.run.manifest import Artifact, Manifest
from infra.store import open_store

__all__ = ["Config", "run"]


class Config(BaseConfig):
    folder: str = Field(description="folder or fsspec URL of test sets in CLIP_benchmark's layout, a folder each")
    sets: tuple[str, ...] = Field(min_length=1, description="names of the sets that are wanted")
    split: str = Field("test", description="split that is wanted")

    def identity(self) -> dict[str, Any]:
        """Sets count by their files' names, sizes and times, wherever they lie."""
        store = open_store(self.folder)
        versions = {path: store.change_token(path) for path in self.files()}
        return super().identity() | {"folder": digest(versions)}

    def files(self) -> list[str]:
        """The files of the sets, below ``folder``. Raises ConfigError for a set that is not there."""
        store = open_store(self.folder)
        found = [path for name in self.sets for path in store.paths(name)]
        if missing := [name for name in self.sets if f"{name}/{self.split}/nshards.txt" not in found]:
            raise ConfigError(
                f"there is no test set {missing[0]!r} with split {self.split!r}",
                expected=f"{store.url}/{missing[0]}/{self.split}/nshards.txt",
                found=", ".join(store.folders()) or "no folder there",
            )
        return [path for path in found if path.count("/") == 1 or path.split("/")[1] == self.split]


def run(config: Config, inputs: Mapping[str, Artifact], context: Context) -> Manifest:
    """No inputs. ``data/{set}`` as it is in the folder. Raises DataError for a set of a kind that cannot be scored."""
    store = open_store(config.folder)
    for name in config.sets:
        EvalSet.at(store, name, config.split)
    files = config.files()
    for number, path in enumerate(files):
        context.check()
        with store.open(path) as source, context.output.open(f"data/{path}") as out:
            shutil.copyfileobj(source, out, 1 << 20)
        context.progress(number + 1, len(files))
    return context.finish(facts={"sets": len(config.sets)})
