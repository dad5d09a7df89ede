"""Tell somebody that a run has ended: by a command that gets JSON on its standard input, or by a webhook.

``CLIPLINE_NOTIFY`` is the command, or the webhook's ``https://`` address. Such addresses are secrets, so it is read
from the environment only and stands in no record, journal or message. Whatever goes wrong here is a warning: the run
has ended as it has.
"""

from __future__ import annotations

import json
import logging
import os
import shlex
import signal
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from infra.errors import redact_values

__all__ = ["VARIABLE", "notify"]

log = logging.getLogger(__name__)

VARIABLE = "CLIPLINE_NOTIFY"
TIMEOUT_S = 10.0


def notify(message: Mapping[str, Any]) -> None:
    """Send ``message`` as JSON to where ``CLIPLINE_NOTIFY`` says, if it is set. Never raises for a failure."""
    place = os.environ.get(VARIABLE, "").strip()
    if not place:
        return
    body = json.dumps(redact_values(dict(message))).encode()
    failure = _post(place, body) if place.startswith(("http://", "https://")) else _call(place, body)
    if failure:
        log.warning("The end of the run could not be told by %s: %s", VARIABLE, failure)


def _post(url: str, body: bytes) -> str:
    """Post the event; return the failure, if any, without the address.

    In a thread, since a timeout of urllib is one of each read only.
    """
    failures = [f"no answer within {TIMEOUT_S:g} s"]

    def post() -> None:
        headers = {"Content-Type": "application/json", "User-Agent": "clipline"}
        try:
            with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=TIMEOUT_S):
                failures.clear()
        except urllib.error.HTTPError as error:
            failures[:] = [f"the webhook answered {error.code}"]
        except (OSError, ValueError) as error:  # their texts can name the address
            failures[:] = [f"the webhook does not answer ({type(getattr(error, 'reason', error)).__name__})"]

    thread = threading.Thread(target=post, name="clipline-notify", daemon=True)
    thread.start()
    thread.join(TIMEOUT_S)
    return "".join(failures[:1])


def _call(command: str, body: bytes) -> str:
    """Run the command with the event on stdin; return the failure, if any, without the command's words."""
    try:
        process = subprocess.Popen(
            shlex.split(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,  # data only
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # a signal for the run is none for it, and its children end with it
        )
    except (OSError, ValueError) as error:
        return f"the command does not start ({type(error).__name__})"
    try:
        process.communicate(body, timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return f"the command took more than {TIMEOUT_S:g} s"
    return f"the command ended with {process.returncode}" if process.returncode else ""
