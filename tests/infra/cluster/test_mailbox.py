"""Events reach the driver once and in order; the request to stop reaches the workers."""

from __future__ import annotations

import sys
import time

import pytest

from infra.cluster.mailbox import Reporter, mailbox
from infra.events import Custom, Log

pytestmark = pytest.mark.usefixtures("ray_cluster")


@pytest.fixture(autouse=True, scope="module")
def work_travels_with_its_task():
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a test module
    yield
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


def report(reporter: Reporter, name: str, count: int) -> None:
    for n in range(count):
        reporter.emit(Custom(stage="toy", name="e", fields={"from": name, "n": n}))
        if n % 7 == 0:
            reporter.flush()
    reporter.close()


def wait_for_stop(reporter: Reporter) -> bool:
    while not reporter.stopping():
        time.sleep(0.01)
    reporter.close()
    return True


def test_every_event_arrives_once_and_in_order():
    import ray

    box = mailbox()
    task = ray.remote(report).options(num_cpus=0)
    ray.get([task.remote(Reporter(box, f"sender {name}"), name, 50) for name in ("a", "b")])
    posts = ray.get(box.take.remote())
    for name in ("a", "b"):
        events = [event for sender, events in posts if sender == f"sender {name}" for event in events]
        assert [event.fields["n"] for event in events if event.fields["from"] == name] == list(range(50))
    assert ray.get(box.take.remote()) == []


def test_events_are_sent_without_a_flush():
    import ray

    box = mailbox()
    reporter, event = Reporter(box), Log(stage="toy", level="INFO", message="hello")
    reporter.INTERVAL_S = 0.01
    reporter.emit(event)
    found = []
    deadline = time.monotonic() + 30
    while not found and time.monotonic() < deadline:
        found = ray.get(box.take.remote())
    assert found == [("", [event])]
    reporter.close()
    reporter._thread.join(30)
    assert not reporter._thread.is_alive()


def test_a_request_to_stop_reaches_the_workers():
    import ray

    box = mailbox()
    waiting = ray.remote(wait_for_stop).options(num_cpus=0).remote(Reporter(box))
    box.stop.remote()
    assert ray.get(waiting, timeout=60)


def test_a_reporter_without_a_driver_ends_its_thread():
    import ray

    box = mailbox()
    reporter, event = Reporter(box), Log(stage="toy", level="INFO", message="hello")
    reporter.INTERVAL_S = 0.01
    ray.kill(box)
    reporter.emit(event)
    reporter._thread.join(60)
    assert not reporter._thread.is_alive()
