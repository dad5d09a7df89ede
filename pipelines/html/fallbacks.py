"""Fallbacks of lazily loaded images: the same image in ``<noscript>``, next to it or, in AMP, inside of it."""

from __future__ import annotations

from itertools import islice
from typing import Literal

from selectolax.lexbor import LexborNode

from pipelines.html.addresses import has_lazy_attributes, is_stand_in

__all__ = ["fallbacks", "merge_attributes"]

_MAX_CHILDREN = 50  # of a picture
_MAX_WRAPPING = 3  # elements between <noscript> and its image


def fallbacks(noscripts: list[LexborNode]) -> tuple[dict[int, LexborNode], set[int]]:
    """Return, by node of a lazily loaded image, its fallback in ``<noscript>``; and the nodes of all fallbacks."""
    partner: dict[int, LexborNode] = {}
    fallback: set[int] = set()
    for noscript in noscripts:
        inside = _only_image(noscript)
        if inside is None:
            continue
        for image in (_element(noscript, "prev"), _element(noscript, "next"), noscript.parent):
            if image is not None and image.tag in ("img", "amp-img") and image.mem_id not in partner:
                ours, theirs = image.attributes.get("alt"), inside.attributes.get("alt")
                if not ours or not theirs or ours == theirs:
                    partner[image.mem_id] = inside
                    fallback.add(inside.mem_id)
                    break
    return partner, fallback


def _only_image(node: LexborNode) -> LexborNode | None:
    """Return the image in a node that holds nothing else, except a link or a ``<picture>`` around it."""
    for _ in range(_MAX_WRAPPING):
        children = list(islice(node.iter(), _MAX_CHILDREN))
        if node.tag == "picture":
            children = [child for child in children if child.tag != "source"]
        if len(children) != 1:
            return None
        node = children[0]
        if node.tag == "img":
            return node
    return None


def _element(node: LexborNode, direction: Literal["prev", "next"]) -> LexborNode | None:
    """Return the adjacent element, if only white space is between."""
    sibling: LexborNode | None = getattr(node, direction)
    while sibling is not None and sibling.is_text_node and not (sibling.text_content or "").strip():
        sibling = getattr(sibling, direction)
    return sibling


def merge_attributes(lazy: dict[str, str | None], fallback: dict[str, str | None]) -> dict[str, str | None]:
    """Merge a lazily loaded image with its fallback: the former's attributes win, except a placeholder ``src``."""
    src = (lazy.get("src") or "").strip()
    is_replaced = fallback.get("src") and (is_stand_in(src) or not has_lazy_attributes(lazy))
    return {
        **fallback,
        **{name: value for name, value in lazy.items() if value and not (is_replaced and name == "src")},
    }
