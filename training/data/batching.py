"""Rules that compose batches by the concepts of their samples. Light to import.

The samples of some batches to come are looked at together, in the order of the sampler. A rule says which of them make
a batch, and which are passed over. To choose a batch from a larger one by its concepts is the idea of concept-aware
batch sampling (Ghosh et al. 2025, arXiv:2511.20643), which maximizes either the diversity of a batch's concepts or
their number; the rules here are our own, and stated in full.

A rule of your own is a subclass of :class:`BatchRule`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Sequence
from heapq import heapify, heappop, heapreplace

from pydantic import Field

from infra.config import Choice

__all__ = ["BatchRule", "Diverse", "Frequent", "Spread"]

Concepts = Sequence[Sequence[int]]
_NONE = (-1,)  # what samples without a concept have in common


class BatchRule(Choice):
    """Rule that composes batches. The samples of ``batches`` batches are candidates for :attr:`kept` of them."""

    column: str = Field(
        "entries",
        description="field of the samples' JSON that has their concepts: a text, an integer or a list",
    )
    batches: int = Field(8, ge=1, description="batches whose samples are looked at together")

    @property
    def kept(self) -> int:
        """The number of batches that are made of them; samples that are in none of these are passed over."""
        return self.batches

    @abstractmethod
    def arrange(self, concepts: Concepts, batch: int) -> list[int]:
        """The places of the samples in the order in which they are seen, ``kept * batch`` of them, none twice.

        ``concepts``: numbers of the concepts of each sample, ``batches * batch`` of them, none twice in one sample. The
        result may depend on nothing else, so that a stopped run goes on with the same batches on any ranks.
        """


class Spread(BatchRule):
    """Every sample is seen, and each concept as often in one batch as in another, as far as that can be.

    Samples with the rarest concepts choose first. Each goes to that batch with room which has the least share of its
    concepts so far, summed over them; of equals to the one with most room, and of these to the first.
    """

    def arrange(self, concepts: Concepts, batch: int) -> list[int]:
        total = Counter(concept for own in concepts for concept in own)
        shares = {concept: [0.0] * self.batches for concept in total}
        filled: list[list[int]] = [[] for _ in range(self.batches)]
        rarity = [min((total[concept] for concept in own), default=len(concepts) + 1) for own in concepts]
        # One concept after the other: of those equally rare, samples of one come together.
        first = [min(own, key=lambda concept: (total[concept], concept), default=-1) for own in concepts]
        for place in sorted(range(len(concepts)), key=lambda place: (rarity[place], first[place], place)):
            own = [(shares[concept], 1 / total[concept]) for concept in concepts[place]]
            least = min(
                (sum(share[number] for share, _ in own), len(members), number)
                for number, members in enumerate(filled)
                if len(members) < batch
            )[2]
            filled[least].append(place)
            for share, step in own:
                share[least] += step
        return [place for members in filled for place in sorted(members)]


class Diverse(BatchRule):
    """A batch with as many concepts as can be, and none much more often than others.

    Its samples are chosen one after the other: each time that with the greatest mean of 1 / (1 + n) over its concepts,
    where n is how many samples of the batch have the concept already; of equals the first. Samples without a concept
    count as having one in common.
    """

    batches: int = Field(5, ge=1, description="batches whose samples are looked at together, to make one of them")

    @property
    def kept(self) -> int:
        return 1

    def arrange(self, concepts: Concepts, batch: int) -> list[int]:
        seen: Counter[int] = Counter()

        def loss(own: Sequence[int]) -> float:
            return -sum(1 / (1 + seen[concept]) for concept in own) / len(own)

        # What a sample is worth only falls, so one whose worth has not fallen since it was noted is the best of all.
        heap = [(loss(own or _NONE), place) for place, own in enumerate(concepts)]
        heapify(heap)
        chosen: list[int] = []
        while len(chosen) < batch:
            noted, place = heap[0]
            own = concepts[place] or _NONE
            now = loss(own)
            if now > noted:
                heapreplace(heap, (now, place))
                continue
            heappop(heap)
            chosen.append(place)
            seen.update(own)
        return sorted(chosen)


class Frequent(BatchRule):
    """A batch of the samples with the most concepts; of equals the first."""

    batches: int = Field(5, ge=1, description="batches whose samples are looked at together, to make one of them")

    @property
    def kept(self) -> int:
        return 1

    def arrange(self, concepts: Concepts, batch: int) -> list[int]:
        ranked = sorted(range(len(concepts)), key=lambda place: (-len(concepts[place]), place))
        return sorted(ranked[:batch])
