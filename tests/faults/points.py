"""Crash points: each rename, link, removal, new folder and fsync, each call that changes MLflow, each task for Ray.

Nobody lists them: :func:`install` wraps the calls themselves, in every process of a run, which notes those it passes.
``CRASH_POINTS`` names the folder that all of them share::

    {trial}/root      the roots of runs; only what is done below one is a point
    passed.jsonl      a line for each passing: its point, and what was done once it is done
    kill.json         {"point", "when", "number"}: the process that comes there removes it and dies
    kept/{inode}      a second link to each file that was synced, renamed over or removed, for a loss of power

A point's name has no numbers and digests in it, so that it is the same in each run.
"""

from __future__ import annotations

import fcntl
import functools
import json
import os
import re
import signal
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

FOLDER = "CRASH_POINTS"
_STAGE = re.compile(r"artifacts/[^/]+/[^/]+/")
_ANY = re.compile(r"(?<=exchange/)[^ ]+|(?<=ledger/)[^ ]+(?=\.jsonl?)|[0-9a-f]{8,}|\d+")
_CHANGES = ("create_", "delete_", "finalize_", "log_", "restore_", "set_", "update_")

_real = {
    name: getattr(os, name) for name in ("replace", "rename", "link", "unlink", "remove", "mkdir", "rmdir", "fsync")
}


def install() -> None:
    """Wrap the calls of ``os`` and Ray in this process."""
    for name, call in file_calls().items():
        setattr(os, name, call)
    import ray.actor
    import ray.remote_function

    for kind in (ray.remote_function.RemoteFunction, ray.actor.ActorClass):
        kind._remote = _named(kind._remote, _submitted)


def file_calls() -> dict[str, Callable[..., Any]]:
    """The functions of ``os`` by name, wrapped."""
    return {name: _file_call(name, original) for name, original in _real.items()}


def install_mlflow() -> None:
    """Wrap the calls of MLflow's client that change something."""
    from mlflow import MlflowClient

    for name in [name for name in dir(MlflowClient) if name.startswith(_CHANGES)]:
        setattr(MlflowClient, name, _named(getattr(MlflowClient, name), lambda *_, name=name: f"mlflow {name}"))


def _submitted(task: Any, *_: Any) -> str:
    return f"ray {getattr(task, '_function_name', None) or type(task).__name__}".replace("infra.cluster.", "")


def _named(original: Callable[..., Any], name: Callable[..., str]) -> Callable[..., Any]:
    @functools.wraps(original)
    def call(*args: Any, **options: Any) -> Any:
        return _passing(name(*args), None, lambda: original(*args, **options))

    return call


def _file_call(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **options: Any) -> Any:
        paths = [_path(part, options) for part in (args[:1] if name in ("mkdir", "fsync") else args)]
        below = [place for path in paths if (place := _below_root(path))]
        if not below:
            return original(*args, **options)
        if name in ("replace", "rename", "unlink", "remove", "fsync"):
            _keep(paths[-1])
        # A temporary file's own steps have the name of what it becomes; stages and shards are all alike.
        target = re.sub(r"\.tmp-(.+)\.[0-9a-f]{8}", r"\1 (temporary)", _STAGE.sub("{stage}/", below[-1]))
        return _passing(f"{name} {_ANY.sub('*', target)}", [name, *paths], lambda: original(*args, **options))

    return call


def _path(part: Any, options: dict[str, Any]) -> str:
    if isinstance(part, int):
        return os.readlink(f"/proc/self/fd/{part}")
    folder = options.get("dir_fd")
    return os.path.join(os.readlink(f"/proc/self/fd/{folder}") if folder is not None else os.getcwd(), os.fspath(part))


def _below_root(path: str) -> str:
    """The path below its trial's root, "." for the root itself, "" for any other file."""
    match = re.fullmatch(rf"{re.escape(os.environ[FOLDER])}/[^/]+/root(?:/(.+))?", path)
    return (match[1] or ".") if match else ""


def _keep(path: str) -> None:
    try:
        facts = os.stat(path)
        if stat.S_ISREG(facts.st_mode):
            _real["link"](path, f"{os.environ[FOLDER]}/kept/{facts.st_ino}")
    except (FileExistsError, FileNotFoundError):
        pass


def _passing(point: str, done: list[str] | None, call: Callable[[], Any]) -> Any:
    folder = Path(os.environ[FOLDER])
    number = _note(folder, {"point": point})
    _kill_if_wanted(folder, point, "before", number)
    facts = None
    if done and done[0] in ("replace", "rename", "link", "fsync"):
        facts = os.stat(done[1])
    result = call()
    if done:
        _note(folder, {"done": done, "inode": facts and facts.st_ino, "size": facts and facts.st_size})
    _kill_if_wanted(folder, point, "after", number)
    return result


def _note(folder: Path, line: dict[str, Any]) -> int:
    """Append a line; the number of lines like it."""
    with (folder / "passed.jsonl").open("a+b") as log:
        fcntl.flock(log, fcntl.LOCK_EX)
        text = json.dumps(line).encode() + b"\n"
        log.write(text)
        log.flush()
        log.seek(0)
        return log.read().count(text)


def _kill_if_wanted(folder: Path, point: str, when: str, number: int) -> None:
    order = folder / "kill.json"
    if order.exists() and json.loads(order.read_bytes()) == {"point": point, "when": when, "number": number}:
        _real["unlink"](order)
        os.kill(os.getpid(), signal.SIGKILL)
