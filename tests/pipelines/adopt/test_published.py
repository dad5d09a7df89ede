"""Models by their names: of an MLflow registry, and of a hub, both the real thing on loopback."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from infra.errors import ConfigError
from infra.events import Gate
from infra.run.context import Context
from infra.run.manifest import Artifact
from infra.run.root import set_root
from infra.store import LocalStore
from infra.tracking.address import Address
from pipelines import adopt

pytestmark = [  # MLflow's own
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning"),
    pytest.mark.long,
]

FILES = {
    "open_clip_config.json": b'{"model_cfg": {}}',
    "open_clip_model.safetensors": b"\x02\0\0\0\0\0\0\0{}",
    "README.md": b"about",
}
"""A model by its names; only the stage that adopts it looks inside."""


def config(path) -> adopt.Config:
    return adopt.Config(path=str(path), contents=adopt.Model())


def folder(place: Path, mark: bytes = b"") -> Path:
    place.mkdir(parents=True)
    for name, data in FILES.items():
        (place / name).write_bytes(data + (mark if name.endswith("safetensors") else b""))
    return place


def register(root: Path, client, address: Address, name: str, mark: bytes, artifacts: str | None = None) -> str:
    """Log and register a model as a run does; the logged model's id."""
    from infra.tracking.models import log_model, register_model, snapshots

    digest = hashlib.sha256(mark).hexdigest()
    context = Context(LocalStore(root / f"artifacts/train/{digest[:16]}"), stage="train", digest=digest)
    for file, data in FILES.items():
        context.output.write(f"data/{file}", data + (mark if file.endswith("safetensors") else b""))
    artifact = Artifact(context.store, context.finish())
    place = artifacts or address.artifacts
    experiment = client.get_experiment_by_name(place) or client.get_experiment(client.create_experiment(place, place))
    run = client.create_run(experiment.experiment_id).info.run_id
    (snapshot,) = snapshots(artifact)
    model = log_model(client, experiment.experiment_id, run, "train", snapshot, {})
    gate = Gate(time=0.0, model="train", digest=digest, name=name, alias="champion", checks=[], passed=True)
    register_model(client, address.uri, gate, model, run, "http://127.0.0.1/page")
    return model


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    """A root whose registry has two versions of ``clip``, with the first one's logged model."""
    from infra.tracking.client import open_client

    root = tmp_path_factory.mktemp("registry")
    address = Address.find(LocalStore(root))
    client = open_client(address)
    first = register(root, client, address, "clip", b"one")
    register(root, client, address, "clip", b"two")
    return root, client, address, first


@pytest.fixture(autouse=True)
def apart(registry, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    set_root(str(registry[0]))


def test_a_registered_model_is_the_folder_it_was(registry, tmp_path):
    one, two = (config(folder(tmp_path / mark, mark.encode())) for mark in ("one", "two"))
    assert config(f"models:/{registry[3]}").content_digest == one.content_digest
    assert config("models:/clip/1").identity() == one.identity()
    assert config("models:/clip/2").identity() == two.identity()
    assert config("models:/clip@champion").identity() == two.identity()
    assert set(config("models:/clip@champion").files) == set(FILES) - {"README.md"}
    assert str(registry[0]) in config("models:/clip/1").location()  # in place
    assert config("models:/clip@champion").path == "models:/clip@champion"  # as meant, to be looked up again


def test_an_alias_is_looked_up_each_time(registry):
    client = registry[1]
    before = config("models:/clip@champion").content_digest
    client.set_registered_model_alias("clip", "champion", "1")
    try:
        assert config("models:/clip@champion").content_digest == config("models:/clip/1").content_digest != before
    finally:
        client.set_registered_model_alias("clip", "champion", "2")


def test_a_worker_gets_what_was_found(registry, tmp_path):
    """It has no root to look below, and reads no bytes again."""
    planned = config("models:/clip/1")
    digest = planned.content_digest
    sent = pickle.dumps(planned)
    set_root(str(tmp_path / "empty"))
    there = pickle.loads(sent)
    assert (there.content_digest, there.location()) == (digest, planned.location())
    assert there.store.read(there.real_path("open_clip_config.json")) == FILES["open_clip_config.json"]


@pytest.mark.parametrize(
    ("name", "words", "found"),
    [
        ("models:/clop@champion", "the model registry has no models:/clop@champion", "clip @champion versions 1 to 2"),
        ("models:/clip@best", "has no models:/clip@best", "clip @champion versions 1 to 2"),
        ("models:/clip/3", "has no models:/clip/3", "versions 1 to 2"),
        ("models:/m-" + "0" * 32, "has no models:/m-0", "clip"),
        ("models:/clip", "names no model of a registry", ""),
        ("models:/clip/Production", "names no model of a registry", ""),
    ],
)
def test_what_is_not_there_is_told_with_what_is(name, words, found):
    with pytest.raises(ConfigError, match=words) as caught:
        _ = config(name).files
    assert found in caught.value.found


def test_without_a_registry_none_is_made(tmp_path):
    set_root(str(tmp_path / "empty"))
    with pytest.raises(ConfigError, match="there is no model registry"):
        _ = config("models:/clip@champion").files
    assert not (tmp_path / "empty").exists()


@pytest.mark.alone
def test_a_server_that_does_not_answer_is_told_within_seconds(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:hunter2@127.0.0.1:9")
    started = time.monotonic()
    with pytest.raises(ConfigError, match="cannot be asked") as caught:
        _ = config("models:/clip@champion").files
    assert time.monotonic() - started < 20
    assert "hunter2" not in str(caught.value)


def test_what_lies_in_a_bucket_is_fetched_once(registry, s3_url, tmp_path, monkeypatch):
    root, client, address, _ = registry
    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", os.environ["AWS_ENDPOINT_URL"])
    register(root, client, address, "remote", b"far", s3_url)
    far = config("models:/remote@champion")
    assert far.identity() == config(folder(tmp_path / "far", b"far")).identity()
    assert str(tmp_path / "cache") in far.location()
    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", "http://127.0.0.1:9")
    assert config("models:/remote/1").identity() == far.identity()


# --- a hub ------------------------------------------------------------------------------------------------------------

COMMIT = "c" * 40


class Hub(BaseHTTPRequestHandler):
    """As much of a hub as its client asks for: a repository ``org/name``, its files, and errors for all others."""

    def do_HEAD(self):
        self.answer(False)

    def do_GET(self):
        self.answer(True)

    def answer(self, whole: bool):
        parts = self.path.partition("?")[0].strip("/").split("/")
        if parts[:5] == ["api", "models", "org", "name", "tree"]:
            tree = [{"type": "file", "path": name, "size": len(FILES[name]), "oid": "0" * 40} for name in FILES]
            return self.send(200, json.dumps(tree).encode(), whole)
        if parts[:4] == ["api", "models", "org", "name"]:
            siblings = [{"rfilename": name} for name in FILES]
            return self.send(200, json.dumps({"id": "org/name", "sha": COMMIT, "siblings": siblings}).encode(), whole)
        if parts[:3] == ["org", "name", "resolve"] and parts[-1] in FILES:
            return self.send(200, FILES[parts[-1]], whole)
        self.send(404, b'{"error": "Repository not found"}', whole, error="RepoNotFound")

    def send(self, status: int, body: bytes, whole: bool, error: str = ""):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        if error:
            self.send_header("X-Error-Code", error)
        self.end_headers()
        if whole:
            self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def hub():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def ask(name: str, home: Path, endpoint: str) -> tuple[dict, float]:
    """What a process says of the model, whose hub and cache are set before it starts; and its seconds."""
    code = """
import json, sys
from infra.errors import ConfigError
from pipelines import adopt
config = adopt.Config(path=sys.argv[1], contents=adopt.Model())
try:
    print(json.dumps({"files": sorted(config.files), "digest": config.content_digest, "at": config.location()}))
except ConfigError as error:
    print(json.dumps({"error": str(error)}))
"""
    env = {**os.environ, "HF_HOME": str(home), "HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_TELEMETRY": "1"}
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code, name], env=env, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1]), time.monotonic() - started


@pytest.mark.alone
def test_a_model_of_a_hub_is_the_folder_it_is_and_stays_when_the_hub_is_gone(hub, tmp_path):
    plain = config(folder(tmp_path / "plain"))
    found, _ = ask("hf-hub:org/name", tmp_path / "hf", hub)
    assert found["files"] == sorted(plain.files)
    assert found["digest"] == plain.content_digest
    gone, seconds = ask("hf-hub:org/name", tmp_path / "hf", "http://127.0.0.1:9")
    assert gone == found
    assert seconds < 30
    missing, _ = ask("hf-hub:org/other", tmp_path / "hf", hub)
    assert "the hub has no model org/other" in missing["error"]
    wrong, _ = ask("hf-hub:a b", tmp_path / "hf", hub)
    assert "names no repository" in wrong["error"]


@pytest.mark.alone
def test_a_hub_out_of_reach_is_told_within_seconds(tmp_path):
    found, seconds = ask("hf-hub:org/name", tmp_path / "hf", "http://127.0.0.1:9")
    assert "hf-hub:org/name cannot be had" in found["error"]
    assert "give its folder as the model" in found["error"]
    assert seconds < 30
