"""ClipCap: captions by a language model behind a prefix, which a frozen CLIP's feature becomes."""

from training.objectives.clipcap.config import Config

__all__ = ["Config"]
