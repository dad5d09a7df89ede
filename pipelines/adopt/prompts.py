"""Contents that say how classes are asked for: prompts and class names, in files."""

from __future__ import annotations

from collections.abc import Sequence

from infra.formats.testset.prompt_files import PROMPT_FILES, languages_of_files
from infra.store import Store
from pipelines.adopt.contents import Contents

__all__ = ["Prompts"]


class Prompts(Contents):
    """Templates, class names, or prompts of each class's own, in one language or several."""

    holds = ("prompts",)
    layout = "one *.json or *.txt, or several that are named by their languages, as de_classnames.json"

    def pick(self, paths: Sequence[str]) -> list[str]:
        return [path for path in paths if path.endswith(PROMPT_FILES)]

    def check(self, store: Store, paths: Sequence[str]) -> dict[str, int]:
        languages_of_files(paths, "en", store.url)  # what they hold is seen with the set that they are for
        return {}
