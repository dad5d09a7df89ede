"""Ray, and what clipline builds on it: the bounded shard loop, and events and stop requests across processes.

:func:`run_shards` is how every shard-to-shard stage works: committed shards are skipped, a bounded number is in
flight, a failed one is retried if its error may pass, a stuck one is cancelled at its deadline.
:class:`Reporter` carries events from any process of the cluster to the driver, and the request to stop back.

Importing this package does not import Ray, which ``clipline plan`` has no time for.
"""

from infra.cluster.connect import ALONE, connect
from infra.cluster.failures import backoff, is_transient, original
from infra.cluster.mailbox import Reporter, mailbox
from infra.cluster.shards import Limits, run_batches, run_shards, slots

__all__ = [
    "ALONE",
    "Limits",
    "Reporter",
    "backoff",
    "connect",
    "is_transient",
    "mailbox",
    "original",
    "run_batches",
    "run_shards",
    "slots",
]
