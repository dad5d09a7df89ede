"""Functions run in several processes that form a gloo group.

A module of its own: processes find a function by the name of its module, and every conftest has the same.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["Ranks"]


class Ranks:
    """Runs a function in several processes that form a gloo group.

    A forkserver that has already imported the heavy modules makes a rank cost milliseconds instead of ten seconds.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.count = 0
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["training.loop", "open_clip", "torch._dynamo"])

    def __call__(self, size: int, function: Callable[..., Any], *arguments: Any, dies: bool = False) -> list[Any]:
        """What ``function(*arguments)`` returned on each rank; with ``dies`` the exit codes instead."""
        self.count += 1
        meeting = self.folder / f"meeting-{self.count}"
        pipes = [self.context.Pipe(duplex=False) for _ in range(size)]
        processes = [
            self.context.Process(target=_rank, args=(rank, size, str(meeting), sender, function, arguments))
            for rank, (_, sender) in enumerate(pipes)
        ]
        for process in processes:
            process.start()
        for _, sender in pipes:
            sender.close()
        results = []
        for receiver, _ in pipes:
            try:
                results.append(receiver.recv())
            except EOFError:
                results.append(None)
        for process in processes:
            process.join()
        codes = [process.exitcode for process in processes]
        if dies:
            return codes
        assert codes == [0] * size, codes
        return results


def _rank(rank: int, size: int, meeting: str, sender: Any, function: Callable[..., Any], arguments: Any) -> None:
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    if size > 1:
        dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=size)
    sender.send(function(*arguments))
    if dist.is_initialized():
        dist.destroy_process_group()
