"""Size of shared memory for Ray's objects: with too little Ray keeps them in files, which is slower."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

__all__ = ["SHARED", "advice", "lie_in_files", "memory_bytes", "wanted_bytes"]

SHARED = Path("/dev/shm")


def memory_bytes() -> int:
    """Memory of this machine, or of the container where that may have less."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit in ("memory.max", "memory/memory.limit_in_bytes"):  # of control groups, version 2 and 1
        try:
            total = min(total, int(Path("/sys/fs/cgroup", limit).read_text()))
        except (OSError, ValueError):  # no such version; "max"
            continue
    return total


def wanted_bytes(memory: int) -> int:
    """Free bytes that Ray asks of :data:`SHARED` on a node with so much memory; with fewer it uses files."""
    return min(int(0.3 * memory), 10**10)


def advice(free: int, memory: int) -> str:
    """Say what too little shared memory means, and what to do; both in bytes."""
    size = math.ceil(wanted_bytes(memory) / 2**30)
    return (
        f"{SHARED} has {free / 1e9:.2f} GB free, so Ray keeps its objects in files below its folder in /tmp, which is "
        f"slower; give a container {size} GB: docker run --shm-size={size}g, or on Kubernetes an emptyDir with "
        f"medium: Memory and sizeLimit: {size}Gi at {SHARED}"
    )


def lie_in_files(node: Any) -> bool:  # noqa: ANN401 - Ray's own class
    """True if the node of Ray that this process has started keeps its objects in files although there is SHARED."""
    (raylet,) = node.all_processes["raylet"]
    return SHARED.is_dir() and f"--plasma_directory={SHARED}" not in raylet.process.args
