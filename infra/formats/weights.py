"""Identify files of weights by their first bytes and their table of tensors, without torch.

A file that is no weights at all (a web page, a Git LFS pointer), only half of one, or one that runs code when it is
loaded is refused here with its name, before anything heavy starts: when a model is adopted, and again where it is
loaded. What is read is the table of tensors, which both formats keep apart from the numbers.
"""

from __future__ import annotations

import io
import json
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from pathlib import PurePath
from typing import Any, BinaryIO

from infra.errors import DataError
from infra.store import Store

__all__ = ["ENDINGS", "TOKENIZER", "Shapes", "in_order", "read_shapes"]

ENDINGS = (".safetensors", ".bin", ".pth", ".pt")
"""File names of weights, in the order in which one is preferred beside others."""

Shapes = dict[str, tuple[int, ...]]
"""The shape of each tensor of a model, by its name."""

TOKENIZER = re.compile(
    r"tokenizer.*\.(?:json|model)|special_tokens_map\.json|added_tokens\.json|vocab\.(?:json|txt)|merges\.txt(?:\.gz)?"
    r"|(?:spiece|sentencepiece.*)\.model|config\.json"
)
"""Files from which Hugging Face's tokenizers load, of which the last one names the kind, and merges for CLIP's."""

_PREFERRED = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
    "model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.pth",
    "model.pth",
)
_LEAST = 16  # bytes of the smallest file that can hold a tensor
_MAX_TABLE = 100 << 20  # bytes of a table of tensors; safetensors' own limit
_LEGACY = 0x1950A86A20F9469CFC6C  # what torch's own files began with until 2020
_OTHERS = {
    b"version https://git-lfs": ("a Git LFS pointer", "fetch the file itself: git lfs pull"),
    b"\x1f\x8b": ("a gzip file", "unpack it"),
    b"7z\xbc\xaf": ("a 7z file", "unpack it"),
    b"Rar!": ("a rar file", "unpack it"),
    b"\x89HDF": ("an HDF5 file, of Keras", "convert it to safetensors"),
    b"GGUF": ("a GGUF file", "take the checkpoint that it was made from"),
    b"\x93NUMPY": ("an array of numpy", "convert it to safetensors"),
}
"""Kinds of files that are taken for weights, by how they begin, and what to do about it."""


def in_order(names: Iterable[str]) -> list[str]:
    """The files of weights among the ``names`` in a folder, first the one that open_clip takes."""
    return sorted(
        (name for name in names if name.endswith(ENDINGS[:3])),
        key=lambda name: (
            _PREFERRED.index(name) if name in _PREFERRED else len(_PREFERRED),
            not name.endswith(".safetensors"),
            name,
        ),
    )


def read_shapes(store: Store, path: str) -> Shapes:
    """The shapes of the tensors in a file of weights: safetensors, or torch's with a state dict or a checkpoint of one.

    Raises DataError, naming the file, if it is another kind of file, damaged, cut off, or holds more than tensors.
    """
    place = store.locate(path)
    with store.open(path) as source:
        size = source.seek(0, io.SEEK_END)
        source.seek(0)
        start = source.read(512)
        source.seek(0)
        kind = _kind(start, size, place)
        if (kind == "safetensors") != path.endswith(".safetensors"):
            ending = PurePath(path).suffix or "none"
            raise DataError(
                f"{place} has the wrong ending", expected=".safetensors of safetensors, .pt of torch's files",
                found=f"{kind} with the ending {ending}", fix="rename it",
            )  # fmt: skip
        if kind == "safetensors":
            return _named(_safetensors(source, size, place), place)
        return _named(_torch(source, place, zipped=start.startswith(b"PK\x03\x04")), place)


def _kind(start: bytes, size: int, place: str) -> str:
    """``safetensors`` or ``torch``. Raises DataError for what is clearly another kind of file."""
    if size < _LEAST:
        raise DataError(f"{place} has {size} bytes", expected="the weights of a model", fix="fetch it again")
    for magic, (other, fix) in _OTHERS.items():
        if start.startswith(magic):
            raise DataError(f"{place} is {other}", expected="the weights of a model", fix=fix)
    if start.startswith((b"PK\x03\x04", b"\x80")):
        return "torch"
    if start[8:9] == b"{":
        return "safetensors"
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n")
    if text.startswith(b"<"):
        raise DataError(
            f"{place} is a web page", expected="the weights of a model", found=repr(text[:80].decode(errors="replace")),
            fix="download the file itself; a page says what it wants, such as a login",
        )  # fmt: skip
    if all(32 <= byte < 127 or byte in b"\t\r\n" for byte in text):
        found = repr(text[:80].decode())
        raise DataError(f"{place} is a text file", expected="the weights of a model", found=found)
    raise DataError(
        f"{place} is not a file of weights", expected="safetensors, or a checkpoint of torch", found=repr(start[:16])
    )


def _named(shapes: Mapping[Any, Any], place: str) -> Shapes:
    """Those of a state dict by the names a model has for them. Raises DataError if there are none."""
    found = {str(name): shape for name, shape in shapes.items() if isinstance(shape, tuple)}
    if not found:
        raise DataError(
            f"{place} holds no weights", expected="tensors by name, alone or under state_dict",
            found=", ".join(map(str, list(shapes)[:5])) or "nothing",
        )  # fmt: skip
    wrapped = all(name.startswith("module.") for name in found)
    return {name.removeprefix("module.") if wrapped else name: shape for name, shape in found.items()}


# --- safetensors ------------------------------------------------------------------------------------------------------


def _safetensors(source: BinaryIO, size: int, place: str) -> Shapes:
    length = int.from_bytes(source.read(8), "little")
    if length > min(_MAX_TABLE, size - 8):
        raise _cut(place, length + 8, size)
    try:
        table = json.loads(source.read(length))
        tensors = {name: entry for name, entry in table.items() if name != "__metadata__"}
        end = max((entry["data_offsets"][1] for entry in tensors.values()), default=0)
        shapes = {name: tuple(map(int, entry["shape"])) for name, entry in tensors.items()}
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise DataError(f"{place} is damaged", expected="a table of tensors", found=repr(error)[:200]) from None
    if 8 + length + end != size:
        raise _cut(place, 8 + length + end, size)
    return shapes


def _cut(place: str, expected: int, size: int) -> DataError:
    fault = "is cut off" if size < expected else "is damaged"
    return DataError(f"{place} {fault}", expected=f"{expected:,} bytes", found=f"{size:,}", fix="fetch it again")


# --- torch's own files ------------------------------------------------------------------------------------------------


def _torch(source: BinaryIO, place: str, *, zipped: bool) -> Mapping[Any, Any]:
    """Content of a checkpoint of torch, with a shape in the place of each tensor."""
    try:
        content = _unzipped(source, place) if zipped else _legacy(source, place)
    except (pickle.UnpicklingError, EOFError, IndexError, KeyError, AttributeError, TypeError, ValueError) as error:
        raise DataError(
            f"{place} is damaged", expected="a checkpoint of torch", found=f"{type(error).__name__}: {error}"[:200]
        ) from None
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping):
        raise DataError(f"{place} holds no weights", expected="tensors by name", found=type(content).__name__)
    return content


def _unzipped(source: BinaryIO, place: str) -> Any:  # noqa: ANN401 - whatever was saved
    try:
        with zipfile.ZipFile(source) as archive:
            names = archive.namelist()
            table = next((name for name in names if name.endswith("data.pkl") and name.count("/") <= 1), None)
            if any(name.endswith("constants.pkl") for name in names):
                raise DataError(
                    f"{place} is a TorchScript archive", expected="weights alone: a program is not run",
                    fix="write its weights to a file: "
                    "safetensors.torch.save_file(torch.jit.load(FILE).state_dict(), NEW)",
                )  # fmt: skip
            if table is None:
                raise DataError(f"{place} is a zip file", expected="a checkpoint of torch", found=", ".join(names[:5]))
            return _Table(io.BytesIO(archive.read(table)), place).load()
    except zipfile.BadZipFile as error:  # the list of what is in it comes last
        raise DataError(
            f"{place} is cut off or damaged", expected="a checkpoint of torch", found=str(error), fix="fetch it again"
        ) from None


def _legacy(source: BinaryIO, place: str) -> Any:  # noqa: ANN401 - whatever was saved
    """Content of a file of before 2020: four pickles (a mark, a version, the machine, the object), then the numbers."""
    if _Table(source, place).load() != _LEGACY:
        raise DataError(f"{place} is a pickle, but not torch's", expected="a checkpoint of torch")
    for _ in range(2):
        _Table(source, place).load()
    return _Table(source, place).load()


class _Anything:
    """Stands for any plain object of torch: a data type, a device, a size."""

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, _: object) -> None:
        pass


def _tensor(_storage: object, _offset: object, size: Iterable[int], *_: object) -> tuple[int, ...]:
    return tuple(size)


def _parameter(data: object, *_: object) -> object:
    return data


class _Table(pickle.Unpickler):
    """Reads the structure of a checkpoint. Nothing that a pickle names is run: the few names of a state dict have
    stand-ins, and any other is refused, as torch refuses it (``weights_only``)."""

    def __init__(self, source: Any, place: str) -> None:  # noqa: ANN401 - anything with read and readline
        super().__init__(source)
        self._place = place

    def find_class(self, module: str, name: str) -> Any:  # noqa: ANN401 - a stand-in
        match module, name:
            case "collections", "OrderedDict":
                return OrderedDict
            case "torch._utils", "_rebuild_tensor_v2" | "_rebuild_tensor":
                return _tensor
            case "torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state":
                return _parameter
            case "torch.nn.parameter", "Parameter":
                return _parameter
            case "_codecs", "encode":
                return _Anything
            case (("builtins" | "__builtin__"), ("set" | "bytearray" | "complex" | "frozenset")):
                return _Anything
            case (("torch" | "torch.storage" | "torch._utils" | "torch.serialization" | "torch._tensor"), _):
                return _Anything
        raise DataError(
            f"{self._place} holds more than tensors", expected="a state dict, or a checkpoint of one",
            found=f"a pickled {module}.{name}, which would be run as it is loaded",
            fix="where it was made, save the weights alone: torch.save(model.state_dict(), FILE)",
        )  # fmt: skip

    def persistent_load(self, _: object) -> Any:  # noqa: ANN401 - of a storage
        return None
