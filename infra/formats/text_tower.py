"""Files of a text tower in a folder of open_clip's: Hugging Face's ``config.json``, and merges of its own.

open_clip looks a Hugging Face tower's configuration up by name on a hub, or in its cache, even where all weights are at
hand, and merges where the program was started. Where the model's folder has these files, they are taken instead, as
open_clip takes the folder's Hugging Face tokenizer.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from infra.formats.architecture import CONFIG, read_model_config
from infra.formats.merges import found_in
from infra.formats.weights import TOKENIZER

__all__ = ["TOWER", "on_hub", "own_tower", "with_own_tower"]

TOWER = "config.json"
"""Hugging Face's configuration of a text tower."""


def own_tower(cfg: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The model's configuration; ``folder`` is the place of what it has of the text tower: its description, merges."""
    text = found_in(folder, cfg.get("text_cfg", {}))
    if text.get("hf_model_name") and (folder / TOWER).is_file():
        text["hf_model_name"] = str(folder.absolute())
    return {**cfg, "text_cfg": text}


def on_hub(cfg: Mapping[str, Any], folder: Path | None = None) -> dict[str, str]:
    """The repositories on a hub that open_clip asks for to build a model of that configuration: by part of the model.

    ``folder``: where its weights are, which may have the part as files.
    """
    text = cfg.get("text_cfg", {})
    words = text.get("hf_tokenizer_name")
    here = [path.name for path in folder.iterdir()] if folder else []
    there = {
        "text tower": None if TOWER in here else text.get("hf_model_name"),
        "tokenizer": None if any(name != TOWER and TOKENIZER.fullmatch(name) for name in here) else words,
    }
    return {part: name for part, name in there.items() if name and not Path(name).is_dir()}


@contextmanager
def with_own_tower(folder: Path) -> Iterator[Path]:
    """Give a folder with the files of ``folder`` that open_clip loads without a hub; itself where it needs no other."""
    config = read_model_config((folder / CONFIG).read_bytes(), str(folder / CONFIG))
    own = own_tower(config["model_cfg"], folder)
    if own == config["model_cfg"]:
        yield folder
        return
    with tempfile.TemporaryDirectory() as linked:
        for file in folder.iterdir():
            if file.name != CONFIG:
                Path(linked, file.name).symlink_to(file.absolute())
        Path(linked, CONFIG).write_text(json.dumps({**config, "model_cfg": own}))
        yield Path(linked)
