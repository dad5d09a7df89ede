"""Merges of a model's own for CLIP's tokenizer, in a file in the folder of its weights.

CLIP's byte pair encoding (Sennrich et al. 2016, https://arxiv.org/abs/1508.07909) begins with 512 tokens, each byte
inside a word and at its end, and joins pairs of tokens in the order of its merges. So with other merges every text can
still be written, in more tokens where its words are none of theirs. open_clip's tokenizer reads them from a file.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from infra.errors import ConfigError

__all__ = ["FILE", "MOST", "check_merges", "found_in", "pack_merges", "read_merges", "vocabulary", "with_merges"]

FILE = "merges.txt.gz"
MOST = 48_894
"""Merges that open_clip reads of a file; CLIP itself has as many."""


def vocabulary(merges: Sequence[str]) -> int:
    """Number of tokens: the bytes, one for each merge, and those at a text's start and end."""
    return 512 + len(merges) + 2


def read_merges(data: bytes, place: str) -> tuple[str, ...]:
    """Read merges, one a line, gzipped or not; a first line that names a version is passed over. Raises ConfigError."""
    try:
        text = (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode("utf-8")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise ConfigError(f"{place} holds no merges", expected="lines of text", found=str(error)) from None
    lines = text.removesuffix("\n").split("\n")
    return tuple(lines[1:] if "#version" in lines[0] else lines)


def pack_merges(merges: Sequence[str]) -> bytes:
    """The file that open_clip's ``SimpleTokenizer`` reads: it begins with the second line."""
    return gzip.compress("\n".join(["#version: 0.2", *merges]).encode(), mtime=0)


def check_merges(merges: Sequence[str]) -> None:
    """Raise ConfigError unless each merge is two symbols, and each makes another token."""
    made: set[str] = set()
    for merge in merges:
        first, blank, second = merge.partition(" ")
        if not (first and blank and second) or " " in second:
            raise ConfigError("a merge is no pair of symbols", expected="two symbols, a blank between", found=merge)
        if first + second in made:
            raise ConfigError("two merges make one token", expected="each another one", found=first + second)
        made.add(first + second)
    if not 1 <= len(merges) <= MOST:
        raise ConfigError(
            "open_clip's tokenizer does not read so many merges", expected=f"1 to {MOST}", found=str(len(merges))
        )


def with_merges(cfg: Mapping[str, Any], merges: Sequence[str]) -> dict[str, Any]:
    """Return the model's configuration with a vocabulary of these merges, read from :data:`FILE` in its folder."""
    size = {"vocab_size": vocabulary(merges)}
    options = {**cfg["text_cfg"].get("tokenizer_kwargs", {}), "bpe_path": FILE}
    text = {**cfg["text_cfg"], **size, "tokenizer_kwargs": options}
    decoder = {"multimodal_cfg": {**cfg["multimodal_cfg"], **size}} if "multimodal_cfg" in cfg else {}
    return {**cfg, "text_cfg": text, **decoder}


def found_in(folder: Path, text: Mapping[str, Any]) -> dict[str, Any]:
    """The text tower's part of a configuration, with the place of the merges in ``folder``, if they are there."""
    options = text.get("tokenizer_kwargs", {})
    if options.get("bpe_path") != FILE or not (folder / FILE).is_file():
        return dict(text)
    return {**text, "tokenizer_kwargs": {**options, "bpe_path": str((folder / FILE).absolute())}}
