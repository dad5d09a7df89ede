"""A run's journal, projected into MLflow: a parent run, a child per stage, curves, pictures, datasets, models.

The only file that imports mlflow. The journal on disk is the spool: a thread reads it from a saved position and sends
what it finds, so an outage of the server costs a warning and some patience, never a stage, and whatever was not sent
is sent by the next run, ``clipline resume`` or ``clipline sync``. Sending an event twice changes nothing: runs are
found by our own tags, parameters are equal, and steps that are there already are skipped. An event MLflow will never
accept is reported, counted and passed over.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shlex
import shutil
import tempfile
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra.config import canonical_json, flatten
from infra.errors import TransientError, redact
from infra.run.context import Event
from infra.run.manifest import Artifact
from infra.store.storage import LocalStore, Store, open_store

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

__all__ = ["Address", "Tracker"]

log = logging.getLogger(__name__)

ReadJournal = Callable[[int], tuple[list[Event], int]]

_RUN, _STAGE, _STAMP = "clipline.run", "clipline.stage", "clipline.artifact"
_SMALL = 1 << 20  # bytes: results up to this size are copied into MLflow


@dataclass(frozen=True)
class Address:
    """Where a run's MLflow is. Without ``MLFLOW_TRACKING_URI``: an sqlite file below the root, never ``./mlruns``."""

    uri: str
    artifacts: str | None = None

    @classmethod
    def find(cls, root: Store) -> Address:
        if uri := os.environ.get("MLFLOW_TRACKING_URI"):
            # MLflow would put the artifacts of a database into ./mlruns, wherever that is today.
            beside = Path(uri.removeprefix("sqlite:///")).absolute().parent / "mlartifacts"
            return cls(uri, str(beside) if uri.startswith("sqlite:///") else None)
        folder = root.root if isinstance(root, LocalStore) else Path(".clipline").absolute()
        return cls(f"sqlite:///{folder}/mlflow.db", f"{folder}/mlartifacts")

    @property
    def ui_command(self) -> str | None:
        """What to type to see it; None if a server already shows it."""
        if self.uri.startswith("http"):
            return None
        return f"mlflow server --backend-store-uri {shlex.quote(redact(self.uri))} --workers 1 --port 5000"

    def page(self, experiment: str, run: str) -> str:
        """Without its query MLflow 3 would show the run among judges, prompts and sessions of an agent."""
        base = re.sub("(?<=://)[^/]*@", "", self.uri) if self.uri.startswith("http") else "http://127.0.0.1:5000"
        return f"{base.rstrip('/')}/#/experiments/{experiment}/runs/{run}?workflowType=machine_learning"


@dataclass
class _State:
    """What of the journal has reached MLflow, and which; saved in the run's folder after every batch."""

    uri: str
    position: int = 0
    experiment: str = ""
    parent: str = ""
    children: dict[str, str] = field(default_factory=dict)
    models: dict[str, str] = field(default_factory=dict)
    refused: int = 0


class Tracker:
    """Follows one run's journal. ``folder`` is the run's folder, ``root`` where the artifacts are.

    ``read`` is ``Journal.read``. Errors never leave the thread; ``degraded`` says why the last
    attempt failed (empty: it did not), and :meth:`close` returns whether everything was sent.
    """

    PATH = "tracking.json"
    INTERVAL_S = 1.0

    def __init__(self, address: Address, experiment: str, root: Store, folder: Store, read: ReadJournal) -> None:
        self._address, self._experiment, self._root, self._folder, self._read = address, experiment, root, folder, read
        self._state = self._saved()
        self._projection: _Projection | None = None
        self._closing = threading.Event()
        self._drained = threading.Event()
        self.degraded = ""
        self._thread = threading.Thread(target=self._run, name="clipline-tracking", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self, timeout_s: float = 60.0) -> bool:
        """Send what is left, for at most ``timeout_s``; True if all of the journal was sent.

        A tracker that was never started sends nothing: whoever waits to hear that a port is taken need not wait for
        MLflow to be imported. The next run sends it.
        """
        self._closing.set()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        return self._drained.is_set()

    @property
    def refused(self) -> int:
        """Events of this run that MLflow will never accept; a warning named each."""
        return self._state.refused

    @property
    def page(self) -> str | None:
        """The run's page in the MLflow UI, once it exists."""
        return self._address.page(self._state.experiment, self._state.parent) if self._state.parent else None

    def _saved(self) -> _State:
        """What was sent before; nothing, if it was sent elsewhere."""
        uri = redact(self._address.uri)
        if self._folder.exists(self.PATH):
            values = json.loads(self._folder.read(self.PATH))
            if values.get("uri") == uri:
                return _State(**{key: value for key, value in values.items() if key in vars(_State(uri))})
        return _State(uri)

    def _run(self) -> None:
        # MLflow's own client would retry for minutes with nobody told; the journal keeps everything meanwhile.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
        logging.getLogger("alembic").setLevel(logging.WARNING)
        logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # an outage is told once, below
        pause = self.INTERVAL_S
        while True:
            closing = self._closing.is_set()  # before reading: what was written by then must still be sent
            try:
                more = self._send()
                pause, self.degraded = self.INTERVAL_S, ""
            except Exception as error:  # noqa: BLE001 - whatever ails tracking, stages go on and close() tells
                self._projection = None  # what was sent in part is looked up again
                message = redact(str(error)) or type(error).__name__
                if not self.degraded:
                    log.warning("MLflow cannot be reached; the run goes on, its journal is sent later: %s", message)
                self.degraded = message
                pause, more = min(30.0, pause * 2), True
                if closing:
                    return
            if closing and not more:
                self._drained.set()
                return
            self._closing.wait(pause)

    def _send(self) -> bool:
        """Send one batch; True if there was one."""
        if self._projection is None:
            self._state = self._saved()
            self._projection = self._connect()
            if self._state.parent and not self._projection.has(self._state.parent):  # somebody removed the database
                self._state = _State(self._state.uri)
                self._projection = self._connect()
        events, position = self._read(self._state.position)
        if not events:
            return False
        self._projection.apply(events)
        self._state.position = position
        self._folder.write(self.PATH, json.dumps(vars(self._state)).encode())
        return True

    def _connect(self) -> _Projection:
        return _Projection(self._address, self._experiment, self._root, self._folder, self._state)


class _Projection:
    """What each event means in MLflow."""

    def __init__(self, address: Address, experiment: str, root: Store, folder: Store, state: _State) -> None:
        self._root, self._folder, self._state = root, folder, state
        self._last_step: dict[tuple[str, str], int] = {}
        self._client, self._uri = _client(address), address.uri
        found = self._client.get_experiment_by_name(experiment)
        if found is None:
            # The tag has the UI show the experiment as training, with runs and curves, not as traces of an agent.
            kind = {"mlflow.experimentKind": "custom_model_development"}
            state.experiment = self._client.create_experiment(experiment, address.artifacts, tags=kind)
        else:
            state.experiment = found.experiment_id
            if found.lifecycle_stage == "deleted":  # its name stays taken, so there is no starting anew
                self._client.restore_experiment(found.experiment_id)

    def has(self, run: str) -> bool:
        from mlflow.exceptions import MlflowException

        try:
            self._client.get_run(run)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return False
        return True

    def apply(self, events: Iterable[Event]) -> None:
        points: dict[str, list[Metric]] = defaultdict(list)
        for event in events:
            with self._passing_over(event):
                if event["event"] == "metrics":
                    points[event["stage"]] += self._new_points(event)
                elif handle := getattr(self, f"_on_{event['event']}", None):
                    self._log_points(points)
                    handle(event)
        self._log_points(points)

    @contextmanager
    def _passing_over(self, event: Event) -> Iterator[None]:
        """Report and drop what cannot be sent however often one tries, or it would hold up all that follows."""
        try:
            yield
        except Exception as error:
            if _may_pass(error):
                raise
            where, what = event.get("stage", "the run"), redact(f"{type(error).__name__}: {error}")
            log.warning("MLflow does not get the event %s of %s: %s", event["event"], where, what)
            self._state.refused += 1

    # --- curves

    def _new_points(self, event: Event) -> list[Metric]:
        from mlflow.entities import Metric

        run, stamp = self._child(event["stage"]), int(event["time"] * 1000)
        values = {key: value for key, value in event["values"].items() if event["step"] > self._step(run, key)}
        self._last_step.update({(run, key): event["step"] for key in values})
        return [Metric(_name(key), float(value), stamp, event["step"]) for key, value in values.items()]

    def _step(self, run: str, key: str) -> int:
        """The last step of a curve, read once from MLflow: a resumed stage repeats steps that are there already."""
        if (run, key) not in self._last_step:
            history = self._client.get_metric_history(run, _name(key))
            self._last_step[run, key] = max((point.step for point in history), default=-1)
        return self._last_step[run, key]

    def _log_points(self, points: dict[str, list[Metric]]) -> None:
        while points:
            stage, metrics = points.popitem()
            with self._passing_over({"event": "metrics", "stage": stage}):
                for start in range(0, len(metrics), 1000):  # the most one batch may hold
                    self._client.log_batch(self._child(stage), metrics=metrics[start : start + 1000])

    # --- events, by name

    def _on_run_started(self, event: Event) -> None:
        tags = {"mlflow.source.name": event["recipe"]}
        if event.get("commit"):
            tags["mlflow.source.git.commit"] = event["commit"]
        self._state.parent = self._find_or_create({_RUN: event["run"], _STAGE: ""}, event["run"], tags)
        self._client.update_run(self._state.parent, status="RUNNING")
        # Tags, not parameters: resuming with other workers or time limits is the same run.
        for key, value in {"recipe": event["recipe"], **event.get("parameters", {})}.items():
            self._client.set_tag(self._state.parent, f"clipline.{key}", value)

    def _on_stage_started(self, event: Event) -> None:
        if event.get("forced") and (old := self._state.children.pop(event["stage"], None)):
            # Metrics append and never overwrite, so a forced re-run gets a page of its own.
            self._client.set_tag(old, _STAGE, f"{event['stage']} (superseded)")
            self._state.models.pop(event["stage"], None)
        self._open(event["stage"], event["digest"], event["config"])
        self._client.update_run(self._child(event["stage"]), status="RUNNING")

    def _on_stage_cached(self, event: Event) -> None:
        self._on_stage_finished(event)

    def _on_stage_failed(self, event: Event) -> None:
        if run := self._state.children.get(event["stage"]):
            self._client.set_tag(run, "clipline.error", event["error"][:5000])
            self._client.set_terminated(run, "KILLED" if event.get("preempted") else "FAILED")

    def _on_stage_finished(self, event: Event) -> None:
        artifact = Artifact.load(self._root.child(event["folder"]))
        manifest = artifact.manifest
        self._open(event["stage"], manifest.digest, manifest.config)
        run = self._child(event["stage"])
        values = {**manifest.metrics, **_funnel_metrics(artifact)}
        if "seconds" in event:
            values["seconds"] = event["seconds"]
        self._log_points({event["stage"]: self._new_points({**event, "values": values, "step": 0})})
        self._client.set_tag(run, "clipline.cached", str("seconds" not in event).lower())
        self._log_inputs(run, event)
        with tempfile.TemporaryDirectory() as scratch:
            self._log_files(run, artifact, Path(scratch))
            self._log_model(event, artifact, Path(scratch))
        headline = {f"{event['stage']}.{key}": value for key, value in manifest.metrics.items()}
        if headline:
            self._log_once(self._state.parent, headline, event)
        self._client.set_terminated(run, "FINISHED")

    def _on_gate(self, event: Event) -> None:
        """Register the model if it passed; a version per artifact, however often the run is repeated."""
        from mlflow.exceptions import MlflowException

        self._client.set_tag(self._state.parent, "clipline.gate", json.dumps(event["checks"]))
        model = self._state.models.get(event["model"])
        if not event["passed"] or model is None:
            return
        name, stamp = event["name"], event["digest"]
        try:
            self._client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        versions = self._client.search_model_versions(f"name = '{name}'")
        version = next((v.version for v in versions if v.tags.get(_STAMP) == stamp), None)
        if version is None:
            # A database looks for models:/... in MLflow's global store, so that has to be this one meanwhile.
            with _environment("MLFLOW_TRACKING_URI", self._uri):
                created = self._client.create_model_version(
                    name, f"models:/{model}", self._child(event["model"]), tags={_STAMP: stamp}, model_id=model
                )
            version = created.version
        self._client.set_registered_model_alias(name, event["alias"], version)

    def _on_run_artifact(self, event: Event) -> None:
        with tempfile.TemporaryDirectory() as scratch:
            local = self._folder.fetch(event["path"], Path(scratch))
            self._client.log_artifact(self._state.parent, str(local))

    def _on_file(self, event: Event) -> None:
        """A file that a stage wants seen beside its curves, such as a profile."""
        with tempfile.TemporaryDirectory() as scratch:
            local = open_store(event["folder"]).fetch(event["path"], Path(scratch))
            self._client.log_artifact(self._child(event["stage"]), str(local), event["path"].rpartition("/")[0])

    def _on_run_finished(self, event: Event) -> None:
        if note := event.get("note"):
            self._client.set_tag(self._state.parent, "mlflow.note.content", note)
        status = {"done": "FINISHED", "preempted": "KILLED"}.get(event["status"], "FAILED")
        self._client.set_terminated(self._state.parent, status)

    # --- parts

    def _child(self, stage: str) -> str:
        return self._state.children[stage]

    def _open(self, stage: str, stamp: str, config: dict[str, Any]) -> None:
        """The child run of a stage's artifact within this run; a forced re-run replaces its predecessor's."""
        tags = {"mlflow.parentRunId": self._state.parent, "clipline.digest": stamp}
        mine = {_RUN: self._run_name(), _STAGE: stage}
        self._state.children[stage] = self._find_or_create(mine, stage, tags)
        self._log_params(self._child(stage), config)

    def _run_name(self) -> str:
        return self._folder.url.rstrip("/").rpartition("/")[2]

    def _find_or_create(self, mine: dict[str, str], name: str, tags: dict[str, str]) -> str:
        query = " and ".join(f"tags.`{key}` = '{value}'" for key, value in mine.items())
        found = self._client.search_runs([self._state.experiment], query, max_results=1)
        if found:
            return str(found[0].info.run_id)
        run = self._client.create_run(self._state.experiment, tags={**tags, **mine}, run_name=name)
        return str(run.info.run_id)

    def _log_params(self, run: str, params: dict[str, Any]) -> None:
        from mlflow.entities import Param

        items = [Param(_name(key), _text(value)[:6000]) for key, value in flatten(params).items()]
        for start in range(0, len(items), 100):
            self._client.log_batch(run, params=items[start : start + 100])

    def _log_once(self, run: str, values: dict[str, float], event: Event) -> None:
        from mlflow.entities import Metric

        stamp = int(event["time"] * 1000)
        fresh = {key: value for key, value in values.items() if self._step(run, key) < 0}
        self._last_step.update({(run, key): 0 for key in fresh})
        if fresh:
            self._client.log_batch(
                run, metrics=[Metric(_name(key), float(value), stamp, 0) for key, value in fresh.items()]
            )

    def _log_inputs(self, run: str, event: Event) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        datasets = []
        for name, folder in event.get("inputs", {}).items():
            source = Artifact.load(self._root.child(folder))
            manifest = source.manifest
            rows = sum(file.rows or 0 for file in manifest.files)
            profile = {"rows": rows, "files": len(manifest.files), "bytes": sum(f.bytes for f in manifest.files)}
            dataset = Dataset(
                name=manifest.stage,
                digest=manifest.content_digest[:12],
                source_type="local" if isinstance(self._root, LocalStore) else "uri",
                source=json.dumps({"uri": source.store.url}),
                profile=json.dumps(profile),
            )
            datasets.append(DatasetInput(dataset, [InputTag("mlflow.data.context", name)]))
        if datasets:
            self._client.log_inputs(run, datasets)

    def _log_files(self, run: str, artifact: Artifact, scratch: Path) -> None:
        results = [f for f in artifact.files("data/", ".json") if f.path.count("/") == 1 and f.bytes <= _SMALL]
        results = [f for f in results if not f.path.endswith("_stats.json")]
        for file in artifact.files("figures/"):
            self._client.log_artifact(run, str(artifact.local(file.path, scratch)), "figures")
        for file in results:
            self._client.log_artifact(run, str(artifact.local(file.path, scratch)), "results")

    def _log_model(self, event: Event, artifact: Artifact, scratch: Path) -> None:
        """An artifact with an open_clip folder becomes a logged model; ``models:/...`` then loads with open_clip."""
        from mlflow.entities import LoggedModelOutput

        stage = event["stage"]
        parts = [f.path for f in artifact.files("data/open_clip_")]
        if not parts or stage in self._state.models:
            return
        run, stamp = self._child(stage), artifact.manifest.digest
        mine = f"source_run_id = '{run}' AND tags.`{_STAMP}` = '{stamp}'"
        found = self._client.search_logged_models([self._state.experiment], mine)
        if found:  # by an attempt that could not tell anybody
            model = found[0]
        else:
            model = self._client.create_logged_model(
                self._state.experiment, stage, source_run_id=run, tags={_STAMP: stamp}, model_type="open_clip"
            )
        folder = scratch / "model"
        folder.mkdir()
        for path in parts:
            shutil.copy(artifact.local(path, scratch), folder)
        self._client.log_model_artifacts(model.model_id, str(folder))
        self._client.finalize_logged_model(model.model_id, "READY")
        self._state.models[stage] = model.model_id
        for page in (run, self._state.parent):
            outputs = self._client.get_run(page).outputs
            if outputs is None or model.model_id not in [known.model_id for known in outputs.model_outputs]:
                self._client.log_outputs(page, [LoggedModelOutput(model.model_id, step=0)])
        self._log_inputs(self._state.parent, event)  # the page people open names what the model was trained on


def _client(address: Address) -> MlflowClient:
    from mlflow import MlflowClient

    if not address.uri.startswith("sqlite:///"):
        return MlflowClient(address.uri, registry_uri=address.uri)
    Path(address.uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    # A new database gets an experiment "Default", and that its artifacts' folder from here: else it is ./mlruns.
    with _environment("_MLFLOW_SERVER_ARTIFACT_ROOT", address.artifacts or ""):
        return MlflowClient(address.uri, registry_uri=address.uri)


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _may_pass(error: Exception) -> bool:
    """Whether sending again may help."""
    from mlflow.exceptions import MlflowException

    if isinstance(error, MlflowException):
        never = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST", "INVALID_STATE", "RESOURCE_DOES_NOT_EXIST")
        return error.error_code not in never
    return isinstance(error, (OSError, TransientError)) and not isinstance(error, FileNotFoundError)


def _name(key: str) -> str:
    """``key`` as MLflow allows it: letters, digits and ``_-./: `` only."""
    return re.sub(r"[^\w\-./: ]", "_", key.replace("@", "_at_"))[:250]


def _text(value: object) -> str:
    """A parameter's value; the same for the same value, since MLflow refuses to change one."""
    return canonical_json(value).decode() if isinstance(value, (dict, list, tuple)) else str(value)


def _funnel_metrics(artifact: Artifact) -> dict[str, float]:
    funnel = artifact.manifest.funnel
    if funnel is None:
        return {}
    dropped = {f"dropped.{reason}": float(count) for reason, count in funnel.dropped.items()}
    return {"entered": float(funnel.entered), "kept": float(funnel.kept), **dropped}
