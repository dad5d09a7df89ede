"""Text towers of Hugging Face's in a folder of open_clip's: their ``config.json`` beside the weights builds them.

open_clip looks a tower's configuration up by name on a hub, or in its cache, even where all weights are at hand. Where
the model's folder has that file, it is taken instead, as open_clip takes the folder's tokenizer.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from infra.formats.architecture import CONFIG, read_model_config

__all__ = ["TOWER", "own_tower", "with_own_tower"]

TOWER = "config.json"
"""Hugging Face's configuration of a text tower."""


def own_tower(cfg: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The model's configuration; ``folder`` is the place of its Hugging Face text tower where it is described there."""
    text = cfg.get("text_cfg", {})
    if not text.get("hf_model_name") or not (folder / TOWER).is_file():
        return dict(cfg)
    return {**cfg, "text_cfg": {**text, "hf_model_name": str(folder.absolute())}}


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
