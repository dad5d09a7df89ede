"""Inputs of a training run: shards, test sets and models, from artifacts or from folders."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from infra.config import digest
from infra.errors import ConfigError, DataError
from infra.formats.shards import tars_among, training_tars
from infra.run.manifest import Artifact
from infra.store import Store, open_store
from infra.store.listing import absolute, listed
from training.data.samples import Shards

__all__ = ["Inputs"]


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
        """Those at paths or fsspec URLs. Of several places of shards each may be given as ``name=place``: a folder, a
        glob, or a pattern such as ``{00000..00099}.tar``."""
        sources = {}
        for number, given in enumerate(shards):
            name, equals, place = given.partition("=")
            if not equals:
                name, place = "shards" if number == 0 else f"shards_{number}", given
            folder, paths, _ = listed(absolute(place))
            sources[name] = Shards.at(open_store(folder), tars_among(paths, place))
        chosen = {name: Path(place) for name, place in models.items() if place is not None}
        if missing := [path for path in chosen.values() if not path.exists()]:
            raise ConfigError(
                f"there is no model at {missing[0]}", expected="a folder or checkpoint file on this machine"
            )
        return cls(sources, open_store(tests) if tests else None, chosen)

    def digest(self) -> str:
        """Of the content of the shards, in their order: a checkpoint is continued with no others."""
        return digest([[name, list(shards.contents)] for name, shards in self.sources.items()])


_MODELS = ("pretrained", "teacher")


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
