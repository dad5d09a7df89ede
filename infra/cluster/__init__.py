"""Ray, and what clipline builds on it: the bounded shard loop, and events and stop requests across processes.

:func:`run_shards` is how every shard-to-shard stage works: committed shards are skipped, a bounded number is in
flight, a failed one is retried if its error may pass, a stuck one is cancelled at its deadline.

What is imported here does not load Ray, which ``clipline plan`` has no time for; :mod:`infra.cluster.loop`,
:mod:`infra.cluster.mailbox` and :mod:`infra.cluster.failures` do, and are for code that runs within :func:`connect`.
"""

from infra.cluster.connect import ALONE, connect
from infra.cluster.limits import TENSORS, Limits, backoff, slots
from infra.cluster.shards import run_batches, run_shards

__all__ = ["ALONE", "TENSORS", "Limits", "backoff", "connect", "run_batches", "run_shards", "slots"]
