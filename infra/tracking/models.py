"""Models in MLflow: a stage's open_clip folder as a logged model, and its registration when the gate passes.

``models:/NAME@ALIAS`` then loads with open_clip. Both are found again by a tag with the artifact's digest, so that
sending an event twice makes neither a second model nor a second version.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Dataset, LoggedModelOutput, Metric
from mlflow.exceptions import MlflowException

from infra.errors import StorageError, redact
from infra.events import Gate
from infra.formats.weights import TOKENIZER
from infra.run.manifest import Artifact
from infra.tracking.address import Address
from infra.tracking.client import environment, open_client

__all__ = [
    "add_output",
    "champion",
    "find_model",
    "log_model",
    "model_files",
    "register_model",
    "registered",
    "scores_of",
]

_DIGEST = "clipline.artifact"


def model_files(artifact: Artifact) -> list[str]:
    """Paths of the artifact's open_clip folder, with its tokenizer's files; empty if it holds no model."""
    paths = [file.path for file in artifact.files("data/")]
    model = [path for path in paths if path.startswith("data/open_clip_")]
    return model and model + [path for path in paths if TOKENIZER.fullmatch(path.removeprefix("data/"))]


def log_model(client: MlflowClient, experiment: str, run: str, stage: str, artifact: Artifact, scratch: Path) -> str:
    """Log the artifact's model as an output of the MLflow run ``run``; the model's id."""
    digest = artifact.manifest.digest
    query = f"source_run_id = '{run}' AND tags.`{_DIGEST}` = '{digest}'"
    found = client.search_logged_models([experiment], query)
    if found:  # by an attempt that was killed before it could save the id
        model = found[0]
    else:
        model = client.create_logged_model(
            experiment, stage, source_run_id=run, tags={_DIGEST: digest}, model_type="open_clip"
        )
    folder = scratch / "model"
    folder.mkdir()
    for path in model_files(artifact):
        shutil.copy(artifact.local(path, scratch), folder)
    client.log_model_artifacts(model.model_id, str(folder))
    client.finalize_logged_model(model.model_id, "READY")
    return str(model.model_id)


def find_model(client: MlflowClient, experiment: str, digest: str) -> str | None:
    """The id of the experiment's logged model of the artifact with that digest; None if there is none."""
    found = client.search_logged_models([experiment], f"tags.`{_DIGEST}` = '{digest}'")
    return str(found[0].model_id) if found else None


def scores_of(points: Sequence[Metric], model: str, dataset: Dataset, run: str) -> list[Metric]:
    """``points`` of a run as scores of a logged model on a data set: MLflow shows them on the model's page, too."""
    tied = {"model_id": model, "dataset_name": dataset.name, "dataset_digest": dataset.digest, "run_id": run}
    return [Metric(point.key, point.value, point.timestamp, point.step, **tied) for point in points]


def add_output(client: MlflowClient, run: str, model: str) -> None:
    """List the model among the outputs of the MLflow run, once."""
    outputs = client.get_run(run).outputs
    if outputs is None or model not in [known.model_id for known in outputs.model_outputs]:
        client.log_outputs(run, [LoggedModelOutput(model, step=0)])


def register_model(client: MlflowClient, uri: str, event: Gate, model: str, run: str) -> None:
    """Make the logged model a version of the gate's registered model and set the alias; one version per artifact.

    ``uri`` is the client's tracking URI, ``run`` the MLflow run that made the model.
    """
    _create_registered(client, event.name)
    versions: list[Any] = list(client.search_model_versions(f"name = '{event.name}'"))
    version = next((known.version for known in versions if known.tags.get(_DIGEST) == event.digest), None)
    if version is None:
        # A database resolves models:/... in MLflow's global store, so that has to be this one meanwhile.
        with environment("MLFLOW_TRACKING_URI", uri):
            version = client.create_model_version(
                event.name, f"models:/{model}", run, tags={_DIGEST: event.digest}, model_id=model
            ).version
    client.set_registered_model_alias(event.name, event.alias, version)


def champion(address: Address, name: str, alias: str) -> str | None:
    """Digest of the artifact whose model has the alias; None if none has. Raises StorageError without an answer."""
    try:
        version = open_client(address).get_model_version_by_alias(name, alias)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise StorageError(
            f"the model registry does not say which is the {alias} of {name}", found=str(error)
        ) from error
    if _DIGEST not in version.tags:
        raise StorageError(
            f"the {alias} of {name} was not registered by clipline",
            expected=f"a tag {_DIGEST} of version {version.version}",
        )
    return str(version.tags[_DIGEST])


def registered(address: Address) -> dict[str, str]:
    """Digests of the artifacts whose models are registered at ``address``, each with a name of its version.

    Raises StorageError if MLflow does not say.
    """
    digests: dict[str, str] = {}
    token = None
    try:
        client = open_client(address)
        while True:
            page = client.search_model_versions(max_results=1000, page_token=token)
            digests |= {one.tags[_DIGEST]: f"{one.name} {one.version}" for one in page if _DIGEST in one.tags}
            token = page.token
            if not token:
                return digests
    except (MlflowException, OSError) as error:
        raise StorageError(
            f"MLflow at {redact(address.uri)} does not say which models are registered", found=str(error)[:300]
        ) from error


def _create_registered(client: MlflowClient, name: str) -> None:
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
