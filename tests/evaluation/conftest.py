"""A tiny random model in open_clip's folder layout and small test sets, as artifacts."""

from __future__ import annotations

from pathlib import Path

import evaluation_samples as samples
import pytest

from infra.run.manifest import Artifact


@pytest.fixture(scope="session")
def model_files() -> dict[str, bytes]:
    return samples.model_files()


@pytest.fixture
def model(model_files: dict[str, bytes], tmp_path: Path) -> Artifact:
    return samples.write_artifact(tmp_path / "model", model_files, stage="train")


@pytest.fixture
def seen(tmp_path: Path) -> Artifact:
    return samples.write_artifact(tmp_path / "seen", samples.classification_files())


@pytest.fixture
def holdout(tmp_path: Path) -> Artifact:
    return samples.write_artifact(tmp_path / "holdout", samples.retrieval_files())


@pytest.fixture
def embedded(model: Artifact, seen: Artifact, holdout: Artifact, tmp_path: Path) -> dict[str, Artifact]:
    """The vectors of both sets."""
    sets = {"seen": seen, "holdout": holdout}
    return {name: samples.embed_here(tmp_path / f"embedded/{name}", model, one, name) for name, one in sets.items()}
