"""Find the artifacts whose models are registered in any MLflow that the runs below a root went to."""

from __future__ import annotations

from collections.abc import Iterable

from infra.errors import CliplineError, StorageError, redact
from infra.store import LocalStore, Store
from infra.tracking import Address
from infra.tracking.state import State
from infra.tracking.tracker import configure

__all__ = ["registered_models"]


def registered_models(root: Store, runs: Iterable[str]) -> dict[str, str]:
    """Digests of the registered models of these runs and of the root's MLflow, each with the name of a version.

    Raises StorageError for an MLflow that cannot be asked: what it keeps is not guessed.
    """
    here = Address.find(root)
    asked = {redact(here.uri): here}
    for run in runs:
        if uri := State.recorded(root.child(f"runs/{run}")):
            asked.setdefault(uri, Address(uri))
    databases = {uri: _there(address) for uri, address in asked.items()}
    found: dict[str, str] = {}
    for uri, address in asked.items():
        if databases[uri]:
            found |= _ask(address)
        elif uri != redact(here.uri) and not (databases[redact(here.uri)] or _within(root, address)):
            raise StorageError(
                f"runs below {redact(root.url)} were tracked in {uri}, which is not on this machine",
                expected="an answer which of their models are registered",
                fix="run this where it is, or set MLFLOW_TRACKING_URI to where it is now",
            )
    return found


def _ask(address: Address) -> dict[str, str]:
    configure()
    from infra.tracking.models import registered  # imports mlflow, which takes seconds

    try:
        return registered(address)
    except CliplineError as error:
        error.fix = "start it, or set MLFLOW_TRACKING_URI to where it is now; nothing was removed"
        raise


def _there(address: Address) -> bool:
    """False for a database file that does not exist: asking would make it."""
    return address.database is None or address.database.is_file()


def _within(root: Store, address: Address) -> bool:
    """True for a database that would lie in the root itself: it is gone, or nothing was tracked yet."""
    return isinstance(root, LocalStore) and address.database is not None and address.database.parent == root.root
