"""Check within seconds that a Ray head answers at an address, and decide when one that was there is lost.

Ray's own client tries for minutes, and hears no Ctrl-C meanwhile. So a process of its own asks, with a time limit.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys

__all__ = ["TOKEN", "WANTS_TOKEN", "joined", "listens", "patience_s", "why_unreachable"]

WANTS_TOKEN = "wants a token"
TOKEN = "RAY_AUTH_MODE=token, and the cluster's token in RAY_AUTH_TOKEN or ~/.ray/auth_token"
"""The environment in which a cluster that wants a token is joined.

Where ``ray start`` finds a token, and Ray writes one wherever it once ran alone, its cluster wants it; a client that is
given an address sends none unless it is told to.
"""

_RECONNECT = "RAY_gcs_rpc_server_reconnect_timeout_s"
_TIMEOUT_S = 15.0  # most of it for the import of Ray on a busy machine
_ASK = """
import sys
from ray._private.services import canonicalize_bootstrap_address
from ray._raylet import GcsClient
try:
    address = canonicalize_bootstrap_address(sys.argv[1])
    GcsClient(address=address)
except Exception as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""


def patience_s() -> float:
    """Seconds after which a head that does not answer is given up, while there is time to say so.

    Ray itself ends the whole process a little later, from C++: no journal would tell how the run ended.
    """
    return 0.75 * float(os.environ.get(_RECONNECT, "60"))


def joined() -> str:
    """``host:port`` at which this process, which has joined a cluster, reaches the head."""
    import ray

    given = os.environ.get("RAY_ADDRESS", "")
    if given.startswith("ray://"):  # Ray's client, from where the head's own address may not be reached
        return given.removeprefix("ray://")
    return str(ray.get_runtime_context().gcs_address)


def listens(address: str) -> bool:
    """True if something takes connections at ``host:port``, as a head does that is only slow."""
    host, _, port = address.rpartition(":")
    try:
        _connect(host, int(port))
    except OSError:
        return False
    return True


def why_unreachable(address: str, timeout_s: float = _TIMEOUT_S) -> str:
    """Why no Ray cluster can be joined at ``address``, "" if one can."""
    if address == "local":
        return ""
    if address != "auto":
        parts = re.fullmatch(r"(ray://)?(\[[^]]+\]|[^/:@]+):(\d{1,5})", address)
        if parts is None or not 0 < int(parts[3]) < 65536:
            return f"{address} is none: expected host:port of the head, such as 10.0.0.1:6379; or auto"
        try:
            _connect(parts[2], int(parts[3]))
        except OSError as error:
            return f"{address}: {error}"
        if parts[1]:
            return ""
    try:
        asked = subprocess.run(
            [sys.executable, "-c", _ASK, address], capture_output=True, text=True, timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired:
        return f"{address} did not answer as a Ray head within {timeout_s:g} s"
    if asked.returncode == 0:
        return ""
    said = (asked.stderr.strip().splitlines() or ["no answer"])[-1]
    return f"{address} {WANTS_TOKEN}" if said.startswith("AuthenticationError") else f"{address}: {said}"


def _connect(host: str, port: int) -> None:
    socket.create_connection((host.strip("[]"), port), timeout=3).close()
