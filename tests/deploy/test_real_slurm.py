"""The Slurm script on a Slurm of two nodes, daemons of this machine: Debian's slurm-wlm and munge, as root."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from slurm import REPO, SCRIPT

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")
pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.skipif(
        os.geteuid() != 0 or not all(map(shutil.which, PROGRAMS)), reason="needs root and Debian's slurm-wlm and munge"
    ),
]

CONF = """ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/linear
MpiDefault=none
ReturnToService=2
NodeName=node1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2 State=UNKNOWN
NodeName=node2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2 State=UNKNOWN
PartitionName=all Nodes=node[1-2] Default=YES MaxTime=INFINITE State=UP
"""


# A node with a /tmp of its own, in the folder $0, but for the paths that all nodes share.
NODE = """set -e
for path in "$@"; do mkdir -p "$0$path"; mount --bind "$path" "$0$path"; done
mount --rbind "$0/tmp" /tmp
exec slurmd -D -N node2
"""


def until(holds, seconds: float):
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.5)


@contextmanager
def daemon(*command: str, log: Path):
    """A daemon in the foreground, until the end of the block."""
    with log.open("a") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        yield
    finally:
        process.terminate()
        process.wait(60)


def free_ports(count: int) -> list[int]:
    with ExitStack() as opened:
        sockets = [opened.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A Slurm of two nodes of two CPUs each, and a function that asks its programs."""
    folder, log = tmp_path / "slurm", tmp_path / "daemons.log"
    for name in ("state", "node1", "node2"):
        (folder / name).mkdir(parents=True)
    conf, key = folder / "slurm.conf", folder / "munge.key"
    conf.write_text(CONF.format(folder=folder, host=socket.gethostname().partition(".")[0], ports=free_ports(3)))
    key.touch(0o600)
    key.write_bytes(os.urandom(1024))
    monkeypatch.setenv("SLURM_CONF", str(conf))
    own = [
        f"--{name}={folder}/munge.{name.partition('-')[0]}" for name in ("socket", "key-file", "pid-file", "seed-file")
    ]
    with ExitStack() as running:
        running.enter_context(daemon("munged", "--foreground", "--force", f"--log-file={log}", *own, log=log))
        until((folder / "munge.socket").exists, 10)
        running.enter_context(daemon("slurmctld", "-D", log=log))
        running.enter_context(daemon("slurmd", "-D", "-N", "node1", log=log))
        other = map(str, (tmp_path / "other", tmp_path, REPO))
        running.enter_context(daemon("unshare", "--mount", "sh", "-c", NODE, *other, log=log))

        def ask(*command: object) -> str:
            return subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True).stdout.strip()

        until(lambda: ask("sinfo", "--noheader", "--format=%D %t") == "2 idle", 60)
        yield ask
        ask("scancel", "--full", "--user=root")
        until(lambda: ask("squeue", "--noheader") == "", 60)


@pytest.mark.timeout(600)
def test_a_run_on_two_nodes_is_stopped_queued_again_and_finished(slurm, tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    clipline = tmp_path / "bin/clipline"
    clipline.write_text(f'#!/bin/sh\nexec {sys.executable} -m workflows.cli "$@"\n')
    clipline.chmod(0o755)
    for name, value in {
        "PATH": f"{tmp_path}/bin:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(REPO),
        "CLIPLINE_ROOT": str(tmp_path / "root"),
        "TOY_DIARY": str(tmp_path / "diary"),
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", raising=False)  # the tests' own: Ray on one node
    shutil.copy(REPO / "tests/workflows/toy_recipe.py", tmp_path / "toy.py")
    output, diary = tmp_path / "job.log", tmp_path / "diary"
    options = ("--parsable", "--nodes=2", "--cpus-per-task=2", f"--chdir={tmp_path}", f"--output={output}")
    job = slurm("sbatch", *options, SCRIPT, "toy.py", "--set", "shards=6", "--set", "pause_s=2")

    def state() -> str:
        return slurm("squeue", "--noheader", "--format=%T", f"--jobs={job}")

    def begun() -> list[str]:
        return diary.read_text().splitlines() if diary.exists() else []

    # As before its time limit, the batch shell alone is told. Four CPUs work: of five shards begun one is committed.
    until(lambda: len(begun()) >= 5, 180)
    assert list(tmp_path.glob(f"other/tmp/ray-{job}/ray/session_*"))
    slurm("scancel", "--batch", "--signal=TERM", job)
    until(lambda: state() == "PENDING", 120)
    assert "state is saved; queued again" in output.read_text()
    # Slurm lets a job that is queued again wait for two minutes.
    slurm("scontrol", "update", f"JobId={job}", "StartTime=now")
    until(lambda: state() in ("", "COMPLETED"), 240)
    assert f"JobId={job} " in (shown := slurm("scontrol", "show", "job", job)) and "JobState=COMPLETED" in shown
    assert "Restarts=1" in shown and "ExitCode=0:0" in shown
    assert list((tmp_path / "root").glob("artifacts/both/*/manifest.json"))
    assert len(set(begun())) == 8 and len(begun()) <= 8 + 4  # what was at work is repeated, at most
    assert not list(tmp_path.glob("other/tmp/ray-*")) and not Path(f"/tmp/ray-{job}").exists()
