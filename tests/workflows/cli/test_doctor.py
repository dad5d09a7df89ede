"""The doctor finds what would spoil a run, and shows no secrets."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from infra.cluster.head import why_unreachable
from infra.errors import TransientError
from infra.store import LocalStore
from workflows.cli.doctor import checks


@pytest.fixture(autouse=True)
def no_addresses(monkeypatch):
    for name in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)


def look(root):
    return {check.name: check for check in checks(root)}


def test_a_healthy_machine_passes(tmp_path):
    found = look(LocalStore(tmp_path / "not" / "there" / "yet"))
    assert {check.name for check in found.values() if check.verdict == "bad"} == set()
    assert found["ray"].verdict == "ok"
    assert "GB free" in found["disk"].detail
    assert "mlflow.db" in found["mlflow server"].detail


class Careless(LocalStore):
    def create(self, path, data):
        self.write(path, data)
        return True


class Away(LocalStore):
    def write(self, path, data):
        raise TransientError("s3://bucket does not answer")


@pytest.mark.parametrize(
    ("store", "words"), [(Careless, "leases are not safe there"), (Away, "does not answer")], ids=["careless", "away"]
)
def test_a_store_that_cannot_be_trusted_is_bad(tmp_path, store, words):
    check = look(store(tmp_path))["store"]
    assert check.verdict == "bad"
    assert words in check.detail


def test_a_folder_that_cannot_be_written_is_bad(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    assert look(LocalStore(tmp_path / "file" / "root"))["store"].verdict == "bad"


def test_the_doctor_leaves_nothing_behind(tmp_path):
    look(LocalStore(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_does_not_answer_is_bad_and_one_that_does_is_not(tmp_path, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://user:hunter2@127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        up = look(LocalStore(tmp_path))
    down = look(LocalStore(tmp_path))
    assert (up["mlflow server"].verdict, down["mlflow server"].verdict) == ("ok", "bad")
    assert not any("hunter2" in check.detail for check in (*up.values(), *down.values()))


SMALL = 'mount -t tmpfs -o size=64m tmpfs /dev/shm && exec "$@"'  # as Docker gives it, in a mount namespace of its own
SMALL_RUN = """
import logging, ray
from infra import cluster
from infra.store import LocalStore
from workflows.cli.doctor import checks
for check in checks(LocalStore(".")):
    if check.name == "memory":
        print(check.verdict, check.detail)
logging.basicConfig(format="%(message)s")
with cluster.connect(cpus=1):
    print(len(ray.get(ray.put(bytes(100_000_000)))))
"""


@pytest.mark.ray
@pytest.mark.long
def test_little_shared_memory_is_told_and_does(tmp_path):
    alone = ["unshare", "--mount", "sh", "-c", SMALL, "sh"]
    try:
        subprocess.run([*alone, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs the right to mount")
    command = [*alone, sys.executable, "-c", SMALL_RUN]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    check, held = done.stdout.splitlines()
    assert check.startswith("warn") and held == "100000000"
    for told in (check, done.stderr):
        assert "/dev/shm has 0.07 GB free" in told and "--shm-size=" in told and "medium: Memory" in told


def test_a_ray_head_that_answers_is_fine(tmp_path, monkeypatch, ray_cluster):
    import ray

    for address in ("local", ray.get_runtime_context().gcs_address):
        monkeypatch.setenv("RAY_ADDRESS", address)
        assert look(LocalStore(tmp_path))["ray"].verdict == "ok"


@pytest.mark.long
def test_a_head_that_wants_a_token_is_told_from_one_that_is_none(clipline, tmp_path, monkeypatch, ray_cluster):
    """As ``ray start`` does where Ray once wrote one; whoever names its address has to say so."""
    import ray

    recipe = Path(__file__).parents[1] / "toy_recipe.py"
    monkeypatch.setenv("RAY_ADDRESS", ray.get_runtime_context().gcs_address)
    monkeypatch.delenv("RAY_AUTH_MODE")
    told = clipline("run", str(recipe), "--root", str(tmp_path), code=1).stderr
    assert "wants a token" in told and "fix: RAY_AUTH_MODE=token" in told and "unset RAY_ADDRESS" not in told


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("http://127.0.0.1:8265", "expected host:port"),
        ("127.0.0.1", "expected host:port"),
        ("127.0.0.1:99999", "expected host:port"),
        ("127.0.0.1:0", "expected host:port"),
        ("user@127.0.0.1:6379", "expected host:port"),
        ("no-such-host.invalid:6379", "no-such-host.invalid:6379: "),
    ],
)
def test_an_address_that_is_none_is_told_at_once(address, reason):
    assert reason in why_unreachable(address)


@pytest.mark.long
@pytest.mark.alone
def test_what_takes_connections_and_is_no_ray_head_is_told_within_seconds():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert "did not answer as a Ray head" in why_unreachable(f"127.0.0.1:{silent.getsockname()[1]}", timeout_s=4.0)
