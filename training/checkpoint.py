"""Checkpoints that a run can be continued from exactly, and the model that the world can load.

A checkpoint is ``checkpoints/{samples seen}.pt`` and, written after it, ``.json`` with its size and sha256: without
the second it does not count, and damage is noticed when it is read. Whatever is written is a function of the training
state alone, so a run that was interrupted ends with the same bytes as one that was not.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from infra.context import Output
    from infra.storage import Store

__all__ = ["Checkpoints", "write_model"]

log = logging.getLogger(__name__)


class Checkpoints:
    """The newest ``keep`` checkpoints of a run in the folder ``checkpoints`` of its store."""

    FOLDER = "checkpoints"

    def __init__(self, store: Store, keep: int = 2) -> None:
        self.store, self.keep = store, keep

    def save(self, samples: int, state: dict[str, Any]) -> None:
        """Keep ``state`` (tensors, numbers, strings, lists and dicts of them) as that at ``samples`` seen."""
        name = f"{self.FOLDER}/{samples:012d}"
        with self.store.publish(f"{name}.pt") as out:
            out.write(_dump(state))
        seal = {"bytes": out.size, "sha256": out.sha256}
        self.store.write(f"{name}.json", json.dumps(seal).encode())
        for old in self._names()[: -self.keep]:
            self.store.delete(f"{old}.json")
            self.store.delete(f"{old}.pt")

    def newest(self) -> dict[str, Any] | None:
        """The state of the newest intact checkpoint, on the CPU; none if there is none."""
        for name in reversed(self._names()):
            data = self.store.read(f"{name}.pt") if self.store.exists(f"{name}.pt") else b""
            if hashlib.sha256(data).hexdigest() == json.loads(self.store.read(f"{name}.json"))["sha256"]:
                state: dict[str, Any] = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
                return state
            log.warning("checkpoint %s is damaged; the one before it is used", name)
        return None

    def _names(self) -> list[str]:
        names = self.store.paths(self.FOLDER)
        return [name.removesuffix(".json") for name in names if name.endswith(".json")]


def write_model(
    output: Output, description: dict[str, Any], state_dict: Mapping[str, Tensor], optimizer: dict[str, Any], epoch: int
) -> None:
    """open_clip's two forms of a trained model: hub folder (config and safetensors) and training checkpoint."""
    from safetensors.torch import save

    weights = {name: weight.detach().cpu().clone() for name, weight in state_dict.items()}
    config = json.dumps(description, indent=2, sort_keys=True).encode()
    output.write("data/open_clip_config.json", config)
    output.write("data/open_clip_model.safetensors", save(weights, metadata={"format": "pt"}))
    checkpoint = {"epoch": epoch, "name": "clipline", "state_dict": weights, "optimizer": optimizer}
    output.write("data/checkpoint.pt", _dump(checkpoint))


def _dump(value: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    torch.save(_canonical(value), buffer)
    return buffer.getvalue()


def _canonical(value: Any) -> Any:  # noqa: ANN401 - a tree of plain values and tensors
    """``value`` rebuilt so that equal values pickle to equal bytes.

    Pickle writes an object it meets again as a reference to the first. Which equal strings, tuples and storages are
    one object depends on the past (loaded or made here); after this all equal strings are, and nothing else is.
    """
    match value:
        case Tensor():
            return value.detach().cpu().clone(memory_format=torch.contiguous_format)
        case str():
            return sys.intern(str(value))
        case Mapping():
            return {_canonical(key): _canonical(item) for key, item in value.items()}
        case list() | tuple():
            return [_canonical(item) for item in value]
        case _:
            return value
