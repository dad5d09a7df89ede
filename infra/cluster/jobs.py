"""Jobs of a Ray cluster, by the job server of its head: one at a time under a name.

A submission id is the job's name and the number of the attempt, ``name-2``. Ray takes an id once, so of two that submit
the same work at the same moment one joins the other's job.
"""

from __future__ import annotations

import ipaddress
import json
import logging
import os
import tempfile
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlsplit

from ray.exceptions import AuthenticationError
from ray.job_submission import JobStatus, JobSubmissionClient

from infra.cluster.head import TOKEN
from infra.errors import CliplineError, UsageError, redact

__all__ = ["Job", "JobServer", "is_exposed"]

_TIMEOUT_S = 5.0
_STOP_S = 120  # that Ray leaves a job which it was asked to stop, as by its dashboard; 3 unless told


@dataclass(frozen=True)
class Job:
    """``joined``: it was there already, and is not over."""

    id: str
    joined: bool


class JobServer:
    """The job server at ``address``. All methods raise CliplineError if it fails."""

    def __init__(self, address: str) -> None:
        """Raises UsageError if ``address`` cannot be one, CliplineError if no job server answers there."""
        self.address = address.rstrip("/")
        _check(self.address)
        for module in ("dashboard_sdk", "job.sdk"):  # they tell of every upload
            logging.getLogger(f"ray.dashboard.modules.{module}").setLevel(logging.ERROR)
        os.environ["RAY_API_SERVER_ADDRESS"] = self.address  # Ray prefers this, and RAY_ADDRESS, to what it is given
        with self._translated():
            self._client = JobSubmissionClient(self.address)

    def submit(
        self, name: str, entrypoint: str, package: bytes, variables: Mapping[str, str], metadata: Mapping[str, str]
    ) -> Job:
        """Start the next attempt at the job ``name``, or join one that is not over.

        ``package``: a zip, unpacked where the ``entrypoint`` and all its tasks work. ``variables`` are their
        environment, with the id as ``CLIPLINE_JOB``. All but the package is shown on Ray's dashboard.
        """
        with self._translated(), tempfile.TemporaryDirectory() as folder:
            attempts = self._attempts(name)
            if attempts and not attempts[max(attempts)].is_terminal():
                return Job(f"{name}-{max(attempts)}", joined=True)
            job, path = f"{name}-{max(attempts, default=0) + 1}", Path(folder) / "package.zip"
            path.write_bytes(package)
            variables = {"CLIPLINE_JOB": job, "RAY_JOB_STOP_WAIT_TIME_S": str(_STOP_S), **variables}
            try:
                self._client.submit_job(
                    entrypoint=entrypoint,
                    submission_id=job,
                    runtime_env={"working_dir": str(path), "env_vars": variables},
                    metadata=dict(metadata),
                )
            except RuntimeError as error:
                if "already exists" not in str(error):
                    raise
                return Job(job, joined=True)
            return Job(job, joined=False)

    def look(self, job: str) -> tuple[bool, str, str]:
        """Return whether a job is over, what Ray says of its end, and what it has printed."""
        with self._translated():
            info = self._client.get_job_info(job)
            return info.status.is_terminal(), info.message or "", self._client.get_job_logs(job)

    def stop(self, name: str) -> str:
        """Ask the job ``name``, ``name-2`` or the last attempt at ``name``, to end as SIGTERM does; its id.

        Raises UsageError if there is none, or it is over.
        """
        with self._translated():
            known = {job.submission_id: job.status for job in self._client.list_jobs() if job.submission_id}
            last = f"{name}-{max(self._attempts(name), default=0)}"
            job = name if name in known else last
            if job not in known:
                raise UsageError(f"there is no job {name!r} at {self.address}")
            if known[job].is_terminal():
                raise UsageError(f"job {job} is over: {known[job].value.lower()}")
            self._client.stop_job(job)
        return job

    def _attempts(self, name: str) -> dict[int, JobStatus]:
        """The status of each attempt, by its number."""
        known = {(job.submission_id or "").rpartition("-")[::2]: job.status for job in self._client.list_jobs()}
        return {int(number): status for (job, number), status in known.items() if job == name and number.isdecimal()}

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Translate the errors of Ray's client."""
        try:
            yield
        except AuthenticationError as error:
            raise CliplineError(
                f"the job server at {self.address} wants a token",
                found=str(error).partition("\n")[0],
                fix=TOKEN,
            ) from error
        except (OSError, RuntimeError) as error:  # of requests, and of Ray for an answer it did not expect
            raise CliplineError(f"the job server at {self.address} failed", found=str(error)) from error


def is_exposed(address: str) -> bool:
    """True if other machines may reach the server at ``address``, and this process has no token for it."""
    host = urlsplit(address).hostname or ""
    try:
        here = ipaddress.ip_address(host).is_loopback
    except ValueError:
        here = host == "localhost"
    return not here and os.environ.get("RAY_AUTH_MODE") != "token"


def _check(address: str) -> None:
    """Raise within seconds if no Ray job server can be at ``address``; Ray's own client has no time limit."""
    expected = "the address of Ray's dashboard, such as http://10.0.0.1:8265"
    try:
        parts = urlsplit(address)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # a port out of range
        usable = False
    if not usable:
        raise UsageError(f"{redact(address)} is no address of a job server", expected=expected)
    try:
        with urllib.request.urlopen(f"{address}/api/version", timeout=_TIMEOUT_S) as answer:
            json.loads(answer.read(10_000))["ray_version"]
            return
    except HTTPError as error:
        if error.code in (401, 403):  # it wants a token, which Ray's client will send
            return
        reason = f"status {error.code} for /api/version"
    except (OSError, HTTPException) as error:
        reason = str(getattr(error, "reason", error))
    except (ValueError, KeyError, TypeError):
        reason = "something else answers there"
    raise CliplineError(f"no Ray job server answers at {redact(address)}", found=reason, expected=expected)
