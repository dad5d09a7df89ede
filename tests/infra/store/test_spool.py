"""What was put early comes back whole, in any order, and leaves nothing behind."""

import os

import pytest

from infra.store.spool import Spool


def test_bytes_come_back_in_any_order():
    pieces = [b"", b"a", os.urandom(100_000), b"", os.urandom(3)]
    with Spool() as spool:
        tickets = [spool.put(piece) for piece in pieces]
        assert spool.size == sum(map(len, pieces))
        for at in (4, 0, 2, 1, 3, 2):
            assert spool.get(tickets[at]) == pieces[at]


def test_it_has_no_name_on_disk_and_is_gone_afterwards(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with Spool() as spool:
        ticket = spool.put(b"data")
        assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="closed file"):
        spool.get(ticket)
