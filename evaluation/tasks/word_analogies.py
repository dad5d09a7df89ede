"""Word analogies: king - man + woman should be nearest to queen (Mikolov et al., 2013)."""

from __future__ import annotations

from typing import ClassVar

from evaluation.tasks.by_texts import Templated

__all__ = ["WordAnalogies"]


class WordAnalogies(Templated):
    """Word analogies: questions whose fourth word is found, ``acc_3cosadd``, ``acc_3cosmul``; rows by section.

    Only the text tower is asked. The three words given are no answers. ``acc_only_c`` is the baseline that takes the
    word nearest to the third and knows nothing of the first two. Words that score level count as guessing among them.
    Intervals are of other asked pairs, as one pair is asked of many times. Answers are found among all words of the
    set, so figures of sets with other vocabularies do not compare.
    """

    kind: ClassVar[str] = "word_analogies"
    implementation: ClassVar[str] = "evaluation.tasks.work.word_analogies:measure"
    needs: ClassVar[tuple[str, ...]] = ("word_analogies",)
    main: ClassVar[str] = "acc_3cosadd"
    units: ClassVar[str] = "questions"
