"""Associations: which of these images belong to the word? WinoGAViL's game (Bitton et al., 2022).

A cue is asked of several candidate images, k of which are right. The model takes the k that are most like the cue, and
gets the Jaccard index of those taken and those right: how many are both, of all that are either.

A set has a cue a line in a sample's ``txt``, as the model reads it, and in its ``json`` which cue each line is and
whether the image is right for it: ``{"cues": ["17", "402"], "right": [true, false]}``. The images that name a cue are
its candidates; so an image is encoded once, however many cues it is asked for.
"""

from __future__ import annotations

from typing import ClassVar

from evaluation.tasks.task import Task

__all__ = ["Associations"]


class Associations(Task):
    """WinoGAViL: ``avg_jaccard_score`` of all cues, and DataComp's ``jaccard_score_10`` of those of ten candidates.

    Those of 5 to 6 and of 10 to 12 candidates are together, too: ``jaccard_score_5-6``, ``jaccard_score_10-12``. Images
    that score level are taken at random, and a cue's score is the expectation. ``chance`` in the facts is what guessing
    gets. Intervals are over cues.
    """

    kind: ClassVar[str] = "associations"
    implementation: ClassVar[str] = "evaluation.tasks.work.associations:measure"
    needs: ClassVar[tuple[str, ...]] = ("associations",)
    main: ClassVar[str] = "avg_jaccard_score"
    units: ClassVar[str] = "cues"
    code_version: ClassVar[int] = 2
