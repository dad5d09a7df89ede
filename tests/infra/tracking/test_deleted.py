"""Runs and experiments that somebody deletes in MLflow's pages, and two people with one recipe and one server."""

from __future__ import annotations

import logging

import pytest

from infra.events import Metrics
from tests.infra.tracking.followed import MODEL, Run, curve, until

pytestmark = [
    pytest.mark.long,  # a tracking server
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning"),
]

POINTS = [(step, 1.0 / step) for step in range(1, 21)]


def lose(client, run, pages, what: str) -> None:
    """Delete as MLflow's pages do, or as `mlflow gc` does after it."""
    found = pages()
    experiment = found[""].info.experiment_id
    for_good = what.endswith("for good")
    if what.startswith("experiment"):
        client.delete_experiment(experiment)
        if for_good:
            store = client._tracking_client.store
            for page in found.values():
                store._hard_delete_run(page.info.run_id)
            store._hard_delete_experiment(experiment)
        return
    stage = {"run": "", "stage": "train"}[what.split()[0]]
    client.delete_run(found[stage].info.run_id)
    if for_good:
        client._tracking_client.store._hard_delete_run(found[stage].info.run_id)


@pytest.mark.parametrize("between", ["batches", "runs"])
@pytest.mark.parametrize(
    "what", ["run", "stage", "experiment", "run for good", "stage for good", "experiment for good"]
)
def test_what_was_deleted_comes_back(run, address, client, pages, caplog, what, between):
    """With all points of the journal, and one warning."""
    run.begin()
    run.start("train")
    for step, loss in POINTS[:10]:
        run.add(Metrics, stage="train", values={"loss": loss}, step=step)
    tracker = run.tracker(address)
    if between == "batches":
        tracker.start()
        until(lambda: run.sent() == len(run.events))
    else:
        run.send(address)
    lose(client, run, pages, what)
    for step, loss in POINTS[10:]:
        run.add(Metrics, stage="train", values={"loss": loss}, step=step)
    run.finish("train", write=MODEL)
    run.end("done")
    if between == "batches":
        assert tracker.close(60), tracker.degraded
    else:
        tracker = run.send(address)
    found = pages()
    assert set(found) == {"", "train"}
    assert curve(client, found["train"], "loss") == POINTS
    assert found["train"].data.tags["mlflow.parentRunId"] == found[""].info.run_id
    assert {page.info.status for page in found.values()} == {"FINISHED"}
    assert client.get_experiment_by_name(run.name).lifecycle_stage == "active"
    warnings = [record.message for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 1, warnings
    assert tracker.refused == 0


def test_two_people_with_one_recipe_and_one_server_have_two_runs(tmp_path, run, address, client, pages):
    other = Run(tmp_path / "other", run.name)
    for each, loss in ((run, 1.0), (other, 2.0)):
        each.begin()
        each.start("train")
        each.add(Metrics, stage="train", values={"loss": loss}, step=1)
        each.send(address)
        each.forget()
        each.send(address)
    experiment = client.get_experiment_by_name(run.name).experiment_id
    found = client.search_runs([experiment], "tags.`clipline.stage` = 'train'")
    assert sorted(page.data.metrics["loss"] for page in found) == [1.0, 2.0]
    assert len(client.search_runs([experiment])) == 4
    assert len({page.data.tags["mlflow.parentRunId"] for page in found}) == 2


def test_a_root_that_moved_is_the_same_root(tmp_path, run, address, client, pages):
    run.begin()
    run.send(address)
    run.forget()
    (tmp_path / "root").rename(tmp_path / "moved")
    moved = Run(tmp_path / "moved", run.name)
    moved.begin()
    moved.send(address)
    assert len(client.search_runs([client.get_experiment_by_name(run.name).experiment_id])) == 1
