"""Compare a cluster's Python and packages with those of the machine that submits a run.

``python -m workflows.submit.versions`` is the first thing a submitted run does. It imports nothing but the standard
library, so it can tell what is missing.
"""

from __future__ import annotations

import json
import re
import sys
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

__all__ = ["FILE", "differences", "installed"]

FILE = "versions.json"


def installed() -> dict[str, Any]:
    """Python's version, and those of the packages that clipline needs (``needed``) and that its extras bring."""
    found: dict[str, Any] = {"python": "{}.{}".format(*sys.version_info), "needed": {}, "extra": {}}
    for requirement in requires("clipline") or ():
        name = re.split(r"[^\w.-]", requirement, maxsplit=1)[0]
        if name != "clipline" and (there := _version(name)):
            found["extra" if "extra ==" in requirement else "needed"][name] = there
    return found


def differences(wanted: dict[str, Any]) -> list[str]:
    """The differences to ``wanted``, which :func:`installed` gave elsewhere. Packages of an extra may be missing."""
    python = "{}.{}".format(*sys.version_info)
    found = [f"Python {python} instead of {wanted['python']}"] if python != wanted["python"] else []
    for kind in ("needed", "extra"):
        for name, expected in wanted[kind].items():
            there = _version(name)
            if there != expected and (there or kind == "needed"):
                found.append(f"{name} {there or 'missing'} instead of {expected}")
    return found


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


if __name__ == "__main__":
    if found := differences(json.loads(Path(FILE).read_text())):
        sys.exit(
            f"preflight: the cluster has {', '.join(found)}: install what constraints.txt says there, or submit with "
            "--other-versions"
        )
