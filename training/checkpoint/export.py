"""The trained model in open_clip's forms: a hub folder and a training checkpoint."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from training.checkpoint.manifests import CONFIG, MODEL
from training.checkpoint.tensors import write_tensors

if TYPE_CHECKING:
    from infra.run.context import Output

__all__ = ["write_folder", "write_model", "write_module"]


def write_model(
    output: Output,
    description: dict[str, Any],
    state_dict: Mapping[str, Tensor],
    optimizer: dict[str, Any],
    epoch: int,
    tokenizer: Mapping[str, bytes],
) -> None:
    """open_clip's two forms of a trained model: hub folder (config and safetensors) and training checkpoint.

    Tensors must be whole (``gathered``). ``tokenizer``: files of one of Hugging Face's, by name. The bytes are a
    function of the arguments alone.
    """
    weights = write_folder(output, "data", description, state_dict, tokenizer)
    # In which order an optimizer remembers things depends on whether it was loaded.
    moments = {number: dict(sorted(state.items())) for number, state in sorted(optimizer["state"].items())}
    optimizer = {"state": moments, "param_groups": optimizer["param_groups"]}
    checkpoint = {"epoch": epoch, "name": "clipline", "state_dict": weights, "optimizer": optimizer}
    with output.open("data/checkpoint.pt") as out:
        torch.save(_canonical(checkpoint), out)


def write_folder(
    output: Output,
    folder: str,
    description: dict[str, Any],
    state_dict: Mapping[str, Tensor],
    tokenizer: Mapping[str, bytes],
) -> dict[str, Tensor]:
    """A folder that open_clip loads with ``local-dir:``; the weights as written."""
    weights = {name: weight.detach().cpu().contiguous() for name, weight in state_dict.items()}
    output.write(f"{folder}/{CONFIG}", json.dumps(description, indent=2, sort_keys=True).encode())
    for name, content in tokenizer.items():
        output.write(f"{folder}/{name}", content)
    with output.open(f"{folder}/{MODEL}") as out:
        write_tensors(out, weights, {"format": "pt"})
    return weights


def write_module(output: Output, folder: str, config: Mapping[str, Any], state_dict: Mapping[str, Tensor]) -> None:
    """A module of our own as ``config.json``, which it is built again from, and ``model.safetensors``."""
    weights = {name: weight.detach().cpu().contiguous() for name, weight in state_dict.items()}
    output.write(f"{folder}/config.json", json.dumps(config, indent=2, sort_keys=True).encode())
    with output.open(f"{folder}/model.safetensors") as out:
        write_tensors(out, weights, {"format": "pt"})


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
