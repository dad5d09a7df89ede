"""Look captions, URLs and ids up in lists, for rules. A worker reads a long list once, from its artifact."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from infra.run.manifest import Artifact
from pipelines.curate.balance.entries import read_entries
from pipelines.curate.balance.matching import Matcher
from pipelines.curate.filter.ids import Ids, pack_texts
from pipelines.curate.subset.ids import UID
from pipelines.web.urls import BadUrlError, canonical

__all__ = ["holds_entry", "is_in_subset", "is_listed", "repeats", "times_in_subset"]

T = TypeVar("T")
_MOST = 8  # lists that a worker keeps
_UID = f"^{UID}$"


def holds_entry(
    texts: pa.ChunkedArray, entries: tuple[str, ...], file: Artifact | None, keep: bool
) -> NDArray[np.bool_]:
    """``keep`` for captions that hold one of the words or phrases, else its opposite; False for no caption."""
    matcher = _list(_matcher, entries, file)
    found = pc.list_value_length(matcher.match([(text or "").casefold() for text in texts.to_pylist()]))
    answers: NDArray[np.bool_] = texts.is_valid().to_numpy() & ((found.to_numpy() > 0) == keep)
    return answers


def is_listed(urls: pa.ChunkedArray, entries: tuple[str, ...], file: Artifact | None, keep: bool) -> NDArray[np.bool_]:
    """``keep`` for URLs of a host or below a path that is listed, else its opposite; what is no URL is not listed."""
    listed = _list(_addresses, entries, file)
    return np.array([_is_below(url, listed) == keep for url in urls.to_pylist()], np.bool_)


def _is_below(url: str | None, listed: frozenset[str]) -> bool:
    """True if one of the hosts above, or one of the folders above, of ``url`` is listed."""
    try:
        host, *folders = canonical(url or "").split("://", 1)[1].partition("?")[0].rstrip("/").split("/")
    except BadUrlError:
        return False
    name = host.partition(":")[0]
    while name:
        path = name
        if path in listed:
            return True
        for folder in folders:
            path = f"{path}/{folder}"
            if path in listed:
                return True
        name = name.partition(".")[2]
    return False


def is_in_subset(
    uids: pa.ChunkedArray, entries: tuple[str, ...], file: Artifact | None, keep: bool
) -> NDArray[np.bool_]:
    """``keep`` for ids that are listed, else its opposite; what is no id of 32 hex digits is not listed."""
    answers: NDArray[np.bool_] = (times_in_subset(uids, entries, file) > 0) == keep
    return answers


def times_in_subset(uids: pa.ChunkedArray, entries: tuple[str, ...], file: Artifact | None) -> NDArray[np.int64]:
    """Return the number of times that each id is listed: (n,)."""
    listed = _list(_ids, entries, file).ids
    proper = pc.match_substring_regex(uids, _UID).fill_null(False).to_numpy()
    wanted = pack_texts(uids.filter(pa.array(proper)).to_pylist())
    times = np.zeros(len(uids), np.int64)
    times[proper] = np.searchsorted(listed, wanted, side="right") - np.searchsorted(listed, wanted)
    return times


def repeats(uids: pa.ChunkedArray, entries: tuple[str, ...], file: Artifact | None) -> pa.Array | None:
    """Return the number of times that each id is listed, null for one that is not; None if the list repeats none."""
    if not _list(_ids, entries, file).repeated:
        return None
    times = times_in_subset(uids, entries, file)
    return pa.array(times, pa.int32(), mask=times == 0)


# --- reading ----------------------------------------------------------------------------------------------------------

_made: dict[tuple[str, object], Any] = {}  # lists of this process, by their content


def _list(make: Callable[[tuple[str, ...], Artifact | None], T], entries: tuple[str, ...], file: Artifact | None) -> T:
    """``make`` applied to a list, once for each list."""
    key = (make.__name__, entries if file is None else file.manifest.content_digest)
    if key not in _made:
        if len(_made) == _MOST:
            _made.clear()
        _made[key] = make(entries, file)
    found: T = _made[key]
    return found


def _ids(entries: tuple[str, ...], file: Artifact | None) -> Ids:
    return Ids.of_file(file) if file else Ids.of(entries)


def _matcher(entries: tuple[str, ...], file: Artifact | None) -> Matcher:
    words = read_entries(file) if file else entries
    return Matcher(sorted({" ".join(entry.casefold().split()) for entry in words} - {""}))


def _addresses(entries: tuple[str, ...], file: Artifact | None) -> frozenset[str]:
    """Hosts and paths as they stand in canonical URLs; hosts files and filter lists put something around them."""
    found = set()
    for line in read_entries(file) if file else entries:
        entry = line.partition("#")[0].strip().removeprefix("0.0.0.0 ").removeprefix("127.0.0.1 ").strip()
        entry = entry.removeprefix("||").rstrip("^").removeprefix("*.").removeprefix(".")
        try:
            address = canonical(entry if "://" in entry else f"http://{entry}") if entry else ""
        except BadUrlError:
            continue
        host, slash, path = address.split("://", 1)[-1].rstrip("/").partition("/")
        found.add(f"{host.partition(':')[0]}{slash}{path}")
    return frozenset(found - {""})
