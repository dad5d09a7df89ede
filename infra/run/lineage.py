"""Find artifacts by their digests, and the model that an evaluation is of."""

from __future__ import annotations

from infra.run.manifest import Artifact, Manifest
from infra.store import Store

__all__ = ["artifact_with", "model_of"]


def artifact_with(root: Store, digest: str) -> Artifact | None:
    """The artifact of that digest, of whatever stage; None if there is none below ``root``."""
    folders = (root.child(f"artifacts/{stage}/{digest[:16]}") for stage in root.folders("artifacts"))
    return next((found for folder in folders if (found := Artifact.find(folder))), None)


def model_of(root: Store, manifest: Manifest) -> str | None:
    """Digest of the model that an evaluation, or the vectors it reads, are of; None if there is none of ours."""
    inputs: dict[str, str] = manifest.identity.get("inputs", {})
    if "model" in inputs or "embeddings" not in inputs:
        return inputs.get("model")
    embedded = artifact_with(root, inputs["embeddings"])
    return model_of(root, embedded.manifest) if embedded else None
