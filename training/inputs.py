"""Inputs of a training run: shards, test sets and models, from artifacts or from folders."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from infra.config import digest
from infra.errors import ConfigError, DataError
from infra.formats.shards import tars_among, training_among, training_tars
from infra.run.manifest import Artifact, listed_data
from infra.store import Store, open_store
from training.data.samples import Shards

__all__ = ["Inputs"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Inputs:
    """``sources``: shards by the name of their input; ``models``: local folders or checkpoint files by input."""

    sources: Mapping[str, Shards]
    tests: Store | None = None
    models: Mapping[str, Path] = field(default_factory=dict)

    @classmethod
    def of(cls, artifacts: Mapping[str, Artifact], folder: Path) -> Inputs:
        """Those of the training stage; models of remote artifacts are copied below ``folder``. Raises DataError."""
        return cls(
            sources={
                name: _shards(artifact)
                for name, artifact in sorted(artifacts.items())
                if name == "shards" or name.startswith("shards_")
            },
            tests=artifacts["tests"].store.child("data") if "tests" in artifacts else None,
            models={name: _model(artifacts[name], folder / name) for name in _MODELS if name in artifacts},
        )

    @classmethod
    def at(cls, shards: Iterable[str], tests: str | None, models: Mapping[str, str | None]) -> Inputs:
        """Those at paths or fsspec URLs, an artifact's folder too. A place of shards is a folder, a glob, or a pattern
        such as ``{00000..00099}.tar``; of several each may be given as ``name=place``. Raises ConfigError where
        nothing is, DataError for what is no shard."""
        sources: dict[str, Shards] = {}
        for number, given in enumerate(shards, 1):
            name, place = _named(given) or (f"shards_{number}" if number > 1 else "shards", given)
            if name in sources:
                raise ConfigError(f"two places of shards are named {name}")
            sources[name] = _shards_at(place)
        chosen = {name: Path(place) for name, place in models.items() if place is not None}
        if missing := [path for path in chosen.values() if not path.exists()]:
            raise ConfigError(
                f"there is no model at {missing[0]}", expected="a folder or checkpoint file on this machine"
            )
        return cls(sources, _tests_at(tests) if tests else None, chosen)

    def digest(self) -> str:
        """Of the content of the shards, in their order: a checkpoint is continued with no others."""
        return digest([[name, list(shards.contents)] for name, shards in self.sources.items()])


_MODELS = ("pretrained", "teacher")


def _named(given: str) -> tuple[str, str] | None:
    """Name and place of ``name=place``. None for a place alone, which may have a = below its first folder."""
    name, equals, place = given.partition("=")
    if not equals or not re.fullmatch(r"\w+", name):
        return None
    if name != "shards" and not name.startswith("shards_"):
        raise ConfigError(
            f"{name} is no name of shards", expected="shards, or shards_ and any ending", fix=f"shards_{name}={place}"
        )
    return name, place


def _shards_at(place: str) -> Shards:
    folder, paths, _ = listed_data(place)
    tars = tars_among(paths, place)
    if not tars:
        found = ", ".join(paths[:5]) or "nothing there"
        raise ConfigError(f"there are no shards at {place}", expected="*.tar", found=found)
    chosen = training_among(tars)
    if len(chosen) < len(tars):
        log.info("trained on at %s: train/, %d of %d shards", place, len(chosen), len(tars))
    return Shards.at(open_store(folder), chosen)


def _tests_at(place: str) -> Store:
    folder, paths, alone = listed_data(place)
    if alone or not paths:
        raise ConfigError(
            f"there are no test sets at {place}",
            expected="a folder with a folder for each set",
            found="a file" if alone else "nothing there",
        )
    return open_store(folder)


def _shards(artifact: Artifact) -> Shards:
    """The training shards of an artifact."""
    files = training_tars(artifact)
    if not files:
        funnel = artifact.manifest.funnel
        found = "nothing: no image was kept" if funnel and not funnel.kept else ""
        raise DataError(f"{artifact.manifest.name} holds no shards", expected="*.tar below data/", found=found)
    digests = tuple(file.sha256 for file in files)
    return Shards(
        artifact.store,
        [file.path for file in files],
        digests if all(digests) else (),
        tuple(file.sha256 or file.etag for file in files),
    )


def _model(artifact: Artifact, folder: Path) -> Path:
    """The artifact's model as a local folder, or the checkpoint file if it is only that."""
    files = artifact.files("data/")
    alone = files[0].path if len(files) == 1 else "data"
    if (place := artifact.store.local_path(alone)) is not None:
        return place
    for file in files:
        target = folder / Path(file.path).relative_to("data")
        target.parent.mkdir(parents=True, exist_ok=True)
        with artifact.store.open(file.path) as source, target.open("wb") as sink:
            while block := source.read(1 << 22):
                sink.write(block)
    return folder / Path(alone).name if alone != "data" else folder
