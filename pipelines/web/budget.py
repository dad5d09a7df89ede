"""Memory of response bodies, booked as it is needed and given out in the order of asking.

A body of known length books all of it at once, before it is read. One of unknown length books a little and more as it
comes, so it may have to wait for more while it holds some, and two of them could wait for each other for ever. Hence
room for one body of the largest size is set apart: there one body at a time goes on that finds no other room.
"""

from __future__ import annotations

import asyncio
from collections import deque

__all__ = ["ByteBudget", "Share"]


class ByteBudget:
    """``total`` bytes, of which ``largest``, the most one body can need, are set apart."""

    def __init__(self, total: int, largest: int) -> None:
        self._room = total - largest
        self._largest = largest
        self._left = self._room
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._apart = asyncio.Lock()  # held by the body that uses what is set apart

    @property
    def free(self) -> int:
        """Bytes left to reserve."""
        return self._left + (0 if self._apart.locked() else self._largest)

    def share(self) -> Share:
        """Return what one body holds: nothing yet."""
        return Share(self)

    def try_take(self, count: int, *, ahead: bool = False) -> bool:
        """Take ``count`` bytes if there are as many; not before others who wait for theirs, unless ``ahead``."""
        if count > self._left or (self._waiting and not ahead):
            return False
        self._left -= count
        return True

    async def take(self, count: int) -> None:
        """Wait for ``count`` bytes, for a caller that holds none; first come, first served, so that small bodies do not
        starve a large one."""
        if self.try_take(count):
            return
        granted = asyncio.get_running_loop().create_future()
        self._waiting.append((count, granted))
        try:
            await granted
        except asyncio.CancelledError:
            if granted.done() and not granted.cancelled():
                self.give_back(count)
            else:
                self._waiting.remove((count, granted))
                self.give_back(0)
            raise

    def give_back(self, count: int) -> None:
        self._left += count
        while self._waiting and self._waiting[0][0] <= self._left:
            count, granted = self._waiting.popleft()
            if not granted.done():
                self._left -= count
                granted.set_result(None)

    async def take_apart(self) -> None:
        """Wait for the bytes that are set apart."""
        await self._apart.acquire()

    def give_back_apart(self) -> None:
        self._apart.release()

    def fits(self, count: int) -> bool:
        """True if ``count`` bytes can ever be had without those set apart."""
        return count <= self._room


class Share:
    """The bytes of a budget that one body holds."""

    __slots__ = ("_apart", "_budget", "size")

    def __init__(self, budget: ByteBudget) -> None:
        self._budget = budget
        self._apart = False
        self.size = 0

    def try_grow(self, size: int) -> bool:
        """Hold ``size`` bytes in all if that needs no wait. A body that has begun goes before those that have not."""
        taken = self._apart or self._budget.try_take(size - self.size, ahead=self.size > 0)
        if taken:
            self.size = size
        return taken

    async def grow(self, size: int) -> None:
        """Hold ``size`` bytes in all, more than now."""
        if self.try_grow(size):
            return
        if self.size == 0 and self._budget.fits(size):
            await self._budget.take(size)
        else:
            await self._budget.take_apart()
            self._budget.give_back(self.size)
            self._apart = True
        self.size = size

    def shrink(self, size: int) -> None:
        """Hold no more than ``size`` bytes, and of those set apart none if there is other room by now."""
        if not self._apart:
            self._budget.give_back(self.size - size)
        elif size == 0 or self._budget.try_take(size):
            self._apart = False
            self._budget.give_back_apart()
        self.size = size

    def release(self) -> None:
        """Hold nothing."""
        self.shrink(0)
