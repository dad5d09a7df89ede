"""Random numbers by position in the run, so that a sample draws the same on any number of workers.

A counter-based generator (Philox; Salmon et al. 2011, https://doi.org/10.1145/2063384.2063405) can be entered at any
count, so the draws of a sample follow from the seed and from its position (samples seen before it, over the global
batch) alone, never from the worker, the split of the batch or what was drawn before.

A draw is named by two key words and a stream; each combination is used for one purpose:

===================  ======  =======================================================
key                  stream  purpose
===================  ======  =======================================================
``(seed, 0)``        1       crop, augmentation and choice of caption (data/augment)
``(seed, 0)``        2       patch dropout (model/dropout)
``(seed, layer)``    3       dropout, by layer (model/dropout)
``(seed, purpose)``  0       masking, hard negatives (objectives)
===================  ======  =======================================================
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["uniform"]

NUMBERS_PER_COUNT = 4  # Philox 4x64


def uniform(key: tuple[int, int], stream: int, first: int, samples: int, width: int) -> NDArray[np.float64]:
    """Return ``width`` numbers in [0, 1) for each of ``samples`` samples from position ``first`` on.

    Shape (samples, width). Each sample owns a whole number of counts, so ``width`` is part of what is drawn.
    """
    counts = -(-width // NUMBERS_PER_COUNT)
    generator = np.random.Philox(key=key, counter=[first * counts, stream, 0, 0])
    return np.random.Generator(generator).random((samples, NUMBERS_PER_COUNT * counts))[:, :width]
