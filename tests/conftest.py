"""Shared fixtures. Ray, and an S3 server, are started once for the whole session, only if a test asks for them."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import uuid

import hypothesis
import pytest

from infra import cluster
from workflows.cli import app

# Time limits per example say more about the machine than about the code.
hypothesis.settings.register_profile("fixed", deadline=None, derandomize=True, database=None)
hypothesis.settings.register_profile("few", hypothesis.settings.get_profile("fixed"), max_examples=15)
hypothesis.settings.register_profile("random", deadline=None, print_blob=True)
hypothesis.settings.load_profile(os.environ.get("CLIPLINE_EXAMPLES", "fixed"))  # make sets it

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two torch threads on two busy cores run slower than one
os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
# Ray ends idle workers beyond one per CPU after a second: on two CPUs most tests would import torch in new processes.
os.environ.setdefault("RAY_num_workers_soft_limit", "6")
for name, value in cluster.ALONE.items():  # a test may import Ray before anybody connects
    os.environ.setdefault(name, value)


def pytest_make_parametrize_id(val, argname):
    """Name bytes by their length: gzip's hold the time, and processes that share the tests must agree on names."""
    return f"{argname}_{len(val)}_bytes" if isinstance(val, bytes) else None


@pytest.hookimpl(tryfirst=True)  # before pytest selects by marker
def pytest_collection_modifyitems(items):
    """Mark the tests that use the shared cluster or bucket; those that start Ray in a process of their own say so."""
    for item in items:
        if "ray_cluster" in item.fixturenames:
            item.add_marker(pytest.mark.ray)
        if "s3_server" in item.fixturenames:
            item.add_marker(pytest.mark.s3)


@pytest.fixture(autouse=True, scope="module")
def addresses_left_alone():
    """Fail a module that leaves another address of MLflow or Ray behind: later tests, in any order, would go there."""
    names = ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "RAY_ADDRESS")
    before = {name: os.environ.get(name) for name in names}
    yield
    assert {name: os.environ.get(name) for name in names} == before


@pytest.fixture(scope="session")
def ray_cluster():
    """A local Ray cluster of two CPUs."""
    with cluster.connect(cpus=2):
        yield


@pytest.fixture(scope="session")
def s3_server():
    """The endpoint of a real S3 server, with credentials in the environment and an empty bucket ``clipline``."""
    from moto.s3.responses import S3Response
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # or it logs every request
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    put, one_at_a_time = S3Response.put_object, threading.Lock()

    def put_atomically(self):  # as S3 does; moto looks first and writes then, which another thread may come between
        with one_at_a_time:
            return put(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(S3Response, "put_object", put_atomically)
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_MAX_ATTEMPTS", "1")
        patch.setenv("AWS_CONFIG_FILE", os.devnull)
        import s3fs

        s3fs.S3FileSystem().mkdir("clipline")
        yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3_url(s3_server):
    """A fresh folder on that server."""
    return f"s3://clipline/{uuid.uuid4().hex}"


@pytest.fixture
def clipline(monkeypatch, capsys):
    """Call the command line as its entry point does; returns what it printed, after checking the exit code."""

    def call(*words, code=0):
        monkeypatch.setattr(sys, "argv", ["clipline", *words])
        with pytest.raises(SystemExit) as caught:
            app.main()
        out, err = capsys.readouterr()
        assert (caught.value.code or 0) == code, out + err
        return subprocess.CompletedProcess(words, code, out, err)

    return call
