"""Usage preferences: dictionaries such as ``search=yes, ai-train=no``, and which of them withhold training.

Two vocabularies share the form: Content Signals (contentsignals.org, draft-romm-aipref-contentsignals), values ``yes``
and ``no``, and the IETF's ``Content-Usage`` (draft-ietf-aipref-attach and -vocab), values ``y`` and ``n``. Sites mix
them, write them in capitals and repeat keys, so both are read alike, and of contradictions the stricter holds; the
IETF's own parser would take a malformed dictionary for none.
"""

from __future__ import annotations

import re

__all__ = ["split_path", "withholds_training"]

_TRAINING = frozenset({"ai-train", "train-ai", "ai", "ai-all", "genai", "train-genai", "bots", "tdm"})
"""Categories that include training: today's of both vocabularies, and those of earlier drafts."""
_NO = frozenset({"n", "no", "?0", "false"})
_SEPARATOR = re.compile(r"[,;\s]+")
_AROUND_EQUALS = re.compile(r"\s*=\s*")


def withholds_training(value: str) -> bool:
    """Return True if a dictionary of preferences disallows training, or any use beyond a reference.

    ``use`` (Cloudflare's managed robots.txt) is ``immediate``, ``reference`` or ``full``.
    """
    for part in _SEPARATOR.split(_AROUND_EQUALS.sub("=", value.lower())):
        key, _, setting = part.partition("=")
        setting = setting.strip("\"'")
        if (key in _TRAINING and setting in _NO) or (key == "use" and setting in ("immediate", "reference")):
            return True
    return False


def split_path(value: str) -> tuple[str, str]:
    """Split the value of a robots.txt rule into its path pattern, ``/`` if it has none, and its preferences."""
    if value.startswith(("/", "*")):
        pattern, _, value = value.replace("\t", " ").partition(" ")
        return pattern, value.strip()
    return "/", value
