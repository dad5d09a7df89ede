"""Captions of figures, as marked up in HTML 5 and by the programs that much of the web was written with."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from selectolax.lexbor import LexborNode

from pipelines.html.page import Html
from pipelines.html.rendered import rendered

__all__ = ["Captions"]

_MAX_CLIMB = 30  # elements between an image and its figure; a hostile page may nest a million
_MAX_CAPTIONS = 1 << 20  # characters of all captions of a page: nested captions repeat the inner ones
_CAPTION_COST = 500  # characters that a caption counts in addition to its text
_NODE_COST = 10  # and each node in it
_MAX_NODES = 20_000  # captions of a page


class _Markup(NamedTuple):
    """Markup of figures by one program."""

    sign: str  # class of an element that a page has if it uses this markup
    figures: frozenset[str]  # classes, of which the element around image and caption has one
    captions: str = ""  # CSS selector; by default what has the sign


_OLDER = (
    _Markup("wp-caption-text", frozenset({"wp-caption"})),  # WordPress
    _Markup("tr-caption", frozenset({"tr-caption-container"})),  # Blogger
    _Markup("thumbcaption", frozenset({"thumbinner", "tsingle"})),  # MediaWiki: an image, one of several in a frame
    _Markup("gallerytext", frozenset({"gallerybox"})),  # MediaWiki: an image of a gallery
    _Markup("figure", frozenset({"figure"}), "div.figure .title, div.figure .caption"),  # DocBook and Docutils
)


class Captions:
    """Finds the caption of an image's figure."""

    def __init__(self, html: Html) -> None:
        self._of_figure: dict[int, LexborNode] = {}
        self._texts: dict[int, str] = {}
        self._room = _MAX_CAPTIONS
        for caption in html.parts["figcaption"]:
            self._assign(caption, lambda node: node.tag == "figure")
        signs = {name for node in html.parts["caption"] for name in _classes(node)}
        for markup in (markup for markup in _OLDER if markup.sign in signs):
            for caption in html.tree.css(markup.captions or f".{markup.sign}")[:_MAX_NODES]:
                self._assign(caption, partial(_has_class, markup.figures))

    def _assign(self, caption: LexborNode, is_figure: Callable[[LexborNode], bool]) -> None:
        """Assign a caption to the nearest figure around it; of several captions of a figure the first counts."""
        around = caption.parent
        for _ in range(_MAX_CLIMB):
            if around is None:
                return
            if is_figure(around):
                self._of_figure.setdefault(around.mem_id, caption)
                return
            around = around.parent

    def of(self, image: LexborNode) -> str | None:
        """Return the caption of the nearest figure around an image that has one, as rendered."""
        around = image.parent if self._of_figure else None
        for _ in range(_MAX_CLIMB):
            if around is None:
                return None
            if (caption := self._of_figure.get(around.mem_id)) is not None:
                return self._text(caption)
            around = around.parent
        return None

    def _text(self, caption: LexborNode) -> str:
        text = self._texts.get(caption.mem_id)
        if text is None:
            text, nodes = rendered(caption) if self._room > 0 else ("", 0)
            self._room -= len(text) + _CAPTION_COST + _NODE_COST * nodes
            self._texts[caption.mem_id] = text
        return text


def _has_class(names: frozenset[str], node: LexborNode) -> bool:
    return not names.isdisjoint(_classes(node))


def _classes(node: LexborNode) -> list[str]:
    return (node.attributes.get("class") or "").split()
