"""The shard loop on a real Ray cluster: committed shards stay, transient failures are retried, others end the stage."""

from __future__ import annotations

import os
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest

from infra.cluster import Limits, run_batches, run_shards
from infra.cluster.limits import task_options, warn_if_none_fits
from infra.cluster.loop import ShardLoop
from infra.errors import CliplineError, DataError, DeadlineError, Preempted, StageFailed, TransientError
from infra.events import Progress, ShardRetry
from infra.run.context import Context
from infra.run.manifest import Funnel, ShardRecord

pytestmark = pytest.mark.usefixtures("ray_cluster")


@pytest.fixture(autouse=True, scope="module")
def work_travels_with_its_task():
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a test module
    yield
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr("infra.cluster.loop.backoff", lambda attempt: 0.0)


@pytest.fixture
def events():
    return []


@pytest.fixture
def context(tmp_path, events):
    return Context(tmp_path / "artifact", stage="toy", emit=events.append)


# --- work, run in Ray's workers. `diary` is a folder where every call leaves a file.


def note(diary: Path, spec: str) -> int:
    """Put this call on record; how many there were of this shard before."""
    before = len(list(diary.glob(f"{spec}.*")))
    (diary / f"{spec}.{before}.{os.getpid()}").touch()
    return before


def double(diary: Path, spec: str, output) -> ShardRecord:
    note(diary, spec)
    output.write(f"data/{spec}", spec.encode() * 2, rows=1)
    return output.commit(Funnel(unit="rows", entered=1, kept=1), {"spec": spec})


def fail_at_first(error: BaseException, diary: Path, spec: str, output) -> ShardRecord:
    if note(diary, spec) == 0 and spec == "bad":
        raise error
    return output.commit(facts={"spec": spec})


def always_fail(error: BaseException, diary: Path, spec: str, output) -> ShardRecord:
    note(diary, spec)
    raise error


def die_at_first(diary: Path, spec: str, output) -> ShardRecord:
    if note(diary, spec) == 0 and spec == "bad":
        os._exit(1)
    return output.commit(facts={"spec": spec})


def hang_at_first(diary: Path, spec: str, output) -> ShardRecord:
    if note(diary, spec) == 0 and spec == "bad":
        threading.Event().wait()
    return output.commit(facts={"spec": spec})


def hang(spec: str, output) -> ShardRecord:
    threading.Event().wait()
    raise AssertionError


def take_a_while(diary: Path, spec: str, output) -> ShardRecord:
    running = diary / f"running-{spec}"
    running.touch()
    (diary / f"saw-{spec}-{len(list(diary.glob('running-*')))}").touch()
    time.sleep(0.15)  # the time the work takes
    running.unlink()
    return output.commit()


def return_nothing(spec: str, output) -> None:
    output.write("data/x", b"")


@pytest.fixture
def diary(tmp_path):
    (tmp_path / "diary").mkdir()
    return tmp_path / "diary"


def calls(diary: Path) -> dict[str, int]:
    names = [path.name.split(".")[0] for path in diary.iterdir()]
    return {name: names.count(name) for name in sorted(set(names))}


def stumble(diary: Path, batch) -> list[ShardRecord]:
    """Work on a batch backwards, and die the first time at the bad shard."""
    for spec, output in reversed(batch):
        if note(diary, spec) == 0 and spec == "bad":
            os._exit(1)
        yield output.commit(facts={"spec": spec, "with": [other for other, _ in batch]})


def skip_last(batch) -> list[ShardRecord]:
    for _, output in batch[:-1]:
        yield output.commit()


def named(*names: str) -> list[tuple[str, str]]:
    return [(f"shard-{name}", name) for name in names]


# --- the loop


def test_records_come_in_the_order_of_the_shards(context, diary, events):
    done = []
    records = run_shards(context, named("c", "a", "b"), partial(double, diary), on_done=done.append)
    assert [record.facts["spec"] for record in records] == ["c", "a", "b"]
    assert [context.store.read(record.files[0].path) for record in records] == [b"cc", b"aa", b"bb"]
    assert sorted(record.shard for record in done) == ["shard-a", "shard-b", "shard-c"]
    progress = [(event.done, event.total) for event in events if isinstance(event, Progress)]
    assert progress[0] == (0, 3)
    assert progress[-1] == (3, 3)
    assert progress == sorted(progress)


def test_no_shards_are_no_work(context, events):
    assert list(run_shards(context, [], hang)) == []
    assert [(event.done, event.total) for event in events] == [(0, 0)]


def test_committed_shards_are_not_worked_on_again(context, diary, events):
    first = run_shards(context, named("a", "b"), partial(double, diary))
    done = []
    again = run_shards(context, named("a", "b", "c"), partial(double, diary), on_done=done.append)
    assert calls(diary) == {"a": 1, "b": 1, "c": 1}
    assert again[:2] == list(first)
    assert [record.shard for record in done] == ["shard-c"]
    assert [event.done for event in events if isinstance(event, Progress)][-2:] == [2, 3]


def test_two_shards_of_one_name_are_refused(context):
    with pytest.raises(DataError, match="same name"):
        run_shards(context, [("a", 1), ("a", 2)], hang)


def test_work_that_commits_nothing_is_an_error(context):
    with pytest.raises(CliplineError, match="committed nothing"):
        run_shards(context, named("a"), return_nothing)


# --- batches


def test_a_batch_is_worked_on_together(context, diary, events):
    records = run_batches(context, named(*"abcde"), partial(stumble, diary), size=2)
    assert [record.facts["spec"] for record in records] == list("abcde")
    assert [record.facts["with"] for record in records] == [["a", "b"], ["a", "b"], ["c", "d"], ["c", "d"], ["e"]]
    progress = [event.done for event in events if isinstance(event, Progress)]
    assert (progress[0], progress[-1]) == (0, 5)
    assert progress == sorted(progress)


def test_of_a_batch_that_fails_only_the_rest_is_tried_again(context, diary, events):
    records = run_batches(context, named("a", "bad", "c", "d"), partial(stumble, diary), size=4)
    assert calls(diary) == {"a": 1, "bad": 2, "c": 1, "d": 1}
    assert [len(record.facts["with"]) for record in records] == [2, 2, 4, 4]
    assert [event.attempt for event in events if isinstance(event, ShardRetry)] == [1]


def test_a_batch_that_leaves_a_shard_out_is_an_error(context):
    with pytest.raises(CliplineError, match="shard-c committed nothing"):
        run_batches(context, named("a", "b", "c"), skip_last, size=3)


@pytest.mark.parametrize(("task_s", "most"), [(0.0, 40), (60.0, 16)])
def test_short_shards_share_tasks_that_are_enough_for_all_cpus(context, diary, events, monkeypatch, task_s, most):
    tasks = []
    monkeypatch.setattr("infra.cluster.loop._TASK_S", task_s)
    submit = ShardLoop._submit

    def counted(loop):
        before = set(loop._running)
        submit(loop)
        tasks.extend(set(loop._running) - before)

    monkeypatch.setattr(ShardLoop, "_submit", counted)
    shards = [(f"{number:02d}", f"{number:02d}") for number in range(40)]
    records = run_shards(context, shards, partial(double, diary))
    assert [record.facts["spec"] for record in records] == [spec for _, spec in shards]
    assert len(tasks) == most if task_s == 0 else 4 <= len(tasks) <= most


def test_thousands_become_pieces_and_are_not_done_again(context, diary, monkeypatch):
    monkeypatch.setattr("infra.run.ledger.PIECE", 4)
    first = run_shards(context, named(*"abcdefghij"), partial(double, diary))
    assert [piece.shards for piece in first.pieces] == [4, 4]
    again = run_shards(context, named(*"abcdefghij"), partial(double, diary))
    assert list(again) == list(first)
    assert [record.facts["spec"] for record in again] == list("abcdefghij")
    assert set(calls(diary).values()) == {1}
    assert context.finish(again) == context.finish(first)


# --- errors


@pytest.mark.parametrize(
    "error",
    [TransientError("busy"), ConnectionResetError("reset"), TimeoutError("slow"), OSError(5, "I/O error")],
    ids=repr,
)
def test_transient_errors_are_retried(context, diary, events, error):
    records = run_shards(context, named("a", "bad"), partial(fail_at_first, error, diary))
    assert [record.facts["spec"] for record in records] == ["a", "bad"]
    assert calls(diary) == {"a": 1, "bad": 2}
    [retry] = [event for event in events if isinstance(event, ShardRetry)]
    assert (retry.shard, retry.attempt) == ("shard-bad", 1)
    assert retry.error == repr(error)


@pytest.mark.parametrize(
    "error", [ValueError("wrong"), DataError("bad row", found="x"), OSError(28, "No space left on device")], ids=repr
)
def test_other_errors_are_raised_at_once_and_unchanged(context, diary, error):
    with pytest.raises(type(error), match=r"wrong|bad row|No space") as caught:
        run_shards(context, named("bad"), partial(always_fail, error, diary))
    assert calls(diary) == {"bad": 1}
    if isinstance(error, CliplineError):
        assert vars(caught.value) == vars(error)


def test_attempts_are_bounded_and_the_last_error_is_the_cause(context, diary):
    with pytest.raises(StageFailed, match="shard shard-bad of toy failed 2 times") as caught:
        run_shards(context, named("bad"), partial(always_fail, TransientError("busy"), diary), Limits(attempts=2))
    assert caught.value.found == "TransientError: busy"
    assert isinstance(caught.value.__cause__, TransientError)
    assert calls(diary) == {"bad": 2}


def test_what_was_done_before_a_failure_is_kept(context, diary):
    error = ValueError("wrong")
    with pytest.raises(ValueError, match="wrong"):
        run_shards(context, named("a", "bad"), partial(fail_at_first, error, diary), Limits(in_flight=1))
    run_shards(context, named("a", "bad"), partial(fail_at_first, error, diary))
    assert calls(diary) == {"a": 1, "bad": 2}


def test_a_worker_that_dies_costs_an_attempt(context, diary, events):
    records = run_shards(context, named("a", "bad"), partial(die_at_first, diary))
    assert len(records) == 2
    assert calls(diary)["bad"] == 2
    assert [event.shard for event in events if isinstance(event, ShardRetry)] == ["shard-bad"]


def test_a_stuck_shard_ends_at_its_deadline(context, diary, events):
    records = run_shards(context, named("bad"), partial(hang_at_first, diary), Limits(deadline_s=0.5))
    assert records[0].facts == {"spec": "bad"}
    [retry] = [event for event in events if isinstance(event, ShardRetry)]
    assert retry.error == repr(DeadlineError("shard shard-bad ran past 0.5 s"))


def test_a_shard_always_stuck_fails_the_stage(context):
    with pytest.raises(StageFailed, match="failed 1 times") as caught:
        run_shards(context, named("bad"), hang, Limits(deadline_s=0.3, attempts=1))
    assert caught.value.found.startswith("DeadlineError")


def test_the_deadline_does_not_count_the_wait_for_a_cpu(context, diary, events):
    """All at once on one CPU's worth of room: the last waits longer than its deadline."""
    limits = Limits(cpus=2, in_flight=16, deadline_s=2.0)
    run_shards(context, named(*"abcdefghijklmnop"), partial(take_a_while, diary), limits)
    assert not [event for event in events if isinstance(event, ShardRetry)]


@pytest.mark.parametrize(
    ("limits", "bound"), [(Limits(cpus=0.5), 4), (Limits(cpus=0.5, in_flight=2), 2), (Limits(cpus=2), 1)]
)
def test_no_more_are_in_flight_than_allowed(context, diary, limits, bound):
    run_shards(context, named(*"abcdef"), partial(take_a_while, diary), limits)
    seen = [int(path.name.rpartition("-")[2]) for path in diary.glob("saw-*")]
    assert len(seen) == 6
    assert max(seen) <= bound


def test_tasks_go_where_the_resources_are_and_no_more_than_there_is_room_for(context, diary):
    import ray

    (node,) = ray.nodes()
    labels = {"ray.io/node-id": node["NodeID"]}
    for name, limits in {
        "memory": Limits(cpus=0.1, memory_gb=node["Resources"]["memory"] / 1e9 * 0.6, labels=labels),
        "mine": Limits(cpus=0.1, resources={"node:__internal_head__": 0.6}),
    }.items():
        (folder := diary / name).mkdir()
        context = Context(context.store.child(name), stage="toy")
        run_shards(context, named(*"abc"), partial(take_a_while, folder), limits)
        assert {path.name.rpartition("-")[2] for path in folder.glob("saw-*")} == {"1"}


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        (Limits(gpus=1), ["no node has 1 GPU:", "the most of one is 0 GPU (gpus=0"]),
        (Limits(resources={"licence": 2}, labels={"zone": "a"}), ["2 licence and zone=a", "0 licence"]),
        (Limits(memory_gb=1e6), ["1e+15 memory"]),
        (Limits(labels={"zone": "a"}), ["no node has zone=a: tasks wait for one that has"]),
        (Limits(cpus=1, memory_gb=0.001), []),
        (Limits(labels={"zone": "!a"}), []),
    ],
)
def test_a_wait_for_what_no_node_has_is_told(caplog, limits, words):
    warn_if_none_fits(limits)
    assert bool(caplog.messages) == bool(words)
    assert all(word in caplog.text for word in words)


def test_a_run_asked_to_stop_abandons_what_is_in_flight(tmp_path):
    asked = threading.Event()
    context = Context(tmp_path, stage="toy", stopping=asked.is_set, emit=lambda event: asked.set())
    with pytest.raises(Preempted):
        run_shards(context, named("a", "b"), hang)
    records = run_shards(Context(tmp_path), named("c"), partial(double, tmp_path))  # the CPUs are free again
    assert records[0].facts == {"spec": "c"}


def test_an_autoscaler_sees_what_waiting_tasks_need():
    """Demand is what Ray's autoscaler reads from the head, a bundle of resources for each task that waits."""
    import ray
    from ray.autoscaler.v2.sdk import get_cluster_status

    limits = Limits(cpus=1, memory_gb=2, resources={"crawler_ip": 1}, labels={"zone": "north"})
    waiting = ray.remote(max_retries=0)(lambda: None).options(**task_options(limits)).remote()
    wanted = {"CPU": 1.0, "memory": 2e9, "crawler_ip": 1.0}
    deadline, seen = time.monotonic() + 20, []
    while wanted not in seen and time.monotonic() < deadline:
        demands = get_cluster_status(ray.get_runtime_context().gcs_address).resource_demands.ray_task_actor_demand
        seen = [bundle.bundle for demand in demands for bundle in demand.bundles_by_count]
        time.sleep(0.2)
    ray.cancel(waiting, force=True)
    assert wanted in seen
