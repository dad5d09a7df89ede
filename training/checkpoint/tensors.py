"""Tensors in files that can be written as a stream, read in part, and never run code: safetensors.

The format (https://github.com/huggingface/safetensors): eight bytes with the length of a JSON header, the header with
name, dtype, shape and place of each tensor, then their bytes. Its own library writes from one block of memory or to
local paths only; a checkpoint of many GB goes to any store, a tensor at a time.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import IO, Any, BinaryIO

import torch
from torch import Tensor

from infra.errors import DataError

__all__ = ["Place", "read_header", "read_rows", "write_tensors"]

DTYPES = {  # in the order in which the library sorts them
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3": torch.float8_e4m3fn,
    "I16": torch.int16,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I32": torch.int32,
    "F32": torch.float32,
    "F64": torch.float64,
    "I64": torch.int64,
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_RANKS = {dtype: rank for rank, dtype in enumerate(DTYPES.values())}


@dataclass(frozen=True)
class Place:
    """Location of a tensor of (``shape``) in its file, in bytes from its start."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    offset: int

    @property
    def row_bytes(self) -> int:
        return self.dtype.itemsize * torch.Size(self.shape[1:]).numel()


def write_tensors(out: IO[bytes], tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """``tensors`` (contiguous, on the CPU) as the content of a safetensors file; equal tensors give equal bytes."""
    names = sorted(tensors, key=lambda name: (-_RANKS[tensors[name].dtype], name))
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    end = 0
    for name in names:
        start, end = end, end + tensors[name].nbytes
        shape = list(tensors[name].shape)
        header[name] = {"dtype": _NAMES[tensors[name].dtype], "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    out.write(len(text).to_bytes(8, "little") + text)
    for name in names:
        if tensors[name].numel():
            out.write(tensors[name].reshape(-1).view(torch.uint8).numpy().data)


def read_header(file: BinaryIO) -> tuple[dict[str, Place], dict[str, str]]:
    """The tensors of a file by name, and its metadata."""
    length = int.from_bytes(file.read(8), "little")
    header = json.loads(file.read(length))
    metadata = header.pop("__metadata__", {})
    places = {
        name: Place(DTYPES[entry["dtype"]], tuple(entry["shape"]), 8 + length + entry["data_offsets"][0])
        for name, entry in header.items()
    }
    return places, metadata


def read_rows(file: BinaryIO, place: Place, start: int = 0, stop: int | None = None) -> Tensor:
    """Rows ``start`` to ``stop`` of a tensor, or a tensor of shape () whole."""
    shape = place.shape
    if shape:
        stop = shape[0] if stop is None else stop
        shape, skip = (stop - start, *shape[1:]), start * place.row_bytes
    else:
        skip = 0
    tensor = torch.empty(shape, dtype=place.dtype)
    if tensor.numel():
        file.seek(place.offset + skip)
        view = tensor.view(-1).view(torch.uint8).numpy().data  # read into place: no second copy
        while view:
            if not (count := file.readinto(view)):  # type: ignore[attr-defined] # every binary file has it
                raise DataError("a file of tensors ends too soon", expected=f"{len(view)} more bytes")
            view = view[count:]
    return tensor
