"""The engine with real Ray and real kills: whatever happens, the end is what an undisturbed run ends with.

A driver that is to be killed is a process of its own, which costs it seconds of imports and of workers started anew.
All others work in this process, on the same cluster, and find both there already.
"""

from __future__ import annotations

import io
import itertools
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stderr, redirect_stdout, suppress
from pathlib import Path

import pytest

from infra.errors import LeaseHeld
from infra.run.lease import Lease
from infra.run.signals import stop_signals
from infra.store import LocalStore
from workflows.cli import app as cli

# MLflow's own use of SQLAlchemy, deprecated since 2.1
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")

TELL = "import sys; open(sys.argv[1], chr(97)).write(sys.stdin.read() + chr(10))"  # appends a line

TOY = Path(__file__).parents[1] / "toy_recipe.py"


@pytest.fixture(scope="module")
def cluster_address(ray_cluster):
    """A Ray cluster that outlives the drivers killed here, as a real one does."""
    import ray

    return ray.get_runtime_context().gcs_address


class Driver:
    """``clipline`` below a root of its own, on the cluster at ``address``."""

    def __init__(self, root: Path, address: str) -> None:
        self.root, self.diary, self._address = root, root.parent / f"{root.name}.diary", address
        self.told = root.parent / f"{root.name}.told"
        self._env = {
            "CLIPLINE_ROOT": str(root),
            # one database for all: making one takes MLflow three seconds
            "MLFLOW_TRACKING_URI": f"sqlite:///{root.parent.parent}/mlflow.db",
            "TOY_DIARY": str(self.diary),
            "CLIPLINE_NOTIFY": f"{sys.executable} -c '{TELL}' {self.told}",
            "NO_COLOR": "1",
        }

    def start(self, *words: str, terminal: int | None = None, **env: str) -> subprocess.Popen[str]:
        """In a process of its own, which may be killed; on a ``terminal`` if it is given one."""
        command = [sys.executable, "-m", "workflows.cli", *words]
        env = {**os.environ, **self._env, "RAY_ADDRESS": self._address, **env}
        if terminal is not None:
            return subprocess.Popen(
                ["setsid", "--ctty", *command], env=env, text=True, stdin=terminal, stdout=terminal, stderr=terminal
            )
        return subprocess.Popen(command, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def __call__(self, *words: str, expect: int = 0) -> subprocess.CompletedProcess[str]:
        """In this process, to the end."""
        out, err = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
            for name, value in self._env.items():
                patch.setenv(name, value)
            patch.setattr(sys, "argv", ["clipline", *words])
            with pytest.raises(SystemExit) as caught:
                cli.main()
        code = caught.value.code or 0
        assert code == expect, f"exit code {code}\n{out.getvalue()}\n{err.getvalue()}"
        return subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())

    def manifests(self) -> dict[str, bytes]:
        return {path.parent.parent.name: path.read_bytes() for path in self.root.glob("artifacts/*/*/manifest.json")}

    def worked(self) -> Counter[str]:
        return Counter(self.diary.read_text().split()) if self.diary.exists() else Counter()

    def committed_shards(self) -> set[str]:
        return {f"{p.parent.parent.parent.name}/{p.stem}" for p in self.root.glob("artifacts/*/*/ledger/*.json")}

    def wait_for_failure(self) -> None:
        """Until an attempt at a stage has failed."""
        deadline = time.monotonic() + 60
        while not any('"stage_failed"' in journal.read_text() for journal in self.root.glob("runs/*/journal.jsonl")):
            assert time.monotonic() < deadline, "it never happened"
            time.sleep(0.02)

    def wait_for(self, process: subprocess.Popen[str], what) -> None:
        deadline = time.monotonic() + 60
        while not what():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline, "it never happened"
            time.sleep(0.02)


@pytest.fixture
def driver(tmp_path, cluster_address):
    return Driver(tmp_path / "root", cluster_address)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, cluster_address):
    """Manifests of a run nobody disturbed."""
    driver = Driver(tmp_path_factory.mktemp("undisturbed") / "root", cluster_address)
    driver("run", str(TOY))
    return driver.manifests()


def test_a_second_run_does_nothing_and_a_changed_field_reruns_only_what_depends_on_it(driver, undisturbed):
    driver("run", str(TOY))
    assert driver.manifests() == undisturbed
    before = driver.worked()

    again = driver("run", str(TOY))
    assert "nothing to do" in again.stderr
    assert driver.worked() == before

    plan = json.loads(driver("plan", str(TOY), "--set", "left.shards=4", "--json").stdout)
    assert {row["stage"]: row["action"] for row in plan} == {"left": "run", "right": "cached", "both": "run"}
    assert plan[0]["why"] == ["shards: 3 -> 4"]
    driver("run", str(TOY), "--set", "left.shards=4")
    first, second = json.loads(driver("ls", "--json").stdout)["runs"]
    assert (first["state"], first["stages_done"], first["changed"]) == ("done", 3, {})
    assert (second["state"], second["stages_done"], second["changed"]) == ("done", 3, {"left.shards": 4})
    assert driver.worked() - before == Counter({f"left/{n:05d}": 1 for n in range(4)})


def test_stdout_has_the_result_and_nothing_else(driver):
    done = driver("run", str(TOY), "--json")
    assert json.loads(done.stdout)["stages"].keys() == {"left", "right", "both"}
    assert "a service is up" in done.stderr


def test_a_forced_stage_that_comes_out_the_same_leaves_its_dependants_cached(driver):
    driver("run", str(TOY))
    forced = driver("run", str(TOY), "--force", "left")
    assert driver.worked()["left/00000"] == 2
    assert driver.worked()["right/00000"] == 1
    assert "both        cached" in forced.stderr


@pytest.mark.parametrize("point", [3, 6, 9, 12, 15, 18, 21])
def test_a_driver_killed_at_a_durable_write_is_continued_to_the_same_bytes(driver, undisturbed, point):
    process = driver.start("run", str(TOY), TOY_CRASH_AT=str(point))
    process.communicate(timeout=120)
    if process.returncode == 0:
        pytest.skip(f"the driver made fewer than {point} durable writes")
    assert process.returncode == -signal.SIGKILL
    kept, worked = driver.committed_shards(), driver.worked()
    driver("run", str(TOY))
    assert driver.manifests() == undisturbed
    for shard in kept:
        assert driver.worked()[shard] == worked[shard], f"{shard} was committed and yet done again"


def test_a_driver_killed_in_mid_stage_repeats_no_committed_shard(driver, undisturbed):
    process = driver.start("run", str(TOY), "--set", "pause_s=0.5")
    driver.wait_for(process, lambda: len(driver.committed_shards()) >= 2)
    process.kill()
    process.communicate()
    kept, worked = driver.committed_shards(), driver.worked()
    status = json.loads(driver("status", "--json").stdout)
    assert {stage["state"] for stage in status["stages"]} <= {"interrupted", "waiting", "done"}
    assert status["state"] == "interrupted" and f"clipline resume {status['run']}" in driver("status").stderr
    driver("resume")
    assert driver.manifests() == undisturbed
    assert all(driver.worked()[shard] == worked[shard] for shard in kept)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_signal_stops_the_run_and_resume_continues_it(driver, undisturbed, number, code):
    process = driver.start("run", str(TOY), "--set", "pause_s=0.5")
    driver.wait_for(process, lambda: len(driver.committed_shards()) >= 1)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert "clipline resume" in err
    assert json.loads(driver("ls", "--json").stdout)["runs"][0]["state"] == "stopped"
    driver("resume")
    assert driver.manifests() == undisturbed
    assert [json.loads(line)["status"] for line in driver.told.read_text().splitlines()] == ["stopped", "done"]
    assert "CLIPLINE_NOTIFY" not in "".join(path.read_text() for path in driver.root.glob("runs/*/*.json*"))
    assert str(driver.told) not in "".join(path.read_text() for path in driver.root.glob("runs/*/*.json*"))


def test_a_run_is_stopped_by_way_of_its_root(driver, undisturbed):
    process = driver.start("run", str(TOY), "--set", "pause_s=0.5")
    driver.wait_for(process, lambda: len(driver.committed_shards()) >= 1)
    assert "ended: preempted" in driver("stop").stderr
    _, err = process.communicate(timeout=60)
    assert process.returncode == 75 and "stopped by clipline stop" in err, err
    assert "is not running" in driver("stop").stderr
    driver("resume")  # the request of before stays, and asks nothing of this one
    assert driver.manifests() == undisturbed


@pytest.fixture
def hang_up_heard():
    """SIGHUP as a terminal's processes have it, also where the tests were started with nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("hang_up_heard")
def test_a_run_whose_terminal_is_closed_saves_its_state_and_can_be_resumed(driver, undisturbed):
    ours, its = os.openpty()
    process = driver.start("run", str(TOY), "--set", "pause_s=0.5", terminal=its)
    os.close(its)

    def shown_and_committed() -> bool:  # a terminal that nobody reads from would fill up
        if select.select([ours], [], [], 0)[0]:
            os.read(ours, 1 << 16)
        return len(driver.committed_shards()) >= 1

    driver.wait_for(process, shown_and_committed)
    os.close(ours)
    assert process.wait(timeout=60) == 75
    driver("resume")
    assert driver.manifests() == undisturbed


@pytest.mark.usefixtures("hang_up_heard")
def test_a_hang_up_that_is_to_be_ignored_asks_for_nothing():
    assert signal.SIGHUP in stop_signals()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    assert signal.SIGHUP not in stop_signals()


def test_the_second_of_two_runs_exits_73_naming_the_holder_or_waits(driver, undisturbed):
    first = driver.start("run", str(TOY), "--set", "pause_s=1.5")
    driver.wait_for(first, lambda: len(list(driver.root.glob("artifacts/*/*/lease/*"))) >= 2)
    waiting = driver.start("run", str(TOY), "--wait")
    refused = driver("run", str(TOY), expect=73)
    assert f"process {first.pid}" in refused.stderr
    assert "waiting for a sign of life" in refused.stderr
    assert json.loads(driver("ls", "--json").stdout)["runs"][0]["state"] == "running"
    assert first.wait(timeout=60) == 0
    assert waiting.wait(timeout=60) == 0, waiting.communicate()
    first.communicate()
    waiting.communicate()
    assert driver.manifests() == undisturbed
    assert max(driver.worked().values()) == 1


def test_gc_takes_nothing_from_a_run_that_works_although_no_record_names_it(driver, undisturbed):
    process = driver.start("run", str(TOY), "--set", "pause_s=0.5")
    driver.wait_for(process, lambda: len(list(driver.root.glob("artifacts/*/*/lease/*"))) >= 2)
    (record,) = driver.root.glob("runs/*/run.json")
    text = record.read_text()
    record.unlink()
    shown = driver("gc", "--delete")
    assert f"process {process.pid}" in shown.stderr
    assert "nothing can go" in shown.stderr
    record.write_text(text)
    assert process.wait(timeout=60) == 0
    process.communicate()
    driver("gc", "--delete")
    assert driver.manifests() == undisturbed
    assert max(driver.worked().values()) == 1


def test_a_run_makes_again_what_gc_removed_while_it_began(driver, undisturbed):
    driver("run", str(TOY))
    shutil.rmtree(driver.root / "runs")
    process = driver.start("run", str(TOY), "--set", "left.shards=4", "--wait")
    while process.poll() is None:  # at any moment of its start, its work and its end
        driver("gc", "--delete")
    assert process.returncode == 0, process.communicate()
    process.communicate()
    plan = json.loads(driver("plan", str(TOY), "--set", "left.shards=4", "--json").stdout)
    assert {row["action"] for row in plan} == {"cached"}
    assert len(list(driver.root.glob("artifacts/*/*/manifest.json"))) == 3
    assert driver.manifests()["right"] == undisturbed["right"]
    for stage in ("left", "right", "both"):
        driver("show", stage, "--verify")


def test_troubles_that_pass_are_retried(driver, undisturbed):
    for trouble in ("worker dies", "first attempt fails"):
        driver("run", str(TOY), "--set", f"trouble={trouble}", "--force", "left")
        assert driver.manifests() == undisturbed


def test_what_mlflow_refuses_fails_only_a_run_that_requires_tracking(driver):
    trouble = ("run", str(TOY), "--set", "trouble=nothing to show")
    driver(*trouble)
    failed = driver(*trouble, "--force", "right", "--tracking-required", expect=1)
    assert "1 events refused for good" in failed.stderr


def test_a_run_whose_mlflow_is_away_for_good_ends_as_any_other_and_can_be_sent_elsewhere(driver, undisturbed, caplog):
    there = driver._env["MLFLOW_TRACKING_URI"]
    driver._env["MLFLOW_TRACKING_URI"] = "http://127.0.0.1:9"  # a port where nobody listens
    said = driver("run", str(TOY)).stderr
    assert sum("MLflow cannot be reached" in message for message in caplog.messages) == 1
    assert "clipline sync" in said
    assert driver.manifests() == undisturbed
    driver._env["MLFLOW_TRACKING_URI"] = there
    driver("sync")
    assert {run.info.status for run in tracked(there, driver.root)} == {"FINISHED"}


def tracked(uri, root):
    """The MLflow runs of what ran below ``root``: one of the run, and one of each stage."""
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("toy").experiment_id
    found = client.search_runs([experiment], f"tags.`clipline.root` = '{(root / 'root.id').read_text()}'")
    assert len(found) == len({run.data.tags["clipline.stage"] for run in found}) == 4
    return found


def test_a_clock_that_jumps_changes_nothing(driver, undisturbed, monkeypatch):
    now, jumps = time.time, itertools.cycle([0, 86400, -86400, 3e8])
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: now() + next(jumps))
        driver("run", str(TOY))
    assert driver.manifests() == undisturbed
    assert json.loads(driver("ls", "--json").stdout)["runs"][0]["state"] == "done"
    assert {run.info.status for run in tracked(driver._env["MLFLOW_TRACKING_URI"], driver.root)} == {"FINISHED"}
    assert max(driver.worked().values()) == 1


def test_a_stage_that_hangs_is_cancelled_at_its_timeout_and_tried_again(driver, undisturbed):
    done = driver("run", str(TOY), "--set", "trouble=hangs", "--set", "timeout_s=3")
    assert "ran past 3 s" in done.stderr
    assert driver.manifests() == undisturbed


def test_a_stage_that_another_run_has_taken_before_it_is_tried_again_ends_the_run(driver):
    def take() -> Lease:
        driver.wait_for_failure()
        (folder,) = driver.root.glob("artifacts/left/*")
        deadline = time.monotonic() + 10
        while True:
            with suppress(LeaseHeld):
                return Lease.acquire(LocalStore(folder))
            assert time.monotonic() < deadline
            time.sleep(0.02)

    with ThreadPoolExecutor(1) as pool:
        taken = pool.submit(take)
        refused = driver("run", str(TOY), "--set", "trouble=first attempt fails", expect=73)
        taken.result().release()
    assert str(os.getpid()) in refused.stderr
    assert set(driver.manifests()) == {"right"}


def test_bad_data_is_not_retried_and_stages_that_have_begun_still_finish(driver):
    def let_the_other_fail() -> None:
        driver.wait_for_failure()
        Path(f"{driver.diary}.go").touch()

    troubles = ("--set", "left.trouble=bad data", "--set", "right.trouble=first attempt fails late")
    with ThreadPoolExecutor(1) as pool:
        told = pool.submit(let_the_other_fail)
        failed = driver("run", str(TOY), *troubles, expect=1)
        told.result()
    assert "this shard is bad" in failed.stderr
    assert "found: nonsense" in failed.stderr
    assert set(driver.manifests()) == {"right"}
    assert max(driver.worked().values()) == 1
    states = {s["name"]: s["state"] for s in json.loads(driver("status", "--json").stdout)["stages"]}
    assert states == {"left": "failed", "right": "done", "both": "waiting"}
    assert "this shard is bad" in driver("logs", "--stage", "left").stdout


def test_no_more_stages_run_at_once_than_are_allowed(driver):
    def most_at_once() -> int:
        (journal,) = driver.root.glob("runs/*/journal.jsonl")
        events = [json.loads(line)["event"] for line in filter(None, journal.read_text().splitlines())]
        running = [{"stage_started": 1, "stage_finished": -1}.get(event, 0) for event in events]
        return max(sum(running[:end]) for end in range(len(running)))

    driver("run", str(TOY), "--set", "pause_s=0.3")
    assert most_at_once() == 2
    shutil.rmtree(driver.root)
    driver("run", str(TOY), "--set", "pause_s=0.3", "--stages", "1")
    assert most_at_once() == 1
