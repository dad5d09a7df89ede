"""The doctor finds what would spoil a run, and shows no secrets."""

from __future__ import annotations

import socket

import pytest

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
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{server.getsockname()[1]}")
        up = look(LocalStore(tmp_path))
    down = look(LocalStore(tmp_path))
    assert (up["mlflow server"].verdict, down["mlflow server"].verdict) == ("ok", "bad")
    assert (up["ray"].verdict, down["ray"].verdict) == ("ok", "bad")
    assert not any("hunter2" in check.detail for check in (*up.values(), *down.values()))


@pytest.mark.parametrize("address", ["auto", "local"])
def test_rays_own_words_are_no_addresses(tmp_path, monkeypatch, address):
    monkeypatch.setenv("RAY_ADDRESS", address)
    assert look(LocalStore(tmp_path))["ray"].verdict == "ok"
