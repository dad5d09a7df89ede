"""The MLflow runs of one run of clipline: found by tags, made once, restored where somebody deleted them.

The tags name the root and the plan: two people who run one recipe with one server have two runs.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterator, Mapping

from mlflow import MlflowClient
from mlflow.entities import LifecycleStage, Param
from mlflow.exceptions import MlflowException

from infra.config import flatten
from infra.errors import redact_values
from infra.store import Store
from infra.tracking.client import allowed_name, parameter
from infra.tracking.state import State

__all__ = ["Runs", "open_experiment"]

log = logging.getLogger(__name__)

_ROOT, _RUN, _STAGE = "clipline.root", "clipline.run", "clipline.stage"  # tags by which MLflow runs are found again
_ROOT_ID = "root.id"
_MOST = 100  # parameters of one request


def open_experiment(client: MlflowClient, name: str, artifacts: str | None) -> str:
    """Id of the experiment; it is made if there is none, and restored if somebody deleted it, with its runs."""
    found = client.get_experiment_by_name(name)
    if found is None:
        # The tag has the UI show the experiment as training, with runs and curves, not as traces of an agent.
        return str(
            client.create_experiment(name, artifacts, tags={"mlflow.experimentKind": "custom_model_development"})
        )
    if found.lifecycle_stage == LifecycleStage.DELETED:  # its name stays taken, so a new one cannot be made
        log.warning("The experiment %s was deleted in MLflow meanwhile: it is restored", name)
        client.restore_experiment(found.experiment_id)
    return str(found.experiment_id)


class Runs:
    """The runs of ``state``, whose ids are noted there as they are made. ``folder`` is the run's folder of ``root``."""

    def __init__(self, client: MlflowClient, root: Store, folder: Store, state: State) -> None:
        self._client, self._state = client, state
        self._key = {_ROOT: _root_id(root), _RUN: folder.url.rstrip("/").rpartition("/")[2]}
        self._opened: dict[str, tuple[str, dict[str, object], bool]] = {}  # what was last told of each stage

    def open_parent(
        self, name: str, tags: Mapping[str, str], parameters: Mapping[str, object], sweep: str = ""
    ) -> bool:
        """Find or create the run's own MLflow run, below that of the ``sweep`` it belongs to; True if it is new.

        Of a found one, a parameter that it has keeps its value: it decides no result.
        """
        if sweep:
            tags = {**tags, "mlflow.parentRunId": self._find_or_create("", sweep, {}, run=sweep)[0]}
        run, new = self._find_or_create("", name, tags)
        self._state.parent = run
        known = {} if new else self._client.get_run(run).data.params
        self._log_parameters(run, {key: value for key, value in parameters.items() if allowed_name(key) not in known})
        if not new:
            self._client.update_run(run, status="RUNNING")
        return new

    def open_child(self, stage: str, digest: str, config: Mapping[str, object], *, cached: bool) -> bool:
        """Find or create the MLflow run of a stage and log its configuration; a second call with the same does nothing.

        Returns True if the run is new: then it is running, and has no points.
        """
        opened = digest, flatten(redact_values(dict(config))), cached
        if self._opened.get(stage) == opened:
            return False
        tags = {
            "mlflow.parentRunId": self._state.parent,
            "clipline.digest": digest,
            "clipline.cached": str(cached).lower(),
        }
        run, new = self._find_or_create(stage, stage, tags)
        self._state.children[stage] = run
        self._log_parameters(run, opened[1])
        self._opened[stage] = opened
        return new

    def supersede(self, stage: str) -> None:
        """Let the next run of a stage be a new one: metrics append and never overwrite."""
        self._opened.pop(stage, None)
        if old := self._state.children.pop(stage, None):
            self._client.set_tag(old, _STAGE, f"{stage} (superseded)")
            self._state.models.pop(stage, None)

    def child(self, stage: str) -> str:
        """Id of the MLflow run of a stage. Raises KeyError if the stage has not started."""
        return self._state.children[stage]

    def any_deleted(self) -> bool:
        """True if somebody deleted one of the runs."""
        return any(stage != LifecycleStage.ACTIVE for _, stage in self._lifecycles())

    def restore(self) -> bool:
        """Restore the runs that somebody deleted; False if one is gone for good."""
        found = list(self._lifecycles())
        if any(stage is None for _, stage in found):
            return False
        deleted = [run for run, stage in found if stage == LifecycleStage.DELETED]
        for run in deleted:
            self._client.restore_run(run)
        if deleted:
            log.warning("%d MLflow runs of %s were deleted meanwhile: restored", len(deleted), self._key[_RUN])
        return True

    def _lifecycles(self) -> Iterator[tuple[str, str | None]]:
        """Each run with MLflow's word for how it is; None if MLflow has none of that id."""
        for run in filter(None, (self._state.parent, *self._state.children.values())):
            try:
                yield run, self._client.get_run(run).info.lifecycle_stage
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
                yield run, None

    def _log_parameters(self, run: str, values: Mapping[str, object]) -> None:
        params = [Param(allowed_name(key), parameter(value)[:6000]) for key, value in values.items()]
        for start in range(0, len(params), _MOST):
            self._client.log_batch(run, params=params[start : start + _MOST])

    def _find_or_create(self, stage: str, name: str, tags: Mapping[str, str], run: str = "") -> tuple[str, bool]:
        """Id of the MLflow run of ``stage``, "" for the run's own, and whether it was made now; it gets ``tags``.

        ``run``: another run below the same root.
        """
        key = {**self._key, **({_RUN: run} if run else {}), _STAGE: stage}
        query = " and ".join(f"tags.`{tag}` = '{value}'" for tag, value in key.items())
        found = self._client.search_runs([self._state.experiment], query, max_results=1)
        if found:
            id_, old = str(found[0].info.run_id), found[0].data.tags
            for tag, value in tags.items():  # its parent may be a new one
                if old.get(tag) != value:
                    self._client.set_tag(id_, tag, value)
            return id_, False
        made = self._client.create_run(self._state.experiment, tags={**tags, **key}, run_name=name)
        return str(made.info.run_id), True


def _root_id(root: Store) -> str:
    """A name for the root that no other has, wherever it is mounted: made once and kept in it."""
    if not root.exists(_ROOT_ID):
        root.create(_ROOT_ID, secrets.token_hex(8).encode())
    return root.read(_ROOT_ID).decode()
