"""Errors of real Ray tasks: the exception behind the wrapping, and which errors are retried."""

from __future__ import annotations

import sys

import pytest

from infra.cluster import backoff
from infra.cluster.failures import is_transient, original, trace
from infra.errors import DataError, DeadlineError, LeaseHeld, StageFailed, TransientError

pytestmark = pytest.mark.usefixtures("ray_cluster")


@pytest.fixture(autouse=True, scope="module")
def work_travels_with_its_task():
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a test module
    yield
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


def fails(error):
    raise error


def fails_nested(error):
    import ray

    return ray.get(ray.remote(fails).remote(error))


def test_the_original_error_is_found_below_all_of_rays_wrapping():
    import ray

    for task in (fails, fails_nested):
        with pytest.raises(Exception, match="somebody else") as caught:
            ray.get(ray.remote(task).options(num_cpus=0).remote(LeaseHeld("somebody else", found="process 1")))
        found = original(caught.value)
        assert type(found) is LeaseHeld
        assert found.found == "process 1"


def test_an_error_that_has_a_cause_of_its_own_is_not_unwrapped():
    error = ValueError("mine")
    error.cause = error  # as some libraries name it
    assert original(error) is error


class BotoLike(Exception):
    pass


BotoLike.__module__ = "botocore.exceptions"


@pytest.mark.parametrize(
    ("error", "transient"),
    [
        (TransientError("x"), True),
        (DeadlineError("x"), True),
        (ConnectionRefusedError(), True),
        (TimeoutError(), True),
        (BotoLike("Could not connect"), True),
        (DataError("x"), False),
        (StageFailed("x"), False),
        (FileNotFoundError(), False),
        (PermissionError(), False),
        (KeyError("x"), False),
        (MemoryError(), False),
    ],
    ids=repr,
)
def test_errors_worth_another_try(error, transient):
    assert is_transient(error) is transient


def test_backoff_doubles_to_a_minute_and_is_jittered():
    assert all(0.5 <= backoff(2) <= 1 for _ in range(50))
    assert all(4 <= backoff(5) <= 8 for _ in range(50))
    assert all(30 <= backoff(attempt) <= 60 for attempt in range(8, 60))
    assert len({backoff(3) for _ in range(10)}) > 1


KILLED = """1 worker(s) were killed due to the node running low on memory. Memory on the node (IP: 10.0.0.9) was \
14.19GB used / 23.54GB limit (0.602707)
Ray killed 1 worker(s) based on the killing policy
Top 10 memory users: PID\tMEM(GB) COMMAND
7443\t3.50\tray::_batch_task
2882\t1.52\tsomebody --password hunter2
Refer to the documentation on how to address the out of memory issue."""


def test_want_of_memory_is_told_in_a_line_without_what_else_ran_there():
    from ray import exceptions

    lost = exceptions.OutOfMemoryError(KILLED)
    within = exceptions.RayTaskError("run", f"Traceback\n{KILLED}", lost)
    for error in (lost, within, within.as_instanceof_cause()):
        told = original(error)
        assert is_transient(error) and "14.19GB used / 23.54GB limit" in str(told) and "limits.memory_gb" in str(told)
        assert len(str(told).splitlines()) == 1
        assert "hunter2" not in repr(told) + trace(error) + str(told)
    assert "Traceback" in trace(within) and "Refer to the documentation" in trace(within)
