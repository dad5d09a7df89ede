"""The command ``submit``: a run as a job of a Ray cluster, which goes on when this machine is away; also for sweeps."""

from __future__ import annotations

import os
import re
import time
from typing import TYPE_CHECKING, Annotated

import typer

from infra.errors import CliplineError, printable, redact
from infra.store import open_store
from workflows.cli.console import print_json, size
from workflows.cli.options import Execution, Json, RecipeName, Requested, grouped
from workflows.cli.terminal import stderr, stdout
from workflows.recipe import Recipe, load
from workflows.run.journal import Journal, under_way
from workflows.run.sweep import find_sweep
from workflows.submit.submission import Submission

if TYPE_CHECKING:
    from infra.cluster.jobs import Job, JobServer

__all__ = ["Address", "OtherVersions", "job_server", "send", "submit"]

Address = Annotated[
    str,
    typer.Option(
        envvar="RAY_API_SERVER_ADDRESS",
        metavar="URL",
        help="Ray's dashboard on the head: http://HEAD:8265 or https://...",
    ),
]
OtherVersions = Annotated[
    bool, typer.Option("--other-versions", help="Run although the cluster has other versions of packages.")
]
_BEGUN = re.compile(r"\S+: (?:nothing to do|(?:\d+ runs, )?\d+ of \d+ stages to run)")
_OF_RAY = re.compile(r"^Running entrypoint for job |job_manager\.py:\d+ -- ")


@grouped
def submit(
    recipe: RecipeName,
    request: Requested,
    execution: Execution,
    address: Address = "http://127.0.0.1:8265",
    other_versions: OtherVersions = False,
    as_json: Json = False,
) -> None:
    """Run a recipe on a Ray cluster, and return when it has begun. The same again joins it, or continues it."""
    found, root = load(recipe), open_store(request.root).url
    submission = Submission.of(
        recipe,
        found,
        request.settings,
        root,
        execution,
        selection=request.selection,
        other_versions=other_versions,
    )
    send(submission, found, address, as_json=as_json)


def send(submission: Submission, recipe: Recipe, address: str, *, as_json: bool = False) -> None:
    """Submit, show what the job says until its run or sweep has begun, and print the name of that."""
    server, err = job_server(address), stderr()
    package, variables = submission.pack(recipe), _variables(submission)
    err.print(f"code: {package.files} files, {size(len(package.data))} packed")
    if package.left:
        few = ", ".join(package.left[:5])
        err.print(f"not sent, being unknown to git or named as secrets are: {few}", style="yellow", markup=False)
    check = "" if submission.other_versions else "python -m workflows.submit.versions && "
    command = f"{check}exec python -m workflows.submit.job"
    while True:
        job = server.submit(submission.name, command, package.data, variables, submission.shown)
        err.print(f"{'joined' if job.joined else 'submitted'} job {job.id} at {redact(server.address)}", markup=False)
        run = _follow(server, job)
        if _under_way(server, job, submission, run):  # or its job was at its end: its work goes on as another
            break
    err.print(f"It goes on without this machine. See it: clipline status {run}, logs {run} -f; end it: stop {run}")
    if as_json:
        print_json(
            {
                "sweep" if submission.sweep else "run": run,
                "job": job.id,
                "joined": job.joined,
                "bytes": len(package.data),
            }
        )
    else:
        stdout().print(run, markup=False)


def job_server(address: str) -> JobServer:
    """The job server at ``address``, with a warning if anybody could use it. Raises CliplineError."""
    from infra.cluster.jobs import JobServer, is_exposed  # loads Ray

    server = JobServer(address)
    if is_exposed(server.address):
        stderr().print(
            f"{redact(server.address)} asks for no token: whoever reaches it runs code there as its user. "
            "docs/operations.md (Security) says how to give it one.",
            style="yellow",
        )
    return server


def _variables(submission: Submission) -> dict[str, str]:
    """The environment that goes along: where MLflow is, unless that tells a password."""
    err = stderr()
    for setting in [*submission.settings, *(submission.sweep.settings if submission.sweep else ())]:
        if (value := setting.partition("=")[2]) and os.path.exists(value):
            err.print(f"{setting} is a path on this machine: the cluster needs it, too", style="yellow", markup=False)
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    if redact(uri) != uri:
        err.print(
            "MLFLOW_TRACKING_URI has a password and is not sent: set it in the cluster's environment", style="yellow"
        )
        return {}
    return {"MLFLOW_TRACKING_URI": uri} if uri else {}


def _follow(server: JobServer, job: Job) -> str:
    """Print what the job prints until its run or sweep has begun, and return its name. Raises CliplineError."""
    printed = 0
    while True:
        over, message, text = server.look(job.id)
        lines = [line for line in text.splitlines() if not _OF_RAY.search(line)]
        begun = next((place for place, line in enumerate(lines) if _BEGUN.match(line)), None)
        whole = len(lines) if over or text.endswith("\n") else len(lines) - 1
        for line in lines[printed : whole if begun is None else begun + 1]:
            stderr().print(printable(redact(line.expandtabs())), markup=False)
        printed = max(printed, whole)
        if begun is not None:
            return lines[begun].partition(": ")[0]
        if over:
            raise CliplineError(f"job {job.id} ended before its run began", found="" if lines else redact(message))
        time.sleep(0.5)


def _under_way(server: JobServer, job: Job, submission: Submission, run: str) -> bool:
    """Wait until the journal says that the run is under way. False if a job that was joined ended instead.

    Of a sweep that is the run which begins last.
    """
    root = open_store(submission.root)
    while True:
        try:
            sweep = find_sweep(root, run)
            last = sweep.runs[-1].run if sweep else run
            events, _ = Journal(root.child(f"runs/{last}")).read()
        except (OSError, CliplineError):  # the root is for the cluster only
            return True
        if under_way(events):
            return True
        if server.look(job.id)[0]:
            return not job.joined
        time.sleep(0.5)
