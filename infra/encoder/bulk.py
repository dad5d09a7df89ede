"""Encode many images and texts by one model: decoding goes on in threads meanwhile, equal texts are encoded once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from infra.threads import mapped

if TYPE_CHECKING:
    from infra.encoder.open_clip import OpenClipEncoder

__all__ = ["encode_distinct", "encode_loaded"]

S = TypeVar("S")
T = TypeVar("T")


def encode_loaded(
    encoder: OpenClipEncoder,
    items: Iterable[S],
    load: Callable[[S], tuple[NDArray[np.uint8] | None, T]],
    *,
    threads: int,
) -> tuple[NDArray[np.float32], list[T]]:
    """Return the vectors of the images among ``items`` that have pixels, and what ``load`` says of every item.

    ``load`` gives an item's pixels as ``encoder.prepare`` makes them, or None, and its account. It runs in ``threads``
    threads, at most two batches ahead of the model.
    """
    accounts: list[T] = []

    def pixels() -> Iterator[NDArray[np.uint8]]:
        for found, account in mapped(load, items, threads=threads, ahead=2 * encoder.batch_size):
            accounts.append(account)
            if found is not None:
                yield found

    return encoder.encode_prepared(pixels()), accounts


def encode_distinct(encoder: OpenClipEncoder, texts: Sequence[str]) -> NDArray[np.float32]:
    """The vector of each text, in order; equal ones are encoded once, and are equal to the last bit."""
    place = {text: number for number, text in enumerate(dict.fromkeys(texts))}
    return encoder.encode_texts(place)[[place[text] for text in texts]]
