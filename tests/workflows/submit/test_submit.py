"""Runs on a real Ray head with its job server: sent once, found again from anywhere, ended and continued."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from loopback import answer, serving

from infra.cluster.jobs import JobServer, is_exposed
from infra.errors import CliplineError
from infra.store import Store, open_store
from tests.faults.cluster.services import Service

HERE = Path(__file__).parents[1]
TOKEN, SECRET, BUCKET = "c1uster" * 6, "hunter2hunter2", "bucket0fthecluster"


class Cluster:
    """A Ray head in a process of its own, and the command line on a machine that may submit to it.

    The head alone reaches the bucket, with credentials of its own.
    """

    def __init__(self, folder: Path, ray: str) -> None:
        self.folder, self.ray, self.diary = folder, Path(ray), folder / "diary"
        env = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI")}
        bucket = {"AWS_ACCESS_KEY_ID": "cluster", "AWS_SECRET_ACCESS_KEY": BUCKET}
        env |= {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": TOKEN,
            "NO_COLOR": "1",
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        }
        diaries = {"TOY_DIARY": str(self.diary), "SWEEP_DIARY": str(self.diary)}
        self._head = subprocess.Popen(
            [sys.executable, HERE / "job_head.py", ray],
            env={**env, **diaries, **bucket}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.address = self._head.stdout.readline().strip()
        # What only the machine that submits has.
        self._env = {**env, "AWS_SECRET_ACCESS_KEY": SECRET, "MLFLOW_TRACKING_PASSWORD": SECRET}
        self._env["AWS_ENDPOINT_URL"] = "http://127.0.0.1:1"
        self.printed = ""

    def close(self) -> None:
        self._head.stdin.close()
        self._head.wait(60)
        self._head.stdout.close()

    def start(self, *words: object, **env: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "workflows.cli", *map(str, words)]
        pythonpath = os.pathsep.join(filter(None, (env.pop("PYTHONPATH", ""), str(HERE.parents[1]))))
        return subprocess.Popen(
            command, env={**self._env, "PYTHONPATH": pythonpath, **env}, cwd=self.folder, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def __call__(self, *words: object, code: int = 0, **env: str) -> str:
        return self.end(self.start(*words, **env), code)

    def end(self, process: subprocess.Popen[str], code: int = 0) -> str:
        out, err = process.communicate(timeout=120)
        self.printed += out + err
        assert process.returncode == code, out + err
        return out + err

    @contextmanager
    def another_node(self, pythonpath: Path) -> Iterator[None]:
        self._tell(pythonpath)
        try:
            yield
        finally:
            self._tell("")

    def _tell(self, line: object) -> None:
        self._head.stdin.write(f"{line}\n")
        self._head.stdin.flush()
        assert self._head.stdout.readline() == "done\n"

    def written(self) -> str:
        """The diary of all runs."""
        return self.diary.read_text() if self.diary.exists() else ""

    def jobs(self) -> list[dict]:
        request = urllib.request.Request(f"{self.address}/api/jobs/", headers={"Authorization": f"Bearer {TOKEN}"})
        with urllib.request.urlopen(request) as answered:
            return json.load(answered)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory, s3_server):
    ray = f"/tmp/clh-{os.getpid()}"  # sockets have short paths
    found = Cluster(tmp_path_factory.mktemp("laptop"), ray)
    yield found
    found.close()
    shutil.rmtree(ray)


@pytest.fixture
def mlflow(tmp_path):
    service = Service("mlflow", str(tmp_path / "mlflow.db"), log=tmp_path / "mlflow.log")
    yield service
    service.kill()


def committed(root: Store) -> set[str]:
    paths = [Path(path).parts for path in root.paths("artifacts") if "/ledger/" in path]
    return {f"{parts[1]}/{Path(parts[-1]).stem}" for parts in paths}


def until(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.ray
def test_a_run_is_submitted_once_and_stopped_and_continued_from_elsewhere(cluster, s3_server, s3_url, mlflow, tmp_path):
    root, recipe, go = s3_url, tmp_path / "toy_recipe.py", Path(f"{cluster.diary}.go")
    shutil.copy(HERE / "toy_recipe.py", recipe)
    submit = ["submit", recipe, "--set", "left.held=true", "--root", root, "--address", cluster.address]
    submit = partial(cluster.start, *submit, MLFLOW_TRACKING_URI=mlflow.url)
    elsewhere = partial(cluster, AWS_ENDPOINT_URL=s3_server, MLFLOW_TRACKING_URI=mlflow.url)
    mlflow.wait()
    # Two submit at the same moment, without a way to the bucket, and both go away.
    both = [cluster.end(process) for process in [submit(), submit()]]
    assert sorted("joined job" in text for text in both) == [False, True]
    assert all("preflight: Python" in text and f"{mlflow.url} answers" in text and "packed" in text for text in both)
    recipe.unlink()
    status = json.loads(elsewhere("status", "--root", root, "--json"))
    assert [stage["name"] for stage in status["stages"]] == ["left", "right", "both"]
    until(lambda: "left/00000" in committed(open_store(root)))
    # It is asked to stop by way of the root alone.
    assert "preempted" in elsewhere("stop", "--root", root)
    assert "is not running" in elsewhere("stop", "--root", root)
    kept = committed(open_store(root))
    assert "left/00000" in kept and "left/00001" not in kept
    assert "interrupted" in elsewhere("status", "--root", root)
    # It goes on as a second job, of the recipe's copy.
    go.touch()
    assert "submitted job" in elsewhere("resume", "--root", root, "--address", cluster.address)
    followed = elsewhere("logs", "-f", "--root", root)
    assert followed.count("stop_requested") == 1 and followed.splitlines()[-1].split()[1:] == ["run_finished", "done"]
    ours = [job for job in cluster.jobs() if root in job["metadata"]["root"]]
    assert {job["submission_id"].rpartition("-")[2] for job in ours} == {"1", "2"}
    assert next(job for job in ours if job["submission_id"].endswith("-1"))["driver_exit_code"] == 75
    worked = Counter(cluster.diary.read_text().split())
    assert {worked[shard] for shard in kept} == {1}
    # Here, too, it is a run like any other.
    assert "nothing to do" in elsewhere("resume", "--root", root)
    assert elsewhere("ls", "--root", root).split()[3] == "done"
    shutil.copy(HERE / "toy_recipe.py", recipe)
    assert "nothing to do" in cluster.end(submit())


@pytest.mark.ray
def test_a_sweep_is_one_job_that_is_stopped_and_continued_by_its_name(cluster, tmp_path):
    root, recipe, before = tmp_path / "root", tmp_path / "sweep_recipe.py", len(cluster.written())
    shutil.copy(HERE / "sweep_recipe.py", recipe)
    sweep = ["sweep", recipe, "--grid", "lr=0.1,1.0", "--set", "train.held=true"]
    sweep += ["--root", root, "--address", cluster.address]
    both = [cluster.end(process) for process in [cluster.start(*sweep), cluster.start(*sweep, "--primary", "acc1")]]
    assert sorted("joined job" in text for text in both) == [False, True]
    (name,) = {text.split()[0] for text in both}
    status = json.loads(cluster("status", name, "--root", root, "--json"))
    assert [[stage["name"] for stage in run["stages"]] for run in status["runs"]] == [["data", "train", "zeroshot"]] * 2
    # One name stops all runs, and continues them, of the recipe's copy.
    until(lambda: cluster.written()[before:].count("begin train") == 2)
    assert f"{name} ended: preempted" in cluster("stop", name, "--root", root)
    assert Counter(path.parts[-3] for path in root.glob("artifacts/*/*/manifest.json")) == {"data": 1, "train": 2}
    recipe.unlink()
    assert "submitted job" in cluster("resume", name, "--root", root, "--address", cluster.address)
    followed = [line.split()[1:] for line in cluster("logs", "-f", name, "--root", root).splitlines()]
    runs = {run["run"] for run in status["runs"]}
    assert {line[0] for line in followed if line[1:] == ["run_finished", "done"]} == runs
    ours = [job for job in cluster.jobs() if str(root) in job["metadata"]["root"]]
    assert {job["submission_id"].rpartition("-")[2] for job in ours} == {"1", "2"}
    # The same command starts nothing; each stage has begun once.
    shutil.copy(HERE / "sweep_recipe.py", recipe)
    assert "2 runs, 0 of 5 stages to run" in cluster(*sweep)
    begun = Counter(line.split()[1] for line in cluster.written()[before:].splitlines() if "begin" in line)
    assert len(begun) == 5 and set(begun.values()) == {1}
    assert (root / "sweeps" / name / "comparison.json").is_file()


@pytest.mark.ray
def test_other_versions_and_an_unreachable_root_are_told_before_anything_is_written(cluster, tmp_path):
    (tmp_path / "planted/ftfy-0.0.1.dist-info").mkdir(parents=True)
    (tmp_path / "planted/ftfy-0.0.1.dist-info/METADATA").write_text(
        "Metadata-Version: 2.1\nName: ftfy\nVersion: 0.0.1\n"
    )
    submit = ["submit", HERE / "toy_recipe.py", "--address", cluster.address, "--root"]
    other = {"PYTHONPATH": str(tmp_path / "planted")}
    told = cluster(*submit, tmp_path / "root", code=1, **other)
    (line,) = [line for line in told.splitlines() if line.startswith("preflight")]
    assert "ftfy 6" in line and "instead of 0.0.1" in line
    assert not (tmp_path / "root").exists()
    told = cluster(*submit, "/proc/none", code=1)
    assert "preflight: the cluster cannot run this" in told and "store: /proc/none" in told
    assert "Traceback" not in told
    assert "nothing to do" not in cluster(*submit, tmp_path / "root", "--other-versions", "--until", "left", **other)


@pytest.mark.ray
def test_a_node_with_other_versions_is_named(cluster, tmp_path):
    (tmp_path / "planted/ftfy-0.0.1.dist-info").mkdir(parents=True)
    (tmp_path / "planted/ftfy-0.0.1.dist-info/METADATA").write_text(
        "Metadata-Version: 2.1\nName: ftfy\nVersion: 0.0.1\n"
    )
    submit = ["submit", HERE / "toy_recipe.py", "--address", cluster.address, "--root", tmp_path / "root"]
    with cluster.another_node(tmp_path / "planted"):
        told = cluster(*submit, code=1)
        assert "nodes of the cluster have other versions" in told and told.count("ftfy 0.0.1 instead of") == 1
        assert "Traceback" not in told and not (tmp_path / "root").exists()
        cluster(*submit, "--until", "left", "--other-versions")


@pytest.mark.ray
def test_a_job_is_stopped_before_its_run_has_begun(cluster, tmp_path):
    submit = ["submit", HERE / "toy_recipe.py", "--set", "pause_s=60", "--address", cluster.address]
    submitting = cluster.start(*submit, "--root", tmp_path / "root")
    job, deadline = "", time.monotonic() + 60
    while not job and time.monotonic() < deadline:
        if found := re.search(r"submitted job (\S+)", submitting.stderr.readline()):
            job = found[1]
    assert f"{job} was asked to stop" in cluster("stop", job, "--address", cluster.address)
    cluster.end(submitting, code=1)
    assert "is over" in cluster("stop", job.rpartition("-")[0], "--address", cluster.address, code=2)
    assert "there is no job" in cluster("stop", "clipline-none", "--address", cluster.address, code=2)


@pytest.mark.ray
def test_no_secret_of_the_submitter_is_written_anywhere(cluster, tmp_path):
    submit = ["submit", HERE / "toy_recipe.py", "--root", tmp_path / "root", "--address", cluster.address]
    submit += ["--until", "right"]
    for setting in (f"trouble={SECRET}", "trouble=https://me:pass@host/"):
        told = cluster(*submit, "--set", setting, code=2)
        assert "holds a secret" in told
    cluster(*submit, MLFLOW_TRACKING_URI="")
    cluster("logs", "-f", "--root", tmp_path / "root")
    for code, token in ((1, "wr0ng" * 8), (1, "")):
        told = cluster(*submit, code=code, RAY_AUTH_TOKEN=token, HOME=str(tmp_path))
        assert "wants a token" in told and "Traceback" not in told
    everything = [path for folder in (tmp_path, cluster.ray, cluster.folder) for path in folder.rglob("*")]
    files = [
        path for path in everything if path.is_file() and not path.name.endswith("-journal")
    ]  # SQLite's, for a moment
    assert any(path.name.startswith("job-driver-clipline-toy_recipe-") for path in files)
    for secret in (SECRET, TOKEN, BUCKET):
        assert secret not in cluster.printed + json.dumps(cluster.jobs())
        assert [path for path in files if secret.encode() in path.read_bytes()] == []


@pytest.mark.alone
@pytest.mark.parametrize(
    "address", ["http://127.0.0.1:1", "http://127.0.0.1:99999", "ray://127.0.0.1:10001", "auto", "127.0.0.1:8265"]
)
def test_an_address_without_a_job_server_is_told_at_once(address):
    began = time.monotonic()
    with pytest.raises(CliplineError, match=r"job server"):
        JobServer(address)
    assert time.monotonic() - began < 6


def test_another_server_is_told_from_a_job_server():
    with serving({"/api/version": answer(b"<p>hello")}) as served, pytest.raises(CliplineError) as caught:
        JobServer(f"http://127.0.0.1:{served.port}")
    assert "something else answers there" in str(caught.value)


def test_a_server_that_other_machines_reach_needs_a_token(monkeypatch):
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    addresses = ["http://127.0.0.1:8265", "http://localhost:8265", "http://[::1]:8265", "http://10.0.0.1:8265"]
    assert [is_exposed(address) for address in [*addresses, "https://ray.example"]] == [False] * 3 + [True] * 2
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    assert not is_exposed("http://10.0.0.1:8265")
