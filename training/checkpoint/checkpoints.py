"""Checkpoints that a run can be continued from exactly, by any number of workers, and the model for the world.

A checkpoint is a folder, ``checkpoints/{samples seen}/``::

    open_clip_config.json           the model: ``open_clip.create_model("local-dir:...")`` loads the folder as it is
    open_clip_model.safetensors
    00000.safetensors               all else that training goes on with (moments, queues, averages): of each rank
    00001.safetensors               what it alone holds, so one file under DDP and one per rank under FSDP
    00000-of-00002.json             a rank's manifest, written last: size and sha256 of its files

It counts when every rank's manifest is there, and all from one attempt; nobody waits for anybody to write it. It is
written by a thread from a copy of the state while training goes on, a tensor at a time, to any store. It is read by
any number of ranks, each of which takes the rows that it needs; damage is noticed first, and the checkpoint before
is used instead. There is no pickle in it.
"""

from __future__ import annotations

import json
import logging
import math
import secrets
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from operator import methodcaller
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from infra.cluster import backoff
from infra.errors import CliplineError, ConfigError, StorageError, TransientError
from training.checkpoint.manifests import CONFIG, FOLDER, MODEL, RankManifest, complete, drop, prune
from training.checkpoint.state import (
    OF_MODEL,
    Part,
    Saved,
    fill_optimizer,
    parts_of,
    put_tensors,
    rows_of,
    state_tensors,
    take_tensors,
)
from training.checkpoint.tensors import write_tensors

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from infra.store import Store
    from training.config import Checkpoint
    from training.distributed.world import World

__all__ = ["Checkpoints", "differences", "may_prolong"]

log = logging.getLogger(__name__)
T = TypeVar("T")


class Checkpoints:
    """The checkpoints of a run in its store. What is said to be for all ranks contains collectives.

    ``description`` is the content of ``open_clip_config.json``. ``identity``: what the run is, field by field; a
    checkpoint of another one is refused. Its ``total`` is the number of samples that the whole run sees. ``tokenizer``:
    files of one of Hugging Face's, by name.
    """

    ATTEMPTS = 4  # at writing a file to a store that does not answer
    ASK_S = 5.0  # at least so often rank 0's clock is asked, where it has a say

    def __init__(
        self,
        store: Store,
        config: Checkpoint,
        world: World,
        description: Mapping[str, Any] | None = None,
        identity: Mapping[str, Any] | None = None,
        tokenizer: Mapping[str, bytes] | None = None,
    ) -> None:
        self.store, self.config, self.world = store, config, world
        self.description, self.identity = dict(description or {}), dict(identity or {})
        self.tokenizer = dict(tokenizer or {})
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
        """Return True if a checkpoint is due at ``after`` samples seen; the previous call was at ``before``.

        For all ranks. Where minutes count they are rank 0's; the others hear of it a few times in that span, not at
        each step. While rank 0 has notice that machines will be taken away there is one each time it is asked.
        """
        every = self.config.every
        if every is not None and before // every != after // every:
            return True
        if self.config.minutes is None and self.world.notice is None:
            return False
        if after < self._ask_at:
            return False
        wanted, self._ask_at = self.world.broadcast(self._ask(after))
        return wanted

    def _ask(self, samples: int) -> tuple[bool, int]:
        """Rank 0: is it time, and at how many samples seen should it be asked again?"""
        now = time.monotonic()
        minutes = self.config.minutes
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
        tensors = state_tensors(objective, optimizer)
        plain = take_tensors(extras, "extras", tensors)
        model, own, rows = self._copy(tensors)
        copied: Any = torch.cuda.Event() if self.world.device.type == "cuda" else None  # type: ignore[no-untyped-call]
        if copied is not None:
            copied.record()  # the copies are under way; steps that come after cannot overtake them
        manifest = RankManifest(
            samples=samples,
            attempt=self._attempt,
            rank=self.world.rank,
            size=self.world.size,
            identity=self.identity if self.world.rank == 0 else {},
            total=self.identity.get("total", 0),
            extras=plain if self.world.rank == 0 else None,
        )
        self._writing = self._pool.submit(self._write, manifest, model, own, rows, copied, metrics)
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
                rows[name] = [rows_of(tensor)[0], tensor.shape[0]]
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
        manifest: RankManifest,
        model: dict[str, Tensor],
        own: dict[str, Tensor],
        rows: dict[str, list[int]],
        copied: Any,  # noqa: ANN401 - a torch.cuda.Event or none; torch does not type it
        metrics: Callable[[], Mapping[str, float]],
    ) -> None:
        """Runs in the thread."""
        if copied is not None:
            copied.synchronize()
        if manifest.rank == 0:
            for name, content in {CONFIG: _json(self.description), **self.tokenizer}.items():
                manifest.files[name] = self._publish(manifest, name, methodcaller("write", content))
            manifest.files[MODEL] = self._publish(
                manifest, MODEL, partial(write_tensors, tensors=model, metadata={"format": "pt"})
            )
        if own:
            name = f"{manifest.rank:05d}.safetensors"
            metadata = {"rows": json.dumps(rows, sort_keys=True)}
            manifest.files[name] = self._publish(manifest, name, partial(write_tensors, tensors=own, metadata=metadata))
        if manifest.rank == 0:
            manifest.metrics = dict(metrics())
        self._patiently(lambda: self.store.write(manifest.path, manifest.to_bytes()))
        if manifest.rank == 0:
            self._prune()

    def _publish(self, manifest: RankManifest, name: str, write: Callable[[Any], object]) -> dict[str, Any]:
        def publish() -> dict[str, Any]:
            with self.store.publish(f"{manifest.folder}/{name}") as out:
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
        prune(self.store, self.config)

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
        for manifests in reversed(found):
            self._check_identity(manifests[0])
            if (places := self._intact(manifests)) is None:
                log.warning("checkpoint %s is damaged; the one before it is used", manifests[0].folder)
                continue
            with Saved(self.store, places) as saved:
                values = self._load(saved, manifests[0], objective, optimizer, extras or {})
            self._saved = manifests[0].samples
            self._forget(after=self._saved)
            log.info("continuing from %d samples seen", manifests[0].samples)
            return values
        self._forget(after=-1)
        return None

    def _check_identity(self, manifest: RankManifest) -> None:
        if may_prolong(manifest.identity, self.identity, manifest.samples, manifest.total):
            return
        if changed := differences(manifest.identity, self.identity):
            other = "of a run on other shards" if changed[0].startswith("shards:") else "of another configuration"
            raise ConfigError(
                f"{self.store.url}/{manifest.folder} is a checkpoint {other}",
                found="; ".join(changed)[:1000],
                fix="train into another folder, with this checkpoint as pretrained weights if you like; or as before",
            )

    def _intact(self, manifests: list[RankManifest]) -> dict[str, list[Part]] | None:
        """Return the location of each tensor of a checkpoint, or None if a file is damaged. Each rank checks a part."""
        files = [
            (f"{manifest.folder}/{name}", manifest.files[name])
            for manifest in manifests
            for name in sorted(manifest.files)
        ]
        own: list[tuple[str, Part]] = []
        intact = True
        for path, promised in files[self.world.rank :: self.world.size]:
            intact = intact and self.store.exists(path) and self.store.digest(path) == promised["sha256"]
            if intact and path.endswith(".safetensors"):
                own += parts_of(self.store, path)
        parts: dict[str, list[Part]] = {}
        for good, found in self.world.gather((intact, own)):
            intact = intact and good
            for name, part in found:
                parts.setdefault(name, []).append(part)
        return parts if intact else None

    def _load(
        self,
        saved: Saved,
        manifest: RankManifest,
        objective: nn.Module,
        optimizer: Optimizer,
        extras: Mapping[str, Any],
    ) -> dict[str, Any]:
        fill_optimizer(optimizer, objective, saved)
        targets = state_tensors(objective, optimizer)
        take_tensors(extras, "extras", targets)
        self._check_shapes(saved, targets, manifest)
        for name in sorted(targets):
            self._load_tensor(saved, name, targets[name])
        values: dict[str, Any] = put_tensors(
            manifest.extras, lambda name: targets[name] if name in targets else saved.read(name)
        )
        return values

    def _load_tensor(self, saved: Saved, name: str, target: Tensor) -> None:
        with torch.no_grad():
            if isinstance(target, DTensor):
                local = target.to_local()
                local.copy_(saved.read(name, *rows_of(target)))
                return
            if self.world.rank == 0:  # the others need not ask the store for what all have alike
                target.copy_(saved.read(name))
            if self.world.size > 1:
                whole = target.contiguous()
                dist.broadcast(whole, 0, group=self.world.control if target.device.type == "cpu" else None)
                if whole is not target:
                    target.copy_(whole)

    def _check_shapes(self, saved: Saved, targets: dict[str, Tensor], manifest: RankManifest) -> None:
        wanted = {name: tuple(tensor.shape) for name, tensor in targets.items()}
        there = {name: shape for name, shape in saved.shapes.items() if name in wanted or not name.startswith("extras")}
        if wrong := sorted(name for name in wanted.keys() | there.keys() if wanted.get(name) != there.get(name)):
            name = wrong[0]
            raise ConfigError(
                f"{self.store.url}/{manifest.folder} is a checkpoint of another model",
                expected=f"{name} {wanted.get(name, 'missing')}",
                found=f"{there.get(name, 'missing')}, and {len(wrong) - 1} more that differ",
                fix="train into another folder, or with the model that the checkpoint was made of",
            )

    def _forget(self, after: int) -> None:
        """Drop what claims to be newer than where this attempt starts: it is this attempt's to write."""
        if self.world.rank == 0:
            for folder in self.store.folders(FOLDER):
                if folder.isdigit() and int(folder) > after:
                    drop(self.store, f"{FOLDER}/{folder}")
        self.world.raise_if_any_failed()


def _json(value: object) -> bytes:
    return json.dumps(value, indent=1).encode()


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Fields in which two identities differ, as ``field: before -> now``; shards first."""
    mine = json.loads(_json(dict(now)))
    names = sorted({*before, *mine} - {"total"}, key=lambda name: (name != "shards", name))
    return [
        f"{name}: {before.get(name)!r} -> {mine.get(name)!r}" for name in names if before.get(name) != mine.get(name)
    ]


def may_prolong(before: Mapping[str, Any], now: Mapping[str, Any], seen: int, total: int) -> bool:
    """True if a run stopped at ``seen`` of ``total`` samples can go on as ``now``, with more samples.

    Under a constant learning rate, up to its cooldown, a step does not depend on how many are to come.
    """
    changed = {name for name in {*before, *now} - {"total"} if before.get(name) != now.get(name)}
    if not changed or not changed <= {"samples", "epochs", "schedule.cooldown", "schedule.cooldown_shape"}:
        return False
    if {before.get("schedule.shape"), now.get("schedule.shape")} != {"constant"} or "schedule.curve.kind" in now:
        return False
    more = now.get("total") or now.get("samples") or 0
    return bool(0 <= seen <= min(total - before["schedule.cooldown"], more - now["schedule.cooldown"]))
