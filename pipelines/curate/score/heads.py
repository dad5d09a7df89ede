"""Small networks on embeddings, of weights that others have published."""

from __future__ import annotations

import tempfile
from itertools import pairwise
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file

from infra.errors import DataError
from infra.run.manifest import Artifact

if TYPE_CHECKING:
    from infra.formats.vectors import Floats
    from pipelines.curate.score.scores import Arrays

__all__ = ["layers", "network"]


def layers(weights: Artifact) -> dict[str, NDArray[np.float32]]:
    """The layers of a head, from the one file of ``weights``: weight0 (k, d), bias0 (k,), weight1, ...

    Raises DataError for anything but linear layers that follow one another to one output.
    """
    (file,) = weights.files("data/")
    with tempfile.TemporaryDirectory() as folder:
        path = weights.local(file.path, Path(folder))
        try:
            safe = file.path.endswith(".safetensors")
            state = load_file(path) if safe else torch.load(path, map_location="cpu", weights_only=True)
        except (RuntimeError, EOFError, UnpicklingError, SafetensorError) as error:
            raise DataError(f"{weights.url(file.path)} has no weights that can be read", found=str(error)) from error
    tensors = [(name, value.float().numpy()) for name, value in state.items() if getattr(value, "ndim", 0)]
    found: dict[str, NDArray[np.float32]] = {}
    for number, (name, weight) in enumerate(item for item in tensors if item[1].ndim == 2):
        bias = dict(tensors).get(f"{name.removesuffix('weight')}bias", np.zeros(len(weight), np.float32))
        found |= {f"weight{number}": weight, f"bias{number}": bias}
    shapes = [array.shape for name, array in found.items() if name.startswith("weight")]
    ends = [before[0] == after[1] for before, after in pairwise(shapes)]
    if not shapes or not all(ends) or shapes[-1][0] != 1:
        raise DataError(
            f"{weights.url(file.path)} is not a head of linear layers",
            expected="2-d weights that follow one another to one output",
            found=", ".join(f"{name} {value.shape}" for name, value in tensors)[:300],
        )
    return found


def network(rows: Floats, known: Arrays, activation: str, output: str) -> Floats:
    """The output of a head for each row: (n,). Raises DataError for vectors of another length."""
    values: NDArray[Any] = rows
    depth = len(known) // 2
    for number in range(depth):
        weight, bias = known[f"weight{number}"], known[f"bias{number}"]
        if weight.shape[1] != values.shape[1]:
            raise DataError(
                "the head is not for these embeddings",
                expected=f"vectors of {weight.shape[1]} numbers",
                found=f"{values.shape[1]}",
            )
        values = values @ weight.T + bias
        if number < depth - 1:
            values = _activate(values, activation)
    result: NDArray[np.floating] = 1 / (1 + np.exp(-values[:, 0])) if output == "sigmoid" else values[:, 0]
    return result.astype(np.float32)


def _activate(values: NDArray[Any], activation: str) -> NDArray[Any]:
    if activation == "relu":
        return values.clip(0)
    if activation == "gelu":
        gelu: NDArray[Any] = torch.nn.functional.gelu(torch.from_numpy(values)).numpy()
        return gelu
    return values
