"""Checkpoints that a run can be continued from exactly, by any number of workers, and the model for the world.

A checkpoint is a folder, ``checkpoints/{samples seen}/``::

    open_clip_config.json           the model: ``open_clip.create_model("local-dir:...")`` loads the folder as it is
    open_clip_model.safetensors
    00000.safetensors               all else that training goes on with (moments, queues, averages): of each rank
    00001.safetensors               what it alone holds, so one file under DDP and one per rank under FSDP
    00000-of-00002.json             a rank's seal, written last: size and sha256 of its files

It counts when every rank's seal is there, and all from one attempt; nobody waits for anybody to write it. It is
written by a thread from a copy of the state while training goes on, a tensor at a time, to any store. It is read by
any number of ranks, each of which takes the rows that it needs; damage is noticed first, and the checkpoint before
is used instead. There is no pickle in it.
"""

from __future__ import annotations

import json
import logging
import math
import secrets
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Shard

from infra.cluster import backoff
from infra.errors import CliplineError, ConfigError, StorageError, TransientError
from training.checkpoint.tensors import Place, read_header, read_rows, write_tensors

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from infra.run.context import Output
    from infra.store.storage import Store
    from training.distributed.world import World
    from training.train import Config

__all__ = ["FOLDER", "Checkpoints", "Seal", "complete", "newest", "prune", "write_folder", "write_model"]

log = logging.getLogger(__name__)
T = TypeVar("T")

FOLDER = "checkpoints"
CONFIG, MODEL = "open_clip_config.json", "open_clip_model.safetensors"
OF_MODEL = "objective/model."
"""How tensors of the model itself begin; without it they are named as open_clip names them."""


class Checkpoints:
    """The checkpoints of a run in its store. What is said to be for all ranks contains collectives.

    ``description`` is the content of ``open_clip_config.json``. The configuration says how often (``checkpoint_every``,
    ``checkpoint_minutes``) and which are kept (``keep_checkpoints``, ``keep_every``, ``keep_best``); ``best`` names
    the metric that ranks them, where less is better if it has ``loss`` in its name.
    """

    ATTEMPTS = 4  # at writing a file to a store that does not answer
    ASK_S = 5.0  # at least so often rank 0's clock is asked, where it has a say

    def __init__(
        self, store: Store, config: Config, world: World, description: Mapping[str, Any] | None = None, best: str = ""
    ) -> None:
        self.store, self.config, self.world = store, config, world
        self.description, self.best = dict(description or {}), best
        self._attempt = world.broadcast(secrets.token_hex(8))
        self._pool = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future[None] | None = None
        self._copies: dict[str, Tensor] = {}  # on the CPU, used again by each save
        self._saved_at = self._asked_at = time.monotonic()
        self._asked: int | None = None  # samples seen when the clock was asked
        self._ask_at = 0  # and when it will be
        self._saved: int | None = None  # samples seen at the last save

    # --- when -----------------------------------------------------------------------------------------------------

    def due(self, before: int, after: int) -> bool:
        """Whether there should be a checkpoint at ``after`` samples seen; the last time it was asked was at ``before``.

        For all ranks. Where minutes count they are rank 0's; the others hear of it a few times in that span, not at
        each step. While rank 0 has notice that machines will be taken away there is one each time it is asked.
        """
        every = self.config.checkpoint_every
        if every is not None and before // every != after // every:
            return True
        if self.config.checkpoint_minutes is None and self.world.notice is None:
            return False
        if after < self._ask_at:
            return False
        wanted, self._ask_at = self.world.broadcast(self._ask(after))
        return wanted

    def _ask(self, samples: int) -> tuple[bool, int]:
        """Rank 0: is it time, and at how many samples seen should it be asked again?"""
        now = time.monotonic()
        minutes = self.config.checkpoint_minutes
        left = 60 * minutes - (now - self._saved_at) if minutes is not None else math.inf
        noticed = self.world.notice is not None and self.world.notice()
        since = samples - (samples if self._asked is None else self._asked)
        rate = since / max(now - self._asked_at, 1e-9)  # samples/s
        self._asked, self._asked_at = samples, now
        return left <= 0 or noticed, samples + int(rate * max(0.0, min(self.ASK_S, left / 4)))

    # --- writing --------------------------------------------------------------------------------------------------

    def save(
        self,
        samples: int,
        objective: nn.Module,
        optimizer: Optimizer,
        extras: Mapping[str, Any],
        metrics: Callable[[], Mapping[str, float]] = dict,
    ) -> float:
        """Keep the state at ``samples`` seen; seconds for which training was held up. For all ranks.

        ``extras`` is a tree of JSON values and tensors, ``metrics`` says how good the state is, when that is known:
        it is asked by the thread that writes. The files are written after the return. What went wrong with
        those of the save before is raised now, on all ranks: StorageError, TransientError. Where nothing has been seen
        since the save before, or since :meth:`restore`, there is nothing to do.
        """
        if samples == self._saved:
            return 0.0
        started = time.perf_counter()
        self._wait()
        waited = time.perf_counter() - started
        tensors = _state(objective, optimizer)
        plain = _flatten(extras, "extras", tensors)
        model, own, rows = self._copy(tensors)
        copied: Any = torch.cuda.Event() if self.world.device.type == "cuda" else None  # type: ignore[no-untyped-call]
        if copied is not None:
            copied.record()  # the copies are under way; steps that come after cannot overtake them
        seal = Seal(
            samples=samples,
            attempt=self._attempt,
            rank=self.world.rank,
            size=self.world.size,
            identity=self.config.identity() if self.world.rank == 0 else {},
            extras=plain if self.world.rank == 0 else None,
        )
        self._writing = self._pool.submit(self._write, seal, model, own, rows, copied, metrics)
        self._saved, self._saved_at = samples, time.monotonic()
        held = time.perf_counter() - started
        log.info("checkpoint at %d samples: held up for %.3f s, %.3f s of it by the one before", samples, held, waited)
        return held

    def close(self) -> None:
        """Wait until all is written, raising what went wrong, and drop what need not be kept. For all ranks."""
        self._wait()
        self._pool.shutdown()
        self.world.raise_if_any_failed()
        if self.world.rank == 0:
            self._prune()

    def _wait(self) -> None:
        error: CliplineError | None = None
        if self._writing is not None:
            try:
                self._writing.result()
            except CliplineError as failure:
                error = failure
            except OSError as failure:
                error = StorageError(
                    "a checkpoint could not be written",
                    found=str(failure),
                    fix=f"make room at {self.store.url}; the checkpoints before are whole",
                )
            self._writing = None
        self.world.raise_if_any_failed(error)

    def _copy(self, tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, list[int]]]:
        """Copies of the tensors this rank writes: the whole model (rank 0), the rest, and which rows of it they are."""
        model, own, rows = {}, {}, {}
        for name, tensor in tensors.items():
            if name.startswith(OF_MODEL):
                whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
                if self.world.rank == 0:
                    model[name.removeprefix(OF_MODEL)] = self._copied(name, whole)
            elif isinstance(tensor, DTensor):
                own[name] = self._copied(name, tensor.to_local())
                rows[name] = [_rows(tensor)[0], tensor.shape[0]]
            elif self.world.rank == 0:
                own[name] = self._copied(name, tensor)
        return model, own, rows

    def _copied(self, name: str, tensor: Tensor) -> Tensor:
        copy = self._copies.get(name)
        if copy is None or copy.shape != tensor.shape or copy.dtype != tensor.dtype:
            copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
            self._copies[name] = copy
        return copy.copy_(tensor.detach(), non_blocking=True)

    def _write(
        self,
        seal: Seal,
        model: dict[str, Tensor],
        own: dict[str, Tensor],
        rows: dict[str, list[int]],
        copied: Any,  # noqa: ANN401 - a torch.cuda.Event or none; torch does not type it
        metrics: Callable[[], Mapping[str, float]],
    ) -> None:
        """Runs in the thread."""
        if copied is not None:
            copied.synchronize()
        if seal.rank == 0:
            seal.files[CONFIG] = self._publish(seal, CONFIG, lambda out: out.write(_json(self.description)))
            seal.files[MODEL] = self._publish(
                seal, MODEL, partial(write_tensors, tensors=model, metadata={"format": "pt"})
            )
        if own:
            name = f"{seal.rank:05d}.safetensors"
            metadata = {"rows": json.dumps(rows, sort_keys=True)}
            seal.files[name] = self._publish(seal, name, partial(write_tensors, tensors=own, metadata=metadata))
        if seal.rank == 0:
            seal.metrics = dict(metrics())
        self._patiently(lambda: self.store.write(seal.path, seal.to_bytes()))
        if seal.rank == 0:
            self._prune()

    def _publish(self, seal: Seal, name: str, write: Callable[[Any], object]) -> dict[str, Any]:
        def publish() -> dict[str, Any]:
            with self.store.publish(f"{seal.folder}/{name}") as out:
                write(out)
            return {"bytes": out.size, "sha256": out.sha256}

        return self._patiently(publish)

    def _patiently(self, action: Callable[[], T]) -> T:
        for attempt in range(2, self.ATTEMPTS + 1):
            try:
                return action()
            except TransientError as error:
                log.warning("a checkpoint must wait for its store: %s", error)
                time.sleep(backoff(attempt))
        return action()

    def _prune(self) -> None:
        config = self.config
        prune(self.store, config.keep_checkpoints, config.keep_every, config.keep_best, self.best)

    # --- reading --------------------------------------------------------------------------------------------------

    def restore(
        self, objective: nn.Module, optimizer: Optimizer, extras: Mapping[str, Any] | None = None
    ) -> dict[str, Any] | None:
        """Put objective and optimizer back to the newest intact checkpoint; its extras, or none if there is none.

        For all ranks, after ``wrap`` and before the first step. Tensors that ``extras`` holds at
        the place of saved ones are loaded into (as rows of DTensors must be); others come as new ones on the CPU.
        Raises ConfigError for a checkpoint of another model or configuration. What is newer than the checkpoint found
        is deleted: it is damaged, or an attempt that died in the middle.
        """
        found = self.world.broadcast(complete(self.store) if self.world.rank == 0 else [])
        for seals in reversed(found):
            self._check_identity(seals[0])
            if (places := self._intact(seals)) is None:
                log.warning("checkpoint %s is damaged; the one before it is used", seals[0].folder)
                continue
            with _Saved(self.store, places) as saved:
                values = self._load(saved, seals[0], objective, optimizer, extras or {})
            self._saved = seals[0].samples
            self._forget(after=self._saved)
            log.info("continuing from %d samples seen", seals[0].samples)
            return values
        self._forget(after=-1)
        return None

    def _check_identity(self, seal: Seal) -> None:
        ours = json.loads(_json(self.config.identity()))
        names = sorted(ours.keys() | seal.identity.keys())
        changed = [name for name in names if ours.get(name) != seal.identity.get(name)]
        if changed:
            raise ConfigError(
                f"{self.store.url}/{seal.folder} is a checkpoint of another configuration",
                expected=", ".join(f"{name} = {ours.get(name)!r}" for name in changed)[:500],
                found=", ".join(f"{name} = {seal.identity.get(name)!r}" for name in changed)[:500],
                fix="train into another folder, or with the configuration that the checkpoint was made with",
            )

    def _intact(self, seals: list[Seal]) -> dict[str, list[_Part]] | None:
        """Where each tensor of a checkpoint lies; none if a file is not what was written. Each rank looks at a part."""
        files = [(f"{seal.folder}/{name}", seal.files[name]) for seal in seals for name in sorted(seal.files)]
        own: list[tuple[str, _Part]] = []
        intact = True
        for path, promised in files[self.world.rank :: self.world.size]:
            intact = intact and self.store.exists(path) and self.store.digest(path) == promised["sha256"]
            if intact and path.endswith(".safetensors"):
                own += _parts(self.store, path)
        parts: dict[str, list[_Part]] = {}
        for good, found in self.world.gather((intact, own)):
            intact = intact and good
            for name, part in found:
                parts.setdefault(name, []).append(part)
        return parts if intact else None

    def _load(
        self, saved: _Saved, seal: Seal, objective: nn.Module, optimizer: Optimizer, extras: Mapping[str, Any]
    ) -> dict[str, Any]:
        _fill(optimizer, objective, saved)
        targets = _state(objective, optimizer)
        _flatten(extras, "extras", targets)
        self._check_shapes(saved, targets, seal)
        for name in sorted(targets):
            self._load_tensor(saved, name, targets[name])
        values: dict[str, Any] = _grow(seal.extras, lambda name: targets[name] if name in targets else saved.read(name))
        return values

    def _load_tensor(self, saved: _Saved, name: str, target: Tensor) -> None:
        with torch.no_grad():
            if isinstance(target, DTensor):
                local = target.to_local()
                local.copy_(saved.read(name, *_rows(target)))
                return
            if self.world.rank == 0:  # the others need not ask the store for what all have alike
                target.copy_(saved.read(name))
            if self.world.size > 1:
                whole = target.contiguous()
                dist.broadcast(whole, 0, group=self.world.control if target.device.type == "cpu" else None)
                if whole is not target:
                    target.copy_(whole)

    def _check_shapes(self, saved: _Saved, targets: dict[str, Tensor], seal: Seal) -> None:
        wanted = {name: tuple(tensor.shape) for name, tensor in targets.items()}
        there = {name: shape for name, shape in saved.shapes.items() if name in wanted or not name.startswith("extras")}
        if wrong := sorted(name for name in wanted.keys() | there.keys() if wanted.get(name) != there.get(name)):
            name = wrong[0]
            raise ConfigError(
                f"{self.store.url}/{seal.folder} is a checkpoint of another model",
                expected=f"{name} {wanted.get(name, 'missing')}",
                found=f"{there.get(name, 'missing')}, and {len(wrong) - 1} more that differ",
                fix="train into another folder, or with the model that the checkpoint was made of",
            )

    def _forget(self, after: int) -> None:
        """Drop what claims to be newer than where this attempt starts: it is this attempt's to write."""
        if self.world.rank == 0:
            for folder in self.store.folders(FOLDER):
                if folder.isdigit() and int(folder) > after:
                    _drop(self.store, f"{FOLDER}/{folder}")
        self.world.raise_if_any_failed()


# --- seals ------------------------------------------------------------------------------------------------------------


@dataclass
class Seal:
    """A rank's word that its part of a checkpoint is written. Rank 0's also says what the checkpoint is of."""

    samples: int
    attempt: str  # of the training that wrote it: parts of two attempts do not make a whole
    rank: int
    size: int
    identity: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    files: dict[str, dict[str, Any]] = field(default_factory=dict)  # by name: bytes, sha256
    extras: Any = None  # with the paths of tensors in the places of tensors

    @property
    def folder(self) -> str:
        return f"{FOLDER}/{self.samples:012d}"

    @property
    def path(self) -> str:
        return f"{self.folder}/{self.rank:05d}-of-{self.size:05d}.json"

    def to_bytes(self) -> bytes:
        return _json(vars(self))


def complete(store: Store) -> list[list[Seal]]:
    """The seals of each checkpoint that has all of them, by rank; oldest first."""
    folders: dict[str, list[str]] = {}
    for path in store.paths(FOLDER):
        if path.endswith(".json") and not path.endswith(CONFIG):
            folders.setdefault(path.rpartition("/")[0], []).append(path)
    found = []
    for _, paths in sorted(folders.items()):
        seals = [Seal(**json.loads(data)) for data in store.read_all(sorted(paths))]
        first = seals[0]
        whole = [seal for seal in seals if (seal.attempt, seal.size) == (first.attempt, first.size)]
        if [seal.rank for seal in whole] == list(range(first.size)):
            found.append(whole)
    return found


def newest(store: Store) -> int:
    """Samples seen at the newest checkpoint; -1 if there is none."""
    found = complete(store)
    return found[-1][0].samples if found else -1


def prune(store: Store, newest: int, every: int | None = None, best: int = 0, metric: str = "") -> None:
    """Delete all checkpoints but the ``newest`` so many, the first after each multiple of ``every`` samples, and the
    ``best`` so many by ``metric`` (less is better if it has ``loss`` in its name)."""
    found = [seals[0] for seals in complete(store)]
    kept = {seal.samples for seal in found[len(found) - newest :]} if newest else set()
    if every is not None:
        firsts: dict[int, int] = {}
        for seal in found:
            firsts.setdefault(seal.samples // every, seal.samples)
        kept |= {samples for multiple, samples in firsts.items() if multiple}
    sign = 1 if "loss" in metric else -1
    rated = sorted((sign * seal.metrics[metric], seal.samples) for seal in found if metric in seal.metrics)
    kept |= {samples for _, samples in rated[:best]}
    for seal in found:
        if seal.samples not in kept:
            _drop(store, seal.folder)


def _drop(store: Store, folder: str) -> None:
    for path in store.paths(folder):
        if path.rpartition("/")[2].startswith("00000-of-"):
            store.delete(path)  # first, so that who dies here leaves nothing that looks whole
    store.delete(folder)


# --- the state as tensors with names ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Part:
    """The rows of a tensor of ``total`` rows that a file holds, the first of which is row ``start``."""

    path: str
    place: Place
    start: int
    total: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the whole tensor."""
        return (self.total, *self.place.shape[1:]) if self.place.shape else ()


class _Saved:
    """The tensors of a checkpoint, readable in part. A context manager: it keeps files open."""

    def __init__(self, store: Store, parts: Mapping[str, list[_Part]]) -> None:
        self._store, self._parts = store, parts
        self._files: dict[str, BinaryIO] = {}
        self._stack = ExitStack()

    def __enter__(self) -> _Saved:
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


def _parts(store: Store, path: str) -> list[tuple[str, _Part]]:
    """What the file at ``path`` holds of which tensors."""
    with store.open(path) as file:
        places, metadata = read_header(file)
    rows = json.loads(metadata.get("rows", "{}"))
    prefix = OF_MODEL if path.endswith(MODEL) else ""
    found = []
    for name, place in places.items():
        start, total = rows.get(name, (0, place.shape[0] if place.shape else 0))
        found.append((prefix + name, _Part(path, place, start, total)))
    return found


def _rows(tensor: DTensor) -> tuple[int, int]:
    """Which rows of a sharded tensor this rank holds. FSDP2 cuts as ``torch.chunk`` does."""
    mesh = tensor.device_mesh
    if tuple(tensor.placements) != (Shard(0),):
        raise TypeError(f"expected a tensor sharded by rows, found {tensor.placements}")
    count = tensor.shape[0]
    size = -(-count // mesh.size())
    start = min(mesh.get_local_rank() * size, count)
    return start, min(start + size, count)


def _state(objective: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """All that training changes, by name. Optimizer state goes by the weight's name, since its number depends on how
    the weights are grouped; the groups' settings follow from the configuration."""
    tensors = {f"objective/{name}": tensor for name, tensor in objective.state_dict().items()}
    for name, weight in objective.named_parameters():
        for key, value in optimizer.state.get(weight, {}).items():
            tensors[f"optimizer/{name}/{key}"] = value
    for name, value in tensors.items():
        if not isinstance(value, Tensor):
            raise TypeError(f"only tensors can be kept: {name} is {type(value).__name__}")
    return tensors


def _fill(optimizer: Optimizer, objective: nn.Module, saved: _Saved) -> None:
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


def _flatten(tree: Any, path: str, tensors: dict[str, Tensor]) -> Any:  # noqa: ANN401 - JSON values and tensors
    """``tree`` with its tensors taken out into ``tensors`` by their path, and the path in their place."""
    match tree:
        case Tensor():
            tensors[path] = tree
            return {"__tensor__": path}
        case Mapping():
            return {key: _flatten(value, f"{path}/{key}", tensors) for key, value in tree.items()}
        case list() | tuple():
            return [_flatten(value, f"{path}/{number}", tensors) for number, value in enumerate(tree)]
        case _:
            return tree


def _grow(tree: Any, tensor: Callable[[str], Tensor]) -> Any:  # noqa: ANN401
    """The tree that :func:`_flatten` took the tensors from."""
    match tree:
        case {"__tensor__": path}:
            return tensor(path)
        case dict():
            return {key: _grow(value, tensor) for key, value in tree.items()}
        case list():
            return [_grow(value, tensor) for value in tree]
        case _:
            return tree


def _json(value: object) -> bytes:
    return json.dumps(value, indent=1).encode()


# --- the trained model ------------------------------------------------------------------------------------------------


def write_model(
    output: Output, description: dict[str, Any], state_dict: Mapping[str, Tensor], optimizer: dict[str, Any], epoch: int
) -> None:
    """open_clip's two forms of a trained model: hub folder (config and safetensors) and training checkpoint.

    Tensors must be whole (``gathered``). The bytes are a function of the arguments alone.
    """
    weights = write_folder(output, "data", description, state_dict)
    # In which order an optimizer remembers things depends on whether it was loaded.
    moments = {number: dict(sorted(state.items())) for number, state in sorted(optimizer["state"].items())}
    optimizer = {"state": moments, "param_groups": optimizer["param_groups"]}
    checkpoint = {"epoch": epoch, "name": "clipline", "state_dict": weights, "optimizer": optimizer}
    with output.open("data/checkpoint.pt") as out:
        torch.save(_canonical(checkpoint), out)


def write_folder(
    output: Output, folder: str, description: dict[str, Any], state_dict: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """A folder that open_clip loads with ``local-dir:``; the weights as written."""
    weights = {name: weight.detach().cpu().contiguous() for name, weight in state_dict.items()}
    output.write(f"{folder}/{CONFIG}", json.dumps(description, indent=2, sort_keys=True).encode())
    with output.open(f"{folder}/{MODEL}") as out:
        write_tensors(out, weights, {"format": "pt"})
    return weights


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
