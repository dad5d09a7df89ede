"""Changes that somebody has declared without meaning for an artifact: in its source, or in the content of an input.

Each is a line of ``accepted.jsonl`` in the artifact's folder, with its author, time and reason; the manifest stays as
it was. A line counts for the very change it names: from the digest that the manifest has to the one of that moment.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

import msgspec

from infra.errors import redact
from infra.store import Store

__all__ = ["Acceptance", "Change", "accept", "acceptances", "not_accepted"]

PATH = "accepted.jsonl"

Change = tuple[str | None, str | None]
"""The digest that the manifest has, and the present one; None for a module that came or went."""


class Acceptance(msgspec.Struct, frozen=True):
    """One line. ``source``: changes by module; ``inputs``: changes of content by input."""

    by: str
    why: str
    at: float  # seconds since the epoch
    source: dict[str, Change] = {}
    inputs: dict[str, Change] = {}


def accept(folder: Store, by: str, why: str, source: Mapping[str, Change], inputs: Mapping[str, Change]) -> None:
    """Record that these changes have no meaning for the artifact in ``folder``."""
    made = Acceptance(by, redact(why), time.time(), dict(source), dict(inputs))
    folder.append(PATH, b"\n" + msgspec.json.encode(made) + b"\n")


def acceptances(folder: Store) -> list[Acceptance]:
    """Return what has been accepted for the artifact in ``folder``, the latest last."""
    data, _ = folder.read_appended(PATH)
    found = []
    for line in filter(None, data.splitlines()):
        try:
            found.append(msgspec.json.decode(line, type=Acceptance))
        except msgspec.DecodeError:  # cut short by a crash: then it was not accepted
            continue
    return found


def not_accepted(
    folder: Store, source: Mapping[str, Change], inputs: Mapping[str, Change]
) -> tuple[dict[str, Change], dict[str, Change]]:
    """Return the changes without an acceptance on record. Reads no file if there are no changes."""
    if not source and not inputs:
        return {}, {}
    taken = acceptances(folder)
    modules = {item for one in taken for item in one.source.items()}
    contents = {item for one in taken for item in one.inputs.items()}
    return dict(source.items() - modules), dict(inputs.items() - contents)
