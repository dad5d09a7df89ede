"""Text of an element as a browser shows it: blocks apart, inline markup together, nothing that is not displayed.

What browsers return as ``innerText``, without style sheets: those of a page are not loaded, so only what the HTML
Standard's own style sheet (section 15.3), attributes and inline styles say counts. White space stays as it is in the
markup; :func:`pipelines.html.text.clean` collapses it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import islice

from selectolax.lexbor import LexborNode

__all__ = ["rendered"]

_BLOCKS = (
    "address article aside blockquote body br caption center dd details dialog dir div dl dt fieldset figcaption "
    "figure footer form h1 h2 h3 h4 h5 h6 header hgroup hr html legend li listing main math menu nav ol optgroup "
    "option p plaintext pre search section select summary table tbody td text tfoot th thead tr ul xmp"
)
_NOT_SHOWN = (
    "-comment annotation annotation-xml area audio base canvas datalist desc embed frameset head iframe link meta "
    "metadata meter noembed noframes noscript object param progress rp script source style template textarea title "
    "track video"
)
_BLOCK_TAGS, _HIDDEN_TAGS = frozenset(_BLOCKS.split()), frozenset(_NOT_SHOWN.split())
_HIDING_STYLE = re.compile(r"(?:^|[;\s])(?:display\s*:\s*none|visibility\s*:\s*(?:hidden|collapse))\b", re.IGNORECASE)
_BLOCK_STYLE = re.compile(r"(?:^|[;\s])display\s*:\s*(?:block|flex|grid|table|list-item|flow-root)\b", re.IGNORECASE)
_SWITCHED = frozenset({"details", "dialog"})  # shown if open
_TEXT = "-text"  # selectolax's tag of a text
_MAX_STYLE = 1000  # characters
_MAX_NODES = 2000  # of one element; captions have ten


def rendered(root: LexborNode) -> tuple[str, int]:
    """Return the text shown in ``root``, and the number of nodes read. ``root`` itself counts as shown.

    Reads at most :data:`_MAX_NODES`; what follows them is left out.
    """
    parts: list[str] = []
    count = 0
    # A depth-first walk with a stack of its own, as a page may nest thousands. A text on it closes a block.
    stack: list[LexborNode | str] = _children(root)
    while stack and count < _MAX_NODES:
        node = stack.pop()
        if isinstance(node, str):
            parts.append(node)
            continue
        count += 1
        tag = node.tag or ""
        if tag == _TEXT:
            parts.append(node.text_content or "")
            continue
        attributes = node.attributes
        if tag in _HIDDEN_TAGS or (attributes and _is_hidden(attributes)):
            continue
        if tag in _SWITCHED and "open" not in attributes:
            stack += [child for child in _children(node) if tag == "details" and _is_summary(child)][-1:]
            continue
        if tag in _BLOCK_TAGS or ("style" in attributes and _BLOCK_STYLE.search(_style(attributes))):
            parts.append("\n")
            stack.append("\n")
        stack += _children(node)
    return "".join(parts), count


def _children(node: LexborNode) -> list[LexborNode | str]:
    """Return an element's children, last first."""
    children: list[LexborNode | str] = [*islice(node.iter(include_text=True), _MAX_NODES)]
    children.reverse()
    return children


def _is_hidden(attributes: Mapping[str, str | None]) -> bool:
    if "hidden" in attributes or "popover" in attributes:
        return True
    return "style" in attributes and _HIDING_STYLE.search(_style(attributes)) is not None


def _style(attributes: Mapping[str, str | None]) -> str:
    return (attributes["style"] or "")[:_MAX_STYLE]


def _is_summary(node: LexborNode | str) -> bool:
    return not isinstance(node, str) and node.tag == "summary"
