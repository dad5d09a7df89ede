"""The Slurm script: Ray on the nodes of an allocation, the run on top, and again until it is done."""

from __future__ import annotations

import signal
import time

import pytest
from slurm import SCRIPT, calls, said, start

pytestmark = pytest.mark.alone  # sends signals at the right moment

RAY = """#!/usr/bin/env bash
echo "ray $* auth=$RAY_AUTH_MODE token=${#RAY_AUTH_TOKEN}" >>"$FAKE_LOG"
case "$1" in
  start) exec sleep 60 ;;
  status) printf 'Active:\n 1 node_a\n%sPending:\n 1 node_z\n' "${FAKE_OTHERS:-}" ;;
esac
"""
CLIPLINE = """#!/usr/bin/env bash
echo "clipline $* at $RAY_ADDRESS" >>"$FAKE_LOG"
trap 'echo TERM >>"$FAKE_LOG"; sleep 0.5; exit 75' TERM
for _ in $(seq "$FAKE_SECONDS"); do sleep 0.1; done
exit "$FAKE_CODE"
"""
PROGRAMS = {"ray": RAY, "clipline": CLIPLINE}


def until(holds, seconds: float = 20.0):
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_ray_starts_on_all_nodes_and_the_run_on_top(tmp_path):
    given = {"SLURM_JOB_NODELIST": "node[1-3]", "SLURM_JOB_ID": "4711", "FAKE_SECONDS": "1", "FAKE_CODE": "0"}
    given["FAKE_OTHERS"] = " 1 node_b\nIdle:\n 1 node_c\n"
    job = start(tmp_path, PROGRAMS, "train", "--set", "a=b c", **given)
    assert job.wait(20) == 0, said(tmp_path).read_text()
    lines = calls(tmp_path)
    address = "127.0.0.1:24711"
    head = next(line for line in lines if line.startswith("srun") and "--head" in line)
    assert "--nodes=1 --ntasks=1 --overlap --nodelist=node1" in head
    assert "--node-ip-address=127.0.0.1 --port=24711 --num-cpus=2" in head
    workers = next(line for line in lines if f"--address={address}" in line and line.startswith("srun"))
    assert "--nodes=2 --ntasks=2 --ntasks-per-node=1 --overlap --exclude=node1" in workers
    assert f"clipline run --wait train --set a=b c at {address}" in lines
    assert lines[-1] == "srun --nodes=3 --ntasks=3 --ntasks-per-node=1 --overlap rm -rf /tmp/ray-4711"
    assert all("auth=token token=64" in line for line in lines if line.startswith("ray"))
    assert not any(line.startswith("scontrol") for line in lines)


def test_the_signal_before_the_time_limit_saves_and_queues_again(tmp_path):
    job = start(tmp_path, PROGRAMS, "train", SLURM_JOB_ID="4712", FAKE_SECONDS="300", FAKE_CODE="0")
    until(lambda: any(line.startswith("clipline") for line in calls(tmp_path)))
    time.sleep(0.2)
    job.send_signal(signal.SIGTERM)
    time.sleep(0.1)
    job.send_signal(signal.SIGTERM)  # a second one would end clipline at once
    assert job.wait(20) == 75
    assert calls(tmp_path).count("TERM") == 1
    assert calls(tmp_path)[-2].endswith("rm -rf /tmp/ray-4712")
    assert calls(tmp_path)[-1] == "scontrol requeue 4712"


@pytest.mark.parametrize("code", [0, 1, 2, 73])
def test_what_is_done_or_wrong_is_not_queued_again(tmp_path, code):
    job = start(tmp_path, PROGRAMS, "train", FAKE_SECONDS="0", FAKE_CODE=str(code))
    assert job.wait(20) == code
    assert not any(line.startswith("scontrol") for line in calls(tmp_path))


def test_a_head_that_does_not_start_ends_the_job(tmp_path):
    broken = "#!/bin/sh\nexit 1\n"
    job = start(tmp_path, {**PROGRAMS, "ray": broken}, "train")
    assert job.wait(20) == 1
    assert "Ray's head did not start on node1" in said(tmp_path).read_text()
    assert not any(line.startswith("clipline") for line in calls(tmp_path))


ONLY_HERE = RAY.replace("start) ", 'start) [[ $* == *--head* ]] || { echo "no room in /tmp"; exit 1; }; ')


@pytest.mark.parametrize(("ray", "patience"), [(RAY, "1"), (ONLY_HERE, "60")])
def test_a_node_that_does_not_join_ends_the_job(tmp_path, ray, patience):
    given = {"SLURM_JOB_NODELIST": "node[1-3]", "FAKE_OTHERS": " 1 node_b\n", "CLIPLINE_JOIN_S": patience}
    job = start(tmp_path, {**PROGRAMS, "ray": ray}, "train", **given)
    assert job.wait(20) == 1
    assert "Ray runs on 2 of 3 nodes" in (text := said(tmp_path).read_text())
    assert (ray is RAY) or text.index("no room in /tmp") < text.index("Ray runs on")
    assert not any(line.startswith("clipline") for line in calls(tmp_path))


def test_slurm_gives_more_time_than_the_stages_take():
    """clipline gives stages 30 s to save, and ends within some seconds more."""
    text = SCRIPT.read_text()
    assert "#SBATCH --signal=B:TERM@180\n" in text
    assert "#SBATCH --requeue\n" in text
    assert "#SBATCH --open-mode=append\n" in text
