"""Projection of events into MLflow: a parent run, a child run per stage, curves, images, tables, data sets, models.

Applying an event twice changes nothing: runs are found by clipline's own tags, parameters are equal, and steps that are
there already are skipped. An event that MLflow will never accept is logged, counted and skipped.
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric

from infra.errors import redact
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
    StageImage,
    StageStarted,
)
from infra.run.lineage import model_of
from infra.run.manifest import Artifact
from infra.store import LocalStore, Store, open_store
from infra.tracking.address import Address
from infra.tracking.client import is_refusal, open_client
from infra.tracking.curves import Curves
from infra.tracking.files import Files
from infra.tracking.models import (
    Snapshot,
    add_output,
    describe_gate,
    find_model,
    log_model,
    register_model,
    scores_of,
    snapshots,
)
from infra.tracking.runs import Runs, open_experiment
from infra.tracking.state import Deleted, State

__all__ = ["Projection"]

log = logging.getLogger(__name__)

_PROJECTED = (
    RunStarted,
    StageStarted,
    StageCached,
    StageFinished,
    StageFailed,
    StageFile,
    StageImage,
    Gate,
    RunArtifact,
    RunFinished,
    Collapsed,
)


class Projection:
    """Sends the events of one run. ``state`` is updated as MLflow runs and models are made."""

    def __init__(self, address: Address, experiment: str, root: Store, folder: Store, state: State) -> None:
        self._address, self._root, self._folder, self._state = address, root, folder, state
        self._client = open_client(address)
        self._curves, self._files = Curves(self._client), Files(self._client)
        state.experiment = open_experiment(self._client, experiment, address.artifacts)
        self._runs = Runs(self._client, root, folder, state)

    def restore(self) -> bool:
        """Restore what somebody deleted of this run in MLflow; False if some of it is gone for good."""
        return self._runs.restore()

    def apply(self, events: Iterable[Event]) -> None:
        """Send ``events`` in order. Raises errors that may not recur when the events are sent again."""
        points: dict[str, list[Metric]] = defaultdict(list)  # by stage: neighbouring points are sent in one request
        for event in events:
            with self._skip_if_refused(event.kind, event.stage):
                if isinstance(event, Metrics):
                    run = self._runs.child(event.stage)
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
                self._log_file(self._runs.child(event.stage), open_store(event.folder), event.path)
            case StageImage():
                self._log_image(event)
            case Collapsed():
                self._client.set_tag(self._runs.child(event.stage), f"clipline.collapsed.{event.sign}", event.message)
            case Gate():
                self._gate(event)
            case RunArtifact():
                self._log_file(self._state.parent, self._folder, event.path)
            case RunFinished():
                self._run_finished(event)

    @contextmanager
    def _skip_if_refused(self, kind: str, stage: str) -> Iterator[None]:
        """Log, count and skip what MLflow will never accept, or it would hold up all that follows.

        Raises Deleted if it was not accepted because somebody deleted the run: once restored, it will be.
        """
        try:
            yield
        except Exception as error:
            if not is_refusal(error):
                raise
            if self._runs.any_deleted():
                raise Deleted from error
            reason = redact(f"{type(error).__name__}: {error}")
            log.warning("MLflow does not get the event %s of %s: %s", kind, stage or "the run", reason)
            self._state.refused += 1

    # --- the run

    def _run_started(self, event: RunStarted) -> None:
        # Tags, not parameters: resuming with other workers or time limits is the same run.
        tags = {
            "mlflow.source.name": event.recipe,
            "clipline.recipe": event.recipe,
            "clipline.settings": event.settings[:5000],
        }
        if event.commit:
            tags["mlflow.source.git.commit"] = event.commit
        if self._runs.open_parent(event.run, tags, event.parameters, event.sweep):
            self._curves.begin(self._state.parent)
        self._state.headline = event.headline
        self._state.parameters = event.parameters

    def _gate(self, event: Gate) -> None:
        """Note how the gate's checks went, and register the model if all passed."""
        parent = self._state.parent
        found = {check["metric"]: check["found"] for check in event.checks if check.get("found") is not None}
        self._curves.log(parent, self._curves.new_points(parent, found, 0, event.time))
        tags = {"gate": "passed" if event.passed else "failed", "clipline.gate": json.dumps(event.checks)}
        model = self._state.models.get(event.model)
        if event.passed and model is not None:
            run, page = self._runs.child(event.model), self._address.page(self._state.experiment, parent)
            version = register_model(self._client, self._address.uri, event, model, run, page)
            tags["registered model"] = f"{event.name} version {version}, {event.alias}"
        for key, value in tags.items():
            self._client.set_tag(parent, key, value)
        self._state.gate = describe_gate(event)

    def _run_finished(self, event: RunFinished) -> None:
        if note := "\n\n".join(filter(None, (self._state.gate, event.note))):
            self._client.set_tag(self._state.parent, "mlflow.note.content", note)
        status = {"done": "FINISHED", "preempted": "KILLED"}.get(event.status, "FAILED")
        self._client.set_terminated(self._state.parent, status)

    # --- a stage

    def _stage_started(self, event: StageStarted) -> None:
        if event.forced:
            self._runs.supersede(event.stage)
        if not self._open_child(event.stage, event.digest, event.config):
            self._client.update_run(self._runs.child(event.stage), status="RUNNING")

    def _open_child(self, stage: str, digest: str, config: Mapping[str, object], *, cached: bool = False) -> bool:
        """Find or create the MLflow run of a stage; True if it is new."""
        new = self._runs.open_child(stage, digest, config, cached=cached)
        if new:
            self._curves.begin(self._runs.child(stage))
        return new

    def _stage_failed(self, event: StageFailed) -> None:
        if run := self._state.children.get(event.stage):
            self._client.set_tag(run, "clipline.error", event.error[:5000])
            self._client.set_terminated(run, "KILLED" if event.preempted else "FAILED")

    def _stage_finished(self, event: StageCached | StageFinished) -> None:
        artifact = Artifact.load(self._root.child(event.folder))
        inputs = {name: Artifact.load(self._root.child(folder)) for name, folder in event.inputs.items()}
        manifest = artifact.manifest
        self._open_child(event.stage, manifest.digest, manifest.config, cached=isinstance(event, StageCached))
        run = self._runs.child(event.stage)
        # The manifest's numbers, on the stage's own page; the main one, where it speaks for the run, on the run's.
        values = _funnel_metrics(artifact)
        if isinstance(event, StageFinished):
            values["seconds"] = event.seconds
        points = self._curves.new_points(run, values, 0, event.time)
        scores = self._curves.new_points(run, manifest.metrics, 0, event.time)
        self._log_points({event.stage: [*points, *self._tied(run, scores, artifact, inputs)]})
        main = manifest.facts.get("main")
        if event.stage in self._state.headline and main in manifest.metrics:
            parent, headline = self._state.parent, {f"{event.stage}.{main}": manifest.metrics[main]}
            self._curves.log(parent, self._curves.new_points(parent, headline, 0, event.time))
        # What it was made from and what it made.
        self._log_inputs(run, inputs)
        with tempfile.TemporaryDirectory() as scratch:
            self._files.log_results(run, artifact, Path(scratch))
        if event.stage not in self._state.models:
            for snapshot in snapshots(artifact):
                self._log_model(run, event, snapshot, inputs)
        self._client.set_terminated(run, "FINISHED")

    def _log_model(
        self, run: str, event: StageCached | StageFinished, model: Snapshot, inputs: Mapping[str, Artifact]
    ) -> None:
        """Log the stage's model, or a checkpoint it kept, with its scores on the sets it was validated on."""
        prefix = f"{event.stage}."
        params = {k.removeprefix(prefix): v for k, v in self._state.parameters.items() if k.startswith(prefix)}
        name = event.stage if model.samples is None else f"{event.stage}-{model.samples}"
        logged = log_model(self._client, self._state.experiment, run, name, model, params)
        # The run's own page, which people open, shows the model and what it was trained on too.
        for page in (run, self._state.parent):
            add_output(self._client, page, logged, model.samples or 0)
        if model.samples is None:
            self._state.models[event.stage] = logged
            self._log_inputs(self._state.parent, inputs)
        elif "tests" in inputs:
            # The same points again, which MLflow keeps once, but now as the model's.
            curves = {f"validation/{name}": value for name, value in (model.scores or {}).items()}
            points = self._curves.points_at(run, curves, model.samples, event.time)
            for point in points:
                dataset = _dataset(inputs["tests"], point.key.removeprefix("validation/").rpartition("/")[0])
                self._curves.log(run, scores_of([point], logged, dataset, run))

    def _tied(
        self, run: str, scores: list[Metric], evaluation: Artifact, inputs: Mapping[str, Artifact]
    ) -> list[Metric]:
        """``scores`` as those of the logged model that was evaluated on the input ``dataset``, if it is one of ours."""
        digest = model_of(self._root, evaluation.manifest) if "dataset" in inputs and scores else None
        if digest is None:
            return scores
        own = list(self._state.models.values())
        model = find_model(self._client, self._state.experiment, digest, own)
        task = evaluation.manifest.config.get("task")
        dataset = _dataset(inputs["dataset"], task["dataset"] if isinstance(task, dict) else "")
        return scores_of(scores, model, dataset, run) if model else scores

    def _log_inputs(self, run: str, inputs: Mapping[str, Artifact]) -> None:
        """Log artifacts as data sets of the run, under the names of the inputs."""
        datasets = [
            DatasetInput(_dataset(artifact), [InputTag("mlflow.data.context", name)])
            for name, artifact in inputs.items()
        ]
        if datasets:
            self._client.log_inputs(run, datasets)

    # --- points and files

    def _log_points(self, points: dict[str, list[Metric]]) -> None:
        while points:
            stage, metrics = points.popitem()
            with self._skip_if_refused(Metrics.KIND, stage):
                self._curves.log(self._runs.child(stage), metrics)

    def _log_file(self, run: str, store: Store, path: str) -> None:
        with tempfile.TemporaryDirectory() as scratch:
            self._client.log_artifact(run, str(store.fetch(path, Path(scratch))), path.rpartition("/")[0] or None)

    def _log_image(self, event: StageImage) -> None:
        with tempfile.TemporaryDirectory() as scratch:
            path = open_store(event.folder).fetch(event.path, Path(scratch))
            self._files.log_image(self._runs.child(event.stage), event.name, event.step, event.time, path)


def _dataset(source: Artifact, name: str = "") -> Dataset:
    """An artifact as MLflow's data set, or the test set called ``name`` in it."""
    manifest = source.manifest
    profile = {"rows": manifest.rows, "files": manifest.file_count, "bytes": manifest.size}
    return Dataset(
        name=name or manifest.stage,
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
