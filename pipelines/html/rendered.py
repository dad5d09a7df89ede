"""Text of an element as a browser shows it: blocks apart, inline markup together, nothing that is not displayed.

What browsers return as ``innerText``, without style sheets: those of a page are not loaded, so only what the HTML
Standard's own style sheet (section 15.3), attributes and inline styles say counts. White space stays as it is in the
markup; :func:`pipelines.html.text.clean` collapses it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice

from selectolax.lexbor import LexborNode

__all__ = ["rendered"]

_BLOCKS = (
    "address article aside blockquote body br caption center dd details dialog dir div dl dt fieldset figcaption "
    "figure footer form h1 h2 h3 h4 h5 h6 header hgroup hr html legend li listing main math menu nav ol optgroup "
    "option p plaintext pre search section select summary table tbody td text tfoot th thead tr ul xmp"
)
_NOT_SHOWN = (
    "annotation annotation-xml area audio base canvas datalist desc embed frameset head iframe link meta metadata "
    "meter noembed noframes noscript object param progress rp script source style template textarea title track "
    "video"
)
_BLOCK_TAGS, _HIDDEN_TAGS = frozenset(_BLOCKS.split()), frozenset(_NOT_SHOWN.split())
_HIDING_STYLE = re.compile(r"(?:^|[;\s])(?:display\s*:\s*none|visibility\s*:\s*(?:hidden|collapse))\b", re.IGNORECASE)
_BLOCK_STYLE = re.compile(r"(?:^|[;\s])display\s*:\s*(?:block|flex|grid|table|list-item|flow-root)\b", re.IGNORECASE)
_MAX_STYLE = 1000  # characters
_MAX_NODES = 2000  # of one element; captions have ten


def rendered(root: LexborNode) -> tuple[str, int]:
    """Return the text shown in ``root``, and the number of nodes read. ``root`` itself counts as shown.

    Reads at most :data:`_MAX_NODES`; what follows them is left out.
    """
    parts: list[str] = []
    # A depth-first walk with a stack of its own, as a page may nest thousands. A text on it closes a block.
    stack: list[LexborNode | str] = _children(root)
    for count in range(_MAX_NODES):
        while stack and isinstance(stack[-1], str):
            parts.append(stack.pop())  # type: ignore[arg-type]
        if not stack:
            return "".join(parts), count
        node = stack.pop()
        assert not isinstance(node, str)
        if node.is_text_node:
            parts.append(node.text_content or "")
        elif not _is_hidden(node):
            if _is_block(node):
                parts.append("\n")
                stack.append("\n")
            stack += _children(node)
    return "".join(parts), _MAX_NODES


def _children(node: LexborNode) -> list[LexborNode | str]:
    """Return what is shown of an element's children, last first."""
    children: Iterator[LexborNode] = islice(node.iter(include_text=True), _MAX_NODES)
    if node.tag == "details" and "open" not in node.attributes:
        children = islice((child for child in children if child.tag == "summary"), 1)
    shown: list[LexborNode | str] = [*children]
    return shown[::-1]


def _is_hidden(node: LexborNode) -> bool:
    if node.is_comment_node or (tag := node.tag or "") in _HIDDEN_TAGS:
        return True
    attributes = node.attributes
    if not attributes:
        return tag == "dialog"
    return (
        "hidden" in attributes
        or "popover" in attributes
        or (tag == "dialog" and "open" not in attributes)
        or _HIDING_STYLE.search((attributes.get("style") or "")[:_MAX_STYLE]) is not None
    )


def _is_block(node: LexborNode) -> bool:
    if node.tag in _BLOCK_TAGS:
        return True
    style = node.attributes.get("style")
    return bool(style) and _BLOCK_STYLE.search(style[:_MAX_STYLE]) is not None  # type: ignore[index]
