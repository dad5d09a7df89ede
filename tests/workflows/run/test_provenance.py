"""What was true when an artifact was made: the same for the same code and inputs, and no secrets of the machine."""

from __future__ import annotations

import os
import re
import socket
import subprocess

import pytest

from infra.config import canonical_json
from infra.run.manifest import File, Manifest
from workflows.run import provenance as module
from workflows.run.drift import source_digests
from workflows.run.provenance import provenance


def run(config, inputs, context): ...


def test_it_names_source_versions_and_the_content_of_each_input():
    files = [File(path="a", bytes=1, sha256="0" * 64)]
    inputs = {name: Manifest(stage=name, digest="d", identity={}, files=files[: len(name) - 1]) for name in ("b", "aa")}
    found = provenance(run, None, inputs)
    assert found["source"] == source_digests(run)
    assert list(found["inputs"].items()) == [(name, inputs[name].content_digest) for name in ("aa", "b")]
    assert {"python", "ray", "torch", "pyarrow"} <= set(found["versions"])
    assert canonical_json(found) == canonical_json(provenance(run, None, dict(reversed(inputs.items()))))


def test_it_says_nothing_of_machine_user_or_folder():
    text = canonical_json(provenance(run, None, {})).decode()
    assert socket.gethostname() not in text
    assert os.getcwd() not in text


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    def git(*words):
        who = ("-c", "user.name=t", "-c", "user.email=t@t.example")
        subprocess.run(["git", *who, *words], cwd=tmp_path, check=True, capture_output=True)

    git("init", "-q")
    (tmp_path / "file.py").write_text("1\n")
    git("add", ".")
    git("commit", "-q", "-m", "x")
    monkeypatch.setattr(module, "__file__", str(tmp_path / "file.py"))
    module.commit.cache_clear()
    yield tmp_path
    module.commit.cache_clear()


def test_the_commit_says_whether_there_are_local_changes(checkout):
    clean = module.commit()
    assert re.fullmatch(r"[0-9a-f]{12}", clean)
    (checkout / "new.txt").write_text("untracked files are no change\n")
    (checkout / "file.py").write_text("2\n")
    module.commit.cache_clear()
    assert module.commit() == f"{clean}+"


def test_the_checkout_clipline_is_installed_in_is_not_clipline_s(checkout, monkeypatch):
    (checkout / "venv").mkdir()
    monkeypatch.setattr(module, "__file__", str(checkout / "venv" / "provenance.py"))
    assert module.commit() == ""


def test_outside_a_checkout_there_is_no_commit(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "__file__", str(tmp_path / "file.py"))
    module.commit.cache_clear()
    assert module.commit() == ""
    module.commit.cache_clear()
