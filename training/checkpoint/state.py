"""The state of training as tensors by name, and those of a checkpoint, which may lie in the files of several ranks."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Shard

from training.checkpoint.manifests import MODEL
from training.checkpoint.tensors import Place, read_header, read_rows

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from infra.store import Store

__all__ = [
    "OF_MODEL",
    "Part",
    "Saved",
    "fill_optimizer",
    "parts_of",
    "put_tensors",
    "rows_of",
    "state_tensors",
    "take_tensors",
]

OF_MODEL = "objective/model."
"""How tensors of the model itself begin; without it they are named as open_clip names them."""


@dataclass(frozen=True)
class Part:
    """The rows of a tensor of ``total`` rows that a file holds, the first of which is row ``start``."""

    path: str
    place: Place
    start: int
    total: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the whole tensor."""
        return (self.total, *self.place.shape[1:]) if self.place.shape else ()


class Saved:
    """The tensors of a checkpoint, readable in part. A context manager: it keeps files open."""

    def __init__(self, store: Store, parts: Mapping[str, list[Part]]) -> None:
        self._store, self._parts = store, parts
        self._files: dict[str, BinaryIO] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Saved:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: parts[0].shape for name, parts in self._parts.items()}

    def dtype(self, name: str) -> torch.dtype:
        return self._parts[name][0].place.dtype

    def read(self, name: str, start: int = 0, stop: int | None = None) -> Tensor:
        """Rows ``start`` to ``stop`` of a tensor, on the CPU."""
        parts = sorted(self._parts[name], key=lambda part: part.start)
        if not parts[0].shape:
            return read_rows(self._file(parts[0].path), parts[0].place)
        stop = parts[0].total if stop is None else stop
        spans = [(part, max(start - part.start, 0), min(stop - part.start, part.place.shape[0])) for part in parts]
        spans = [span for span in spans if span[1] < span[2]] or [(parts[0], 0, 0)]
        pieces = [read_rows(self._file(part.path), part.place, low, high) for part, low, high in spans]
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    def _file(self, path: str) -> BinaryIO:
        if path not in self._files:
            self._files[path] = self._stack.enter_context(self._store.open(path))
        return self._files[path]


def parts_of(store: Store, path: str) -> list[tuple[str, Part]]:
    """Return the parts of tensors that the file at ``path`` holds."""
    with store.open(path) as file:
        places, metadata = read_header(file)
    rows = json.loads(metadata.get("rows", "{}"))
    prefix = OF_MODEL if path.endswith(MODEL) else ""
    found = []
    for name, place in places.items():
        start, total = rows.get(name, (0, place.shape[0] if place.shape else 0))
        found.append((prefix + name, Part(path, place, start, total)))
    return found


def rows_of(tensor: DTensor) -> tuple[int, int]:
    """Return the range of rows of a sharded tensor that this rank holds. FSDP2 cuts as ``torch.chunk`` does."""
    mesh = tensor.device_mesh
    if tuple(tensor.placements) != (Shard(0),):
        raise TypeError(f"expected a tensor sharded by rows, found {tensor.placements}")
    count = tensor.shape[0]
    size = -(-count // mesh.size())
    start = min(mesh.get_local_rank() * size, count)
    return start, min(start + size, count)


def state_tensors(objective: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """All that training changes, by name. Optimizer state goes by the weight's name, since its number depends on how
    the weights are grouped; the groups' settings follow from the configuration. A weight in bf16 goes as its master in
    fp32, so that those who hold weights and masters otherwise (FSDP2) can go on from here."""
    tensors = {f"objective/{name}": tensor for name, tensor in objective.state_dict().items()}
    for name, weight in objective.named_parameters():
        for key, value in optimizer.state.get(weight, {}).items():
            tensors[f"optimizer/{name}/{key}"] = value
    for name, value in tensors.items():
        if not isinstance(value, Tensor):
            raise TypeError(f"only tensors can be kept: {name} is {type(value).__name__}")
    return tensors


def fill_optimizer(optimizer: Optimizer, objective: nn.Module, saved: Saved) -> None:
    """Give the optimizer the state tensors that ``saved`` has, empty; it makes its own in its first step only."""
    weights = dict(objective.named_parameters())
    fused = {id(weight) for group in optimizer.param_groups if group.get("fused") for weight in group["params"]}
    optimizer.state.clear()
    for path, shape in saved.shapes.items():
        kind, _, rest = path.partition("/")
        name, _, key = rest.rpartition("/")
        if kind == "optimizer" and (weight := weights.get(name)) is not None:
            if shape == weight.shape and shape:
                empty = torch.zeros_like(weight, dtype=saved.dtype(path), requires_grad=False)
            else:  # a count of steps, which only fused optimizers keep beside the weight
                device = weight.device if id(weight) in fused or shape == weight.shape else torch.device("cpu")
                empty = torch.zeros(shape, dtype=saved.dtype(path), device=device)
            optimizer.state[weight][key] = empty


def take_tensors(tree: Any, path: str, tensors: dict[str, Tensor]) -> Any:  # noqa: ANN401 - JSON values and tensors
    """``tree`` with its tensors taken out into ``tensors`` by their path, and the path in their place."""
    match tree:
        case Tensor():
            tensors[path] = tree
            return {"__tensor__": path}
        case Mapping():
            return {key: take_tensors(value, f"{path}/{key}", tensors) for key, value in tree.items()}
        case list() | tuple():
            return [take_tensors(value, f"{path}/{number}", tensors) for number, value in enumerate(tree)]
        case _:
            return tree


def put_tensors(tree: Any, tensor: Callable[[str], Tensor]) -> Any:  # noqa: ANN401
    """The tree that :func:`take_tensors` took the tensors from."""
    match tree:
        case {"__tensor__": path}:
            return tensor(path)
        case dict():
            return {key: put_tensors(value, tensor) for key, value in tree.items()}
        case list():
            return [put_tensors(value, tensor) for value in tree]
        case _:
            return tree
