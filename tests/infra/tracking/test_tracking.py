"""A run's journal in a real MLflow: on a database, then on a server that goes away and comes back."""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
from collections import Counter

import pytest
from s3fs import S3FileSystem

from infra.events import (
    Collapsed,
    Gate,
    Metrics,
    RunArtifact,
    StageFailed,
    StageFile,
    StageFinished,
    Unknown,
)
from infra.run.manifest import Artifact, Funnel
from infra.store import open_store
from infra.tracking import Address, Tracker
from tests.infra.tracking.followed import MODEL, curve, until

# MLflow's own use of SQLAlchemy, deprecated since 2.1
pytestmark = [
    pytest.mark.long,  # a tracking server
    pytest.mark.alone,  # which fails for some time
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning"),
]


# --- runs, curves, files


def test_a_run_is_a_parent_with_a_child_per_stage(run, address, pages):
    run.begin(headline=["crawl"])
    config = {"pages": 3, "web": {"agent": "x"}, "hosts": ["a"], "none": None, "empty": {}}
    funnel = Funnel(unit="pages", entered=3, kept=2, dropped={"http": 1})
    run.start("crawl", config)
    run.finish("crawl", config=config, metrics={"pages_per_s": 2.5}, funnel=funnel, facts={"main": "pages_per_s"})
    run.start("train")
    run.add(Collapsed, stage="train", sign="image", value=0.999, samples=8, message="all alike")
    run.add(StageFailed, stage="train", attempt=1, error="ValueError: no data")
    run.end("failed")
    tracker = run.send(address)
    found = pages()
    parent, crawl, train = found[""], found["crawl"], found["train"]
    assert len(found) == 3
    assert {page.data.tags.get("mlflow.parentRunId") for page in (crawl, train)} == {parent.info.run_id}
    assert (parent.info.run_name, crawl.info.run_name, train.info.run_name) == (run.name, "crawl", "train")
    assert (parent.info.status, crawl.info.status, train.info.status) == ("FAILED", "FINISHED", "FAILED")
    assert parent.data.tags["mlflow.source.git.commit"] == "abc123"
    assert parent.data.tags["clipline.recipe"] == "toy.py"
    assert train.data.tags["clipline.error"] == "ValueError: no data"
    assert train.data.tags["clipline.collapsed.image"] == "all alike"
    assert crawl.data.params == {"pages": "3", "web.agent": "x", "hosts": '["a"]', "none": "None", "empty": "{}"}
    assert crawl.data.metrics == {
        "pages_per_s": 2.5,
        "entered": 3,
        "kept": 2,
        "dropped.http": 1,
        "seconds": 1.5,
    }
    assert crawl.data.tags["clipline.cached"] == "false"
    assert parent.data.metrics == {"crawl.pages_per_s": 2.5}
    assert tracker.page.endswith(
        f"/#/experiments/{parent.info.experiment_id}/runs/{parent.info.run_id}?workflowType=machine_learning"
    )


def test_of_what_it_has_just_made_a_tracker_asks_mlflow_nothing(run, address, client, monkeypatch):
    asked = Counter()

    def counted(name, method):
        def call(*args, **options):
            asked[name] += 1
            return method(*args, **options)

        return call

    for name in ("get_run", "update_run", "get_metric_history", "set_tag"):
        monkeypatch.setattr(type(client), name, counted(name, getattr(type(client), name)))
    run.begin()
    run.start("crawl")
    run.finish("crawl", metrics={"a": 1.0, "b": 2.0})
    run.send(address)
    assert not asked
    run.forget()
    run.send(address)
    assert asked["get_metric_history"] >= 2 and asked["update_run"] == 2


def test_curves_keep_every_point_once_however_often_they_are_sent(run, address, client, pages):
    run.begin()
    run.start("train")
    for step in range(2500):
        run.add(Metrics, stage="train", values={"loss": 1 / (step + 1)}, step=step)
    run.send(address)
    run.forget()
    for step in range(2400, 2600):  # a resumed stage repeats the steps since its checkpoint
        run.add(Metrics, stage="train", values={"loss": 1 / (step + 1), "late": step}, step=step)
    run.send(address)
    page = pages()["train"]
    assert curve(client, page, "loss") == [(step, 1 / (step + 1)) for step in range(2600)]
    assert curve(client, page, "late") == [(step, step) for step in range(2400, 2600)]


def test_sending_everything_twice_changes_nothing(run, address, client, pages):
    run.begin()
    crawl = run.finish("crawl", write={"data/a.tar": b"1"}, metrics={"m": 1.0})
    run.start("train")
    run.add(Metrics, stage="train", values={"loss": 1.0}, step=1)
    run.finish("train", write=MODEL, inputs={"pages": crawl}, metrics={"acc": 0.5})
    run.add(Gate, model="train", digest="d" * 64, name=run.name, alias="champion", checks=[], passed=True)
    run.send(address)
    before = {stage: page.to_dictionary() for stage, page in pages().items()}
    run.forget()
    run.send(address)
    after = {stage: page.to_dictionary() for stage, page in pages().items()}
    for page in (*before.values(), *after.values()):
        page["info"].pop("end_time")
    assert after == before
    assert len(client.search_logged_models([client.get_experiment_by_name(run.name).experiment_id])) == 1
    assert len(client.search_model_versions(f"name = '{run.name}'")) == 1


def test_of_two_trackers_of_one_run_the_one_that_slept_repeats_nothing(run, address, client, pages):
    run.begin()
    run.start("train")
    slept = run.tracker(address)
    run.add(Metrics, stage="train", values={"loss": 9.0}, step=0)
    assert slept._send()  # and knows the curve
    for step in range(1, 5):
        run.add(Metrics, stage="train", values={"loss": float(step)}, step=step)
    run.send(address)
    run.add(Metrics, stage="train", values={"loss": 5.0}, step=5)
    while slept._send():
        pass
    assert curve(client, pages()["train"], "loss") == [(0, 9.0), *((step, float(step)) for step in range(1, 6))]


def test_inputs_are_datasets(run, address, pages):
    run.begin()
    crawl = run.finish("crawl", write={"data/a.tar": b"123", "data/b.tar": b"45"})
    run.start("filter")
    run.finish("filter", inputs={"images": crawl})
    run.send(address)
    [dataset] = pages()["filter"].inputs.dataset_inputs
    manifest = Artifact.load(run.root.child(crawl)).manifest
    assert (dataset.dataset.name, dataset.dataset.digest) == ("crawl", manifest.content_digest[:12])
    assert json.loads(dataset.dataset.profile) == {"rows": 4, "files": 2, "bytes": 5}
    assert json.loads(dataset.dataset.source) == {"uri": f"{run.root.url}/{crawl}"}
    assert {tag.key: tag.value for tag in dataset.tags} == {"mlflow.data.context": "images"}


def test_figures_results_and_run_artifacts_are_shown(run, address, client, pages):
    run.begin()
    files = {"figures/curve.png": b"png", "data/result.json": b"{}", "data/00000_stats.json": b"{}", "data/x.tar": b"1"}
    run.finish("evaluate", write=files)
    run.folder.write("report.html", b"<html>")
    run.add(RunArtifact, path="report.html")
    run.send(address)
    found = pages()
    assert [file.path for file in client.list_artifacts(found[""].info.run_id)] == ["report.html"]
    child = found["evaluate"].info.run_id
    assert [file.path for file in client.list_artifacts(child)] == ["figures", "results"]
    assert [file.path for file in client.list_artifacts(child, "figures")] == ["figures/curve.png"]
    assert [file.path for file in client.list_artifacts(child, "results")] == ["results/result.json"]
    assert found["evaluate"].info.artifact_uri.startswith(address.artifacts)


def test_a_stage_done_before_is_shown_as_cached(run, address, pages):
    run.begin()
    run.finish("crawl", metrics={"m": 2.0}, cached=True)
    run.send(address)
    page = pages()["crawl"]
    assert (page.info.status, page.data.tags["clipline.cached"], page.data.metrics) == ("FINISHED", "true", {"m": 2.0})


def test_a_forced_run_gets_a_page_of_its_own(run, address, client, pages):
    run.begin()
    run.start("train")
    run.add(Metrics, stage="train", values={"loss": 3.0}, step=1)
    run.send(address)
    first = pages()["train"].info.run_id
    run.start("train", forced=True)
    run.add(Metrics, stage="train", values={"loss": 4.0}, step=1)
    run.send(address)
    found = pages()
    assert found["train"].info.run_id != first
    assert found["train (superseded)"].info.run_id == first
    assert curve(client, found["train"], "loss") == [(1, 4.0)]
    assert curve(client, found["train (superseded)"], "loss") == [(1, 3.0)]


# --- models and the gate


@pytest.mark.parametrize("passed", [True, False])
def test_a_model_is_logged_and_if_the_gate_passes_registered(run, address, client, pages, passed):
    run.begin()
    run.start("train")
    run.finish("train", write=MODEL)
    checks = [{"metric": "eval.acc1", "at_least": 0.5, "found": 0.7, "passed": passed}]
    for _ in range(2):  # a run repeated does not make a second version
        run.add(Gate, model="train", digest="d" * 64, name=run.name, alias="best", checks=checks, passed=passed)
    run.send(address)
    found = pages()
    [model] = client.search_logged_models([found[""].info.experiment_id])
    assert (model.name, model.source_run_id, str(model.status)) == ("train", found["train"].info.run_id, "READY")
    names = [file.path for file in client.list_logged_model_artifacts(model.model_id)]
    assert names == ["open_clip_config.json", "open_clip_model.safetensors"]
    assert json.loads(found[""].data.tags["clipline.gate"]) == checks
    versions = client.search_model_versions(f"name = '{run.name}'")
    assert len(versions) == passed
    if passed:
        version = client.get_model_version_by_alias(run.name, "best")
        assert (version.version, version.source) == (versions[0].version, f"models:/{model.model_id}")
        assert client.get_model_version_download_uri(run.name, version.version) == model.artifact_location


# --- refused events and names


@pytest.mark.parametrize("given", ["model", "embeddings"])
def test_scores_are_the_models_on_the_test_set(run, address, client, pages, given):
    """On the model's page, whether the evaluation was given the model or vectors of it; once, sent twice."""
    run.begin()
    run.start("train")
    train = run.finish("train", write=MODEL, metrics={"loss": 2.0}, digest="a" * 64)
    holdout = run.finish("holdout", write={"data/holdout/test/0.tar": b"123"})
    embed = run.finish("embed", write={"data/0.npz": b"1"}, made_of={"model": "a" * 64}, digest="e" * 64)
    run.start("retrieval")
    inputs = {"dataset": holdout, given: {"model": train, "embeddings": embed}[given]}
    scores = {"recall_at_1": 0.25, "recall_at_1_low": 0.2}
    funnel = Funnel(unit="images", entered=3, kept=3)
    digests = {given: {"model": "a" * 64, "embeddings": "e" * 64}[given]}
    task = {"task": {"kind": "zeroshot_retrieval", "dataset": "captions"}}
    run.finish("retrieval", metrics=scores, funnel=funnel, inputs=inputs, made_of=digests, config=task)
    run.send(address)
    run.forget()
    run.send(address)
    found = pages()
    [model] = client.search_logged_models([found[""].info.experiment_id])
    assert {one.key: one.value for one in model.metrics} == scores and len(model.metrics) == 2
    digest = Artifact.load(run.root.child(holdout)).manifest.content_digest[:12]
    assert {(one.dataset_name, one.dataset_digest) for one in model.metrics} == {("captions", digest)}
    assert {one.run_id for one in model.metrics} == {found["retrieval"].info.run_id}
    assert found["retrieval"].data.metrics == {**scores, "entered": 3, "kept": 3, "seconds": 1.5}


def test_names_mlflow_does_not_allow_are_spelled_so_that_it_does(run, address, client, pages):
    run.begin()
    run.start("eval", {"hosts": {"*.example": 1}, "prompt": "a photo of {c}"})
    run.add(Metrics, stage="eval", values={"recall@5": 0.5, "acc (top 1)": 0.25}, step=0)
    run.send(address)
    run.forget()
    run.send(address)
    page = pages()["eval"]
    assert page.data.params == {"hosts._.example": "1", "prompt": "a photo of {c}"}
    assert page.data.metrics == {"recall_at_5": 0.5, "acc _top 1_": 0.25}
    assert curve(client, page, "recall_at_5") == [(0, 0.5)]


def test_the_same_run_with_other_runtime_settings_is_the_same_run(run, address, pages):
    run.begin(settings="download.workers=2")
    run.start("crawl")
    run.send(address)
    run.begin(settings="download.workers=64")
    run.end("done")
    run.send(address)
    parent = pages()[""]
    assert parent.data.tags["clipline.settings"] == "download.workers=64"
    assert parent.info.status == "FINISHED"


def test_an_event_that_cannot_be_sent_is_reported_and_the_rest_goes_on(run, address, pages, caplog):
    run.begin()
    run.add(Metrics, stage="never-started", values={"loss": 1.0}, step=1)
    run.add(StageFinished, stage="gone", folder="artifacts/gone/0", attempt=1, seconds=1.0)
    run.start("train")
    run.add(Metrics, stage="train", values={"loss": "no number"}, step=1)
    run.start("train", {"size": 4})  # MLflow does not change a parameter
    run.add(Unknown, stage="train", name="something_new")
    run.add(Metrics, stage="train", values={"loss": 2.0}, step=2)
    run.end("done")
    tracker = run.send(address)
    found = pages()
    assert found["train"].data.metrics == {"loss": 2.0}
    assert found[""].info.status == "FINISHED"
    reported = [message for message in caplog.messages if "does not get" in message]
    for words in ("metrics of never-started", "stage_finished of gone", "metrics of train", "stage_started of train"):
        assert sum(words in message for message in reported) == 1
    assert len(reported) == tracker.refused == 4
    assert run.send(address).refused == 4  # and they stay refused, though nothing is left to send


def test_what_was_sent_elsewhere_is_sent_again(run, address, client, pages):
    """MLFLOW_TRACKING_URI may change between run and resume, and a database may be deleted."""
    run.begin()
    run.start("train")
    run.add(Metrics, stage="train", values={"loss": 2.0}, step=2)
    elsewhere = {"uri": "http://elsewhere", "position": 3, "experiment": "7", "parent": "p", "children": {"train": "c"}}
    lost = {**elsewhere, "uri": address.uri}
    for state in (elsewhere, lost):
        run.folder.write(Tracker.PATH, json.dumps(state).encode())
        run.send(address)
        assert pages()["train"].data.metrics == {"loss": 2.0}


def test_a_tracker_that_has_nothing_to_send_sends_nothing(run, address, client):
    run.send(address)
    assert run.tracker(address).page is None
    assert not run.folder.exists(Tracker.PATH)


# --- outages


class Server:
    """MLflow's own server application on a loopback port, to be stopped and started."""

    def __init__(self, database) -> None:
        from mlflow.server import app, handlers

        handlers._get_tracking_store(f"sqlite:///{database}", str(database.parent / "mlartifacts"))
        handlers._get_model_registry_store(f"sqlite:///{database}")
        self._app, self.port, self._server = app, 0, None
        self.start()

    def start(self) -> None:
        from werkzeug.serving import make_server

        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._server = make_server("127.0.0.1", self.port, self._app, threaded=True)
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()
            self._server = None


@pytest.fixture(scope="module")
def mlflow_server(database):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "mlflow.server.auth", None)  # not used here; each request would try to import it
        for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):  # the server, in this process, sets them to its own
            patch.setenv(name, f"sqlite:///{database}")
        for place in ("_tracking_service.utils._tracking_uri", "_model_registry.utils._registry_uri"):  # and remembers
            patch.setattr(f"mlflow.tracking.{place}", None)
        server = Server(database)
        yield server
        server.stop()


def test_an_outage_costs_one_warning_and_nothing_is_lost(run, mlflow_server, client, pages, caplog, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    address = Address(f"http://user:hunter2@127.0.0.1:{mlflow_server.port}")
    tracker = run.tracker(address)
    run.begin()
    run.start("train")
    run.add(Metrics, stage="train", values={"loss": 9.0}, step=0)
    tracker.start()
    until(lambda: run.folder.exists(Tracker.PATH))
    sent = json.loads(run.folder.read(Tracker.PATH))
    assert sent["position"] == 3

    mlflow_server.stop()
    for step in range(1, 40):
        run.add(Metrics, stage="train", values={"loss": 1 / step}, step=step)
    until(lambda: tracker.degraded)
    assert json.loads(run.folder.read(Tracker.PATH)) == sent  # not sent, so not taken for sent
    assert not tracker.close(30)
    assert len([record for record in caplog.records if record.levelno >= logging.WARNING]) == 1
    assert "cannot be reached" in caplog.text
    assert not any("hunter2" in text for text in (caplog.text, tracker.degraded, tracker.page, json.dumps(sent)))

    mlflow_server.start()
    run.finish("train", write=MODEL, metrics={"acc": 0.5})
    run.send(address)
    assert curve(client, pages()["train"], "loss") == [(0, 9.0), *((step, 1 / step) for step in range(1, 40))]
    assert pages()["train"].info.status == "FINISHED"


def test_a_tracker_recovers_by_itself_when_the_server_is_back(run, mlflow_server, client, pages, caplog, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    mlflow_server.stop()
    tracker = run.tracker(Address(f"http://127.0.0.1:{mlflow_server.port}"))
    run.begin()
    run.start("train")
    tracker.start()
    until(lambda: tracker.degraded)
    mlflow_server.start()
    run.add(Metrics, stage="train", values={"loss": 9.0}, step=0)
    until(lambda: not tracker.degraded)
    assert tracker.close(60)
    assert pages()["train"].data.metrics == {"loss": 9.0}
    assert sum("cannot be reached" in message for message in caplog.messages) == 1


def test_an_outage_of_the_store_is_not_told_as_one_of_mlflow(run, address, caplog):
    store = open_store("http://127.0.0.1:9")  # a port where nobody listens
    tracker = Tracker(address, run.name, run.root, run.folder, lambda start: store.read("journal.jsonl"))
    tracker.start()
    until(lambda: tracker.degraded)
    assert not tracker.close(30)
    (message,) = [message for message in caplog.messages if "cannot be reached" in message]
    assert message.startswith("The root cannot be reached") and "http://127.0.0.1:9 does not answer" in message
    assert tracker.degraded.startswith("The root cannot be reached")


def test_a_file_whose_store_has_lost_its_credentials_is_sent_once_they_are_back(
    run, address, client, pages, s3_url, monkeypatch, caplog, tmp_path
):
    open_store(s3_url).create("profile.txt", b"what took how long")
    run.begin()
    run.start("train")
    run.add(StageFile, stage="train", folder=s3_url, path="profile.txt")
    with monkeypatch.context() as without:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            without.delenv(name)
        without.setenv("AWS_EC2_METADATA_DISABLED", "true")
        without.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
        S3FileSystem.clear_instance_cache()
        tracker = run.tracker(address)
        tracker.start()
        until(lambda: tracker.degraded)
        assert not tracker.close(30)
    assert "no credentials for" in tracker.degraded and not any("does not get" in line for line in caplog.messages)
    S3FileSystem.clear_instance_cache()
    assert run.send(address).refused == 0
    assert [file.path for file in client.list_artifacts(pages()["train"].info.run_id)] == ["profile.txt"]


def test_points_whose_sending_failed_halfway_are_not_taken_for_sent(run, address, client, pages, monkeypatch):
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    failures = iter([True, False, True])
    send = MlflowClient.log_batch

    def sometimes(self, run_id, metrics=(), **rest):
        before = metrics and next(failures, None)
        if before is True:
            raise MlflowException("the server is away")
        send(self, run_id, metrics=metrics, **rest)
        if before is False:
            raise MlflowException("the answer was lost")

    monkeypatch.setattr(MlflowClient, "log_batch", sometimes)
    run.begin()
    run.start("train")
    tracker = run.tracker(address)
    tracker.start()
    for step in range(5):
        run.add(Metrics, stage="train", values={"loss": float(step)}, step=step)
    until(lambda: run.folder.exists(Tracker.PATH) and json.loads(run.folder.read(Tracker.PATH))["position"] == 7)
    assert tracker.close(60)
    assert curve(client, pages()["train"], "loss") == [(step, float(step)) for step in range(5)]


# --- the database


def test_nothing_is_ever_put_into_mlruns(address, client, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run.begin()
    run.finish("crawl", write={"figures/a.png": b"1"})
    run.send(address)
    assert not (tmp_path / "mlruns").exists()
    for experiment in client.search_experiments():
        assert experiment.artifact_location.startswith(address.artifacts)
    assert "_MLFLOW_SERVER_ARTIFACT_ROOT" not in os.environ
