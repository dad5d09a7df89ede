"""Models in MLflow: a stage's model and the checkpoints it kept as logged models; registration when the gate passes.

``models:/NAME@ALIAS`` then loads with open_clip. Both are found again by a tag with the artifact's digest, so that
sending an event twice makes neither a second model nor a second version.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
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
from infra.tracking.client import allowed_name, environment, is_missing, open_client, parameter

__all__ = [
    "Snapshot",
    "add_output",
    "champion",
    "describe_gate",
    "find_model",
    "log_model",
    "register_model",
    "registered",
    "scores_of",
    "snapshots",
]

_DIGEST = "clipline.artifact"


@dataclass(frozen=True)
class Snapshot:
    """A model's open_clip folder at ``samples`` seen; ``scores`` are those of validation, ``{set}/{metric}``.

    ``samples`` None: the stage's own model, the end of it.
    """

    artifact: Artifact
    paths: list[str]
    samples: int | None = None
    scores: Mapping[str, float] | None = None

    @property
    def tag(self) -> str:
        """A name for what it holds."""
        digest = self.artifact.manifest.digest
        return digest if self.samples is None else f"{digest}/{self.samples}"


def snapshots(artifact: Artifact) -> Iterator[Snapshot]:
    """The artifact's model and the checkpoints that are kept with it; nothing if it holds no model."""
    paths = _model_paths([file.path for file in artifact.files("data/")], "data/")
    if paths:
        yield Snapshot(artifact, paths)
    for kept in artifact.manifest.facts.get("checkpoints", []):
        if found := _model_paths(artifact.store.paths(kept["folder"]), f"{kept['folder']}/"):
            yield Snapshot(artifact, found, kept["samples"], kept["scores"])


def _model_paths(paths: Sequence[str], folder: str) -> list[str]:
    """Those of ``paths`` that are an open_clip folder at ``folder``, with its tokenizer; empty if it holds no model."""
    model = [path for path in paths if path.startswith(f"{folder}open_clip_")]
    return model and model + [path for path in paths if TOKENIZER.fullmatch(path.removeprefix(folder))]


def log_model(
    client: MlflowClient, experiment: str, run: str, name: str, model: Snapshot, params: Mapping[str, object]
) -> str:
    """Log a model as one that the MLflow run ``run`` made; its id."""
    query = f"source_run_id = '{run}' AND tags.`{_DIGEST}` = '{model.tag}'"
    found = client.search_logged_models([experiment], query)
    if found:  # by an attempt that was killed before it could save the id
        logged = found[0]
    else:
        logged = client.create_logged_model(
            experiment,
            name,
            source_run_id=run,
            tags={_DIGEST: model.tag},
            params={allowed_name(key): parameter(value) for key, value in params.items()},
            model_type="open_clip",
        )
    if str(logged.status) != "READY":
        _upload(client, logged.model_id, model)
        client.finalize_logged_model(logged.model_id, "READY")
    return str(logged.model_id)


def _upload(client: MlflowClient, model_id: str, model: Snapshot) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "model")
        folder.mkdir()
        for path in model.paths:
            local = model.artifact.local(path, Path(scratch))
            (folder / local.name).symlink_to(local.absolute())
        client.log_model_artifacts(model_id, str(folder))


def find_model(client: MlflowClient, experiment: str, digest: str, preferred: Sequence[str]) -> str | None:
    """The id of the experiment's logged model of the artifact with that digest; None if there is none.

    Runs that share an artifact have a logged model each: one of ``preferred`` comes first.
    """
    found = [str(one.model_id) for one in client.search_logged_models([experiment], f"tags.`{_DIGEST}` = '{digest}'")]
    return next((one for one in found if one in preferred), found[0] if found else None)


def scores_of(points: Sequence[Metric], model: str, dataset: Dataset, run: str) -> list[Metric]:
    """``points`` of a run as scores of a logged model on a data set: MLflow shows them on the model's page, too."""
    tied = {"model_id": model, "dataset_name": dataset.name, "dataset_digest": dataset.digest, "run_id": run}
    return [Metric(point.key, point.value, point.timestamp, point.step, **tied) for point in points]


def add_output(client: MlflowClient, run: str, model: str, step: int = 0) -> None:
    """List the model, as it was at ``step``, among the outputs of the MLflow run, once."""
    outputs = client.get_run(run).outputs
    if outputs is None or model not in [known.model_id for known in outputs.model_outputs]:
        client.log_outputs(run, [LoggedModelOutput(model, step=step)])


def register_model(client: MlflowClient, uri: str, event: Gate, model: str, run: str, page: str) -> str:
    """Make the logged model a version of the gate's registered model and set the alias; one version per artifact.

    ``uri`` is the client's tracking URI, ``run`` the MLflow run that made the model, ``page`` the address of clipline's
    whole run. Returns the version.
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
    description = f"The model of stage `{event.model}` of [this run]({page}).\n\n{describe_gate(event)}"
    client.update_model_version(event.name, version, description)
    for key, value in {"gate": "passed", **_found(event)}.items():
        client.set_model_version_tag(event.name, version, key, value)
    client.set_registered_model_alias(event.name, event.alias, version)
    return str(version)


def describe_gate(event: Gate) -> str:
    """The gate's conditions as a Markdown table."""
    rows = ["| metric | found | wanted | |", "|---|---:|---|---|"]
    for check in event.checks:
        found, bound = check.get("found"), check.get("at_least")
        wanted = f"at least {bound:g}" if bound is not None else f"better than the {event.alias}"
        value = "none" if found is None else f"{found:.4g}"
        rows.append(f"| {check['metric']} | {value} | {wanted} | {'passed' if check['passed'] else 'failed'} |")
    return "\n".join(rows)


def _found(event: Gate) -> dict[str, str]:
    found = {check["metric"]: check.get("found") for check in event.checks}
    return {allowed_name(metric): f"{value:.6g}" for metric, value in found.items() if value is not None}


def champion(address: Address, name: str, alias: str) -> str | None:
    """Digest of the artifact whose model has the alias; None if none has. Raises StorageError without an answer."""
    try:
        version = open_client(address).get_model_version_by_alias(name, alias)
    except MlflowException as error:
        if is_missing(error):
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
