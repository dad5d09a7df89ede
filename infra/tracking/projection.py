"""Projection of events into MLflow: a parent run, a child run per stage, curves, figures, data sets, models.

Applying an event twice changes nothing: runs are found by clipline's own tags, parameters are equal, and steps that are
there already are skipped. An event that MLflow will never accept is logged, counted and skipped.
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param
from mlflow.exceptions import MlflowException

from infra.config import flatten
from infra.errors import redact, redact_values
from infra.events import (
    Collapsed,
    Event,
    Gate,
    Metrics,
    RunArtifact,
    RunFinished,
    RunStarted,
    StageCached,
    StageFailed,
    StageFile,
    StageFinished,
    StageStarted,
)
from infra.run.manifest import Artifact
from infra.store import LocalStore, Store, open_store
from infra.tracking.address import Address
from infra.tracking.client import allowed_name, is_refusal, open_client, parameter
from infra.tracking.curves import Curves
from infra.tracking.models import add_output, find_model, log_model, model_files, register_model, scores_of
from infra.tracking.state import State

__all__ = ["Projection"]

log = logging.getLogger(__name__)

_RUN, _STAGE = "clipline.run", "clipline.stage"  # tags by which MLflow runs are found again
_SMALL = 1 << 20  # bytes: results up to this size are copied into MLflow
_PROJECTED = (
    RunStarted,
    StageStarted,
    StageCached,
    StageFinished,
    StageFailed,
    StageFile,
    Gate,
    RunArtifact,
    RunFinished,
    Collapsed,
)


class Projection:
    """Sends the events of one run. ``state`` is updated as MLflow runs and models are made."""

    def __init__(self, address: Address, experiment: str, root: Store, folder: Store, state: State) -> None:
        self._root, self._folder, self._state = root, folder, state
        self._client, self._uri = open_client(address), address.uri
        self._curves = Curves(self._client)
        found = self._client.get_experiment_by_name(experiment)
        if found is None:
            # The tag has the UI show the experiment as training, with runs and curves, not as traces of an agent.
            kind = {"mlflow.experimentKind": "custom_model_development"}
            state.experiment = self._client.create_experiment(experiment, address.artifacts, tags=kind)
        else:
            state.experiment = found.experiment_id
            if found.lifecycle_stage == "deleted":  # its name stays taken, so a new one cannot be made
                self._client.restore_experiment(found.experiment_id)

    def has(self, run: str) -> bool:
        """True if MLflow has a run of that id."""
        try:
            self._client.get_run(run)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return False
        return True

    def apply(self, events: Iterable[Event]) -> None:
        """Send ``events`` in order. Raises errors that may not recur when the events are sent again."""
        points: dict[str, list[Metric]] = defaultdict(list)  # by stage: neighbouring points are sent in one request
        for event in events:
            with self._skip_if_refused(event.kind, event.stage):
                if isinstance(event, Metrics):
                    run = self._child(event.stage)
                    points[event.stage] += self._curves.new_points(run, event.values, event.step, event.time)
                elif isinstance(event, _PROJECTED):
                    self._log_points(points)
                    self._send(event)
        self._log_points(points)

    def _send(self, event: Event) -> None:
        match event:
            case RunStarted():
                self._run_started(event)
            case StageStarted():
                self._stage_started(event)
            case StageCached() | StageFinished():
                self._stage_finished(event)
            case StageFailed():
                self._stage_failed(event)
            case StageFile():
                self._log_file(self._child(event.stage), open_store(event.folder), event.path)
            case Collapsed():
                self._client.set_tag(self._child(event.stage), f"clipline.collapsed.{event.sign}", event.message)
            case Gate():
                self._gate(event)
            case RunArtifact():
                self._log_file(self._state.parent, self._folder, event.path)
            case RunFinished():
                self._run_finished(event)

    @contextmanager
    def _skip_if_refused(self, kind: str, stage: str) -> Iterator[None]:
        """Log, count and skip what MLflow will never accept, or it would hold up all that follows."""
        try:
            yield
        except Exception as error:
            if not is_refusal(error):
                raise
            reason = redact(f"{type(error).__name__}: {error}")
            log.warning("MLflow does not get the event %s of %s: %s", kind, stage or "the run", reason)
            self._state.refused += 1

    # --- the run

    def _run_started(self, event: RunStarted) -> None:
        tags = {"mlflow.source.name": event.recipe}
        if event.commit:
            tags["mlflow.source.git.commit"] = event.commit
        self._state.parent = self._find_or_create({_RUN: event.run, _STAGE: ""}, event.run, tags)
        self._client.update_run(self._state.parent, status="RUNNING")
        if event.sweep:
            whole = self._find_or_create({_RUN: event.sweep, _STAGE: ""}, event.sweep, {})
            self._client.set_tag(self._state.parent, "mlflow.parentRunId", whole)
        # Tags, not parameters: resuming with other workers or time limits is the same run.
        self._client.set_tag(self._state.parent, "clipline.recipe", event.recipe)
        self._client.set_tag(self._state.parent, "clipline.settings", event.settings)

    def _gate(self, event: Gate) -> None:
        self._client.set_tag(self._state.parent, "clipline.gate", json.dumps(event.checks))
        model = self._state.models.get(event.model)
        if event.passed and model is not None:
            register_model(self._client, self._uri, event, model, self._child(event.model))

    def _run_finished(self, event: RunFinished) -> None:
        if event.note:
            self._client.set_tag(self._state.parent, "mlflow.note.content", event.note)
        status = {"done": "FINISHED", "preempted": "KILLED"}.get(event.status, "FAILED")
        self._client.set_terminated(self._state.parent, status)

    # --- a stage

    def _stage_started(self, event: StageStarted) -> None:
        if event.forced and (old := self._state.children.pop(event.stage, None)):
            # Metrics append and never overwrite, so a forced re-run gets a page of its own.
            self._client.set_tag(old, _STAGE, f"{event.stage} (superseded)")
            self._state.models.pop(event.stage, None)
        self._open(event.stage, event.digest, event.config)
        self._client.update_run(self._child(event.stage), status="RUNNING")

    def _stage_failed(self, event: StageFailed) -> None:
        if run := self._state.children.get(event.stage):
            self._client.set_tag(run, "clipline.error", event.error[:5000])
            self._client.set_terminated(run, "KILLED" if event.preempted else "FAILED")

    def _stage_finished(self, event: StageCached | StageFinished) -> None:
        artifact = Artifact.load(self._root.child(event.folder))
        manifest = artifact.manifest
        self._open(event.stage, manifest.digest, manifest.config)
        run = self._child(event.stage)
        # The manifest's numbers, on the stage's own page and, with its name, on the run's.
        values = _funnel_metrics(artifact)
        if isinstance(event, StageFinished):
            values["seconds"] = event.seconds
        points = self._curves.new_points(run, values, 0, event.time)
        scores = self._curves.new_points(run, manifest.metrics, 0, event.time)
        self._log_points({event.stage: [*points, *self._tied(run, scores, event.inputs)]})
        headline = {f"{event.stage}.{key}": value for key, value in manifest.metrics.items()}
        parent = self._state.parent
        self._curves.log(parent, self._curves.new_points(parent, headline, 0, event.time))
        self._client.set_tag(run, "clipline.cached", str(isinstance(event, StageCached)).lower())
        # What it was made from and what it made.
        self._log_inputs(run, event.inputs)
        with tempfile.TemporaryDirectory() as scratch:
            self._log_files(run, artifact, Path(scratch))
            if model_files(artifact) and event.stage not in self._state.models:
                self._log_model(run, event, artifact, Path(scratch))
        self._client.set_terminated(run, "FINISHED")

    def _log_model(self, run: str, event: StageCached | StageFinished, artifact: Artifact, scratch: Path) -> None:
        model = log_model(self._client, self._state.experiment, run, event.stage, artifact, scratch)
        self._state.models[event.stage] = model
        # The run's own page, which people open, shows the model and what it was trained on too.
        for page in (run, self._state.parent):
            add_output(self._client, page, model)
        self._log_inputs(self._state.parent, event.inputs)

    def _log_files(self, run: str, artifact: Artifact, scratch: Path) -> None:
        """Copy figures and small results into MLflow."""
        results = [f for f in artifact.files("data/", ".json") if f.path.count("/") == 1 and f.bytes <= _SMALL]
        results = [f for f in results if not f.path.endswith("_stats.json")]
        for file in artifact.files("figures/"):
            self._client.log_artifact(run, str(artifact.local(file.path, scratch)), "figures")
        for file in results:
            self._client.log_artifact(run, str(artifact.local(file.path, scratch)), "results")

    def _tied(self, run: str, scores: list[Metric], inputs: dict[str, str]) -> list[Metric]:
        """``scores`` as those of the logged model that was evaluated on the input ``dataset``, if it is one of ours."""
        if "dataset" not in inputs or not scores:
            return scores
        made_from = {name: Artifact.load(self._root.child(folder)) for name, folder in inputs.items()}
        digest = made_from["model"].manifest.digest if "model" in made_from else None
        if digest is None and "embeddings" in made_from:
            digest = made_from["embeddings"].manifest.identity["inputs"].get("model")
        model = find_model(self._client, self._state.experiment, digest) if digest else None
        return scores_of(scores, model, _dataset(made_from["dataset"]), run) if model else scores

    def _log_inputs(self, run: str, inputs: dict[str, str]) -> None:
        """Log the artifacts in these folders as data sets of the run, under the names of the inputs."""
        datasets = []
        for name, folder in inputs.items():
            dataset = _dataset(Artifact.load(self._root.child(folder)))
            datasets.append(DatasetInput(dataset, [InputTag("mlflow.data.context", name)]))
        if datasets:
            self._client.log_inputs(run, datasets)

    # --- MLflow runs

    def _child(self, stage: str) -> str:
        """Id of the MLflow run of a stage. Raises KeyError if the stage has not started."""
        return self._state.children[stage]

    def _open(self, stage: str, digest: str, config: dict[str, Any]) -> None:
        """Find or create the child run of a stage within this run, and log its configuration."""
        tags = {"mlflow.parentRunId": self._state.parent, "clipline.digest": digest}
        key = {_RUN: self._folder.url.rstrip("/").rpartition("/")[2], _STAGE: stage}
        run = self._state.children[stage] = self._find_or_create(key, stage, tags)
        params = [Param(allowed_name(k), parameter(v)[:6000]) for k, v in flatten(redact_values(config)).items()]
        for start in range(0, len(params), 100):  # the most one request may hold
            self._client.log_batch(run, params=params[start : start + 100])

    def _find_or_create(self, key: dict[str, str], name: str, tags: dict[str, str]) -> str:
        """Id of the MLflow run with the tags ``key``; if there is none it is created, with ``tags`` added."""
        query = " and ".join(f"tags.`{tag}` = '{value}'" for tag, value in key.items())
        found = self._client.search_runs([self._state.experiment], query, max_results=1)
        if found:
            return str(found[0].info.run_id)
        run = self._client.create_run(self._state.experiment, tags={**tags, **key}, run_name=name)
        return str(run.info.run_id)

    def _log_points(self, points: dict[str, list[Metric]]) -> None:
        while points:
            stage, metrics = points.popitem()
            with self._skip_if_refused(Metrics.KIND, stage):
                self._curves.log(self._child(stage), metrics)

    def _log_file(self, run: str, store: Store, path: str) -> None:
        with tempfile.TemporaryDirectory() as scratch:
            self._client.log_artifact(run, str(store.fetch(path, Path(scratch))), path.rpartition("/")[0] or None)


def _dataset(source: Artifact) -> Dataset:
    manifest = source.manifest
    profile = {"rows": manifest.rows, "files": manifest.file_count, "bytes": manifest.size}
    return Dataset(
        name=manifest.stage,
        digest=manifest.content_digest[:12],
        source_type="local" if isinstance(source.store, LocalStore) else "uri",
        source=json.dumps({"uri": source.store.url}),
        profile=json.dumps(profile),
    )


def _funnel_metrics(artifact: Artifact) -> dict[str, float]:
    funnel = artifact.manifest.funnel
    if funnel is None:
        return {}
    dropped = {f"dropped.{reason}": float(count) for reason, count in funnel.dropped.items()}
    return {"entered": float(funnel.entered), "kept": float(funnel.kept), **dropped}
