"""Class names and prompt templates that programs keep as constants, by name: ``open_clip:simple_imagenet``.

open_clip's are ``OPENAI_IMAGENET_TEMPLATES``, ``SIMPLE_IMAGENET_TEMPLATES`` and ``IMAGENET_CLASSNAMES``; of any other
module ``package.module:CONSTANT``. What they hold enters a configuration, not their name: another version of the
package with other words is another result.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from infra.extras import install

__all__ = ["named_texts"]

_PLACE = "{c}"


def named_texts(name: str, what: str) -> tuple[str, ...]:
    """The texts of a constant; ``what``: ``templates``, which have ``{c}`` for the class, or ``classnames``.

    Of open_clip's the name in small letters will do, without its ending or its beginning: ``imagenet`` is the first in
    its file that fits, the 80 templates of CLIP's authors. Raises ValueError, saying what there is.
    """
    module, colon, constant = name.partition(":")
    if not colon:
        raise ValueError(f"a list of {what}, or a constant's name such as open_clip:imagenet; {name!r} is neither")
    if module == "open_clip":
        known = {key: value for key, value in _of_open_clip().items() if key.endswith(f"_{what.upper()}")}
        value = next((known[key] for key in known if _fits(constant, key, what)), None)
    else:
        known = _of_module(module)
        value = known.get(constant)
    texts = _texts(value)
    if not texts:
        raise ValueError(f"{module} has no {what} {constant!r}; it has {', '.join(sorted(known)) or 'none'}")
    return texts


def _fits(asked: str, constant: str, what: str) -> bool:
    whole = asked.upper() if asked.upper().endswith(f"_{what.upper()}") else f"{asked}_{what}".upper()
    return constant == whole or constant.endswith(f"_{whole}")


def _texts(value: object) -> tuple[str, ...]:
    """The texts of a constant: a sequence of them, or of functions of a class name; none if it is anything else."""
    if not isinstance(value, Sequence) or isinstance(value, str):
        return ()
    texts = [one(_PLACE) if isinstance(one, Callable) else one for one in value]  # type: ignore[arg-type]
    return tuple(texts) if all(isinstance(one, str) for one in texts) else ()


def _of_module(name: str) -> dict[str, Any]:
    """The constants of a module that are texts."""
    try:
        found = vars(importlib.import_module(name))
    except ImportError as error:
        raise ValueError(f"{name} cannot be imported: {error}") from None
    return {key: value for key, value in found.items() if not key.startswith("_") and _texts(value)}


@lru_cache(maxsize=1)
def _of_open_clip() -> Mapping[str, Any]:
    """Constants of open_clip's file of these texts. The file is loaded alone: importing open_clip loads torch."""
    package = importlib.util.find_spec("open_clip")
    if package is None or package.origin is None:
        raise ValueError(f"open_clip is not installed here: {install(['train'])}")
    path = Path(package.origin).with_name("zero_shot_metadata.py")
    spec = importlib.util.spec_from_file_location("clipline_zero_shot_metadata", path)
    if spec is None or spec.loader is None or not path.is_file():
        return {}
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return vars(module)
