"""Parsed HTML page: text decoded as browsers do, base URL, links, meta tags, language, licence.

Shared by crawl (links) and extract (images), so that both see the same page.
"""

from __future__ import annotations

import codecs
import re
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property

import webencodings
from selectolax.lexbor import LexborDocumentOptions, LexborHTMLParser, LexborNode

from pipelines.html.markup import bounded
from pipelines.html.media import content_type
from pipelines.web.policy.licenses import license_of_headers
from pipelines.web.urls import BadUrlError, canonical

__all__ = ["Html", "attribute", "declared_language", "decode"]

# Labels whose encoding on the web differs from Python's codec of that name (WHATWG Encoding, "names and labels").
_SUPERSETS = {
    "ascii": "cp1252",
    "iso8859-1": "cp1252",
    "iso8859-9": "cp1254",
    "iso8859-11": "cp874",
    "tis-620": "cp874",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "shift_jis": "cp932",
    "euc_kr": "cp949",
    "big5": "big5hkscs",
}
_SEVEN_BIT = frozenset({"iso2022_jp", "hz", "utf-16", "utf-16-le", "utf-16-be"})  # valid UTF-8 can be one of these
_NO_CODEC = frozenset({"replacement", "x-user-defined"})
_NOT_ON_THE_WEB = frozenset({"idna", "punycode", "raw-unicode-escape", "undefined", "unicode-escape", "utf-7"})
_MULTIBYTE = frozenset({"gb18030", "big5hkscs", "cp932", "cp949", "euc_jp"})
_ENOUGH = 8  # bytes: one character of these in eight looks like UTF-8, four in a row do not
_CHARSET = re.compile(rb"""<meta\b[^>]{0,500}?\bcharset\s*=\s*["']?\s*([a-z0-9_.:+-]{1,40})""", re.IGNORECASE)
_HEADER_CHARSET = re.compile(r"""charset\s*=\s*["']?\s*([a-z0-9_.:+-]{1,40})""", re.IGNORECASE)
_REFRESH = re.compile(r"""^\s*[\d.]*\s*[;,]\s*(?:url\s*=\s*)?["']?([^"'\s]+)""", re.IGNORECASE)
_BOMS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))


def decode(body: bytes, content_type: str) -> str:
    """Decode a page: by byte order mark, as UTF-8 if valid, as declared by header or ``<meta>``, as cp1252.

    Valid non-ASCII UTF-8 is taken as such, whatever is declared: text in other encodings is practically never valid
    UTF-8, except a few characters of East Asian ones. Nor are most of its characters, so a few damaged ones among many
    leave a page UTF-8.
    """
    return _decoded(body, content_type)[0]


def _decoded(body: bytes, content_type: str) -> tuple[str, bool]:
    """Return the text, and whether ``body`` is its UTF-8 encoding."""
    for mark, name in _BOMS:
        if body.startswith(mark):
            return body[len(mark) :].decode(name, "replace"), False
    declared = _codec(_HEADER_CHARSET.search(content_type))
    if declared is None and (found := _CHARSET.search(body[:4096])):
        declared = _codec(found)
        if declared is not None and declared.startswith("utf-16"):
            declared = "utf-8"  # the declaration was readable as ASCII, so it lies
    if declared not in _SEVEN_BIT:
        try:
            text = body.decode()
        except UnicodeDecodeError:
            pass
        else:
            if declared not in _MULTIBYTE or text.isascii() or len(body) - len(text) >= _ENOUGH:
                return text, True
    if declared is None and _is_damaged_utf8(body):
        declared = "utf-8"
    return body.decode(declared or "cp1252", "replace"), False


def _is_damaged_utf8(body: bytes) -> bool:
    """Return True if at most one in ten characters beyond ASCII is damaged, as where texts were cut by bytes."""
    text = body.decode(errors="replace")
    beyond = len(text) - len(text.encode("ascii", "ignore"))
    return 10 * text.count("\ufffd") <= beyond


def _codec(found: re.Match[str] | re.Match[bytes] | None) -> str | None:
    """Return the Python codec for a declared charset; None for an unknown one."""
    if found is None:
        return None
    label = found[1] if isinstance(found[1], str) else found[1].decode("ascii")
    try:
        info = codecs.lookup(label)
    except LookupError:
        # A name that only the web has for it, such as windows-874 or x-sjis.
        encoding = webencodings.lookup(label)
        if encoding is None or encoding.name in _NO_CODEC:
            return None
        info = encoding.codec_info
    # Python also has codecs that are no charsets (rot13, zip), and charsets not used on the web.
    if not info._is_text_encoding or info.name in _NOT_ON_THE_WEB:
        return None
    return _SUPERSETS.get(info.name, info.name)


# All elements that are needed, found in one traversal: each costs a tenth of the parsing, a further selector in it a
# fiftieth. So figures of older markup (figures.py) are searched one by one only if there is a sign of any.
_PARTS = (
    "img, amp-img, meta, base, noscript, figcaption, "
    ".wp-caption-text, .tr-caption, .thumbcaption, .gallerytext, div.figure, "
    "a[rel~='license' i][href], link[rel~='license' i][href], script[type^='application/' i]"
)
_RSL = "application/rsl+xml"
_DATA = {"application/ld+json": "json-ld", _RSL: "rsl"}  # scripts that are none, by type
_MAX_PARTS = 20_000
_TAGS = frozenset({"img", "amp-img", "meta", "base", "noscript", "figcaption", "a", "link", "script"})


@dataclass(frozen=True)
class Html:
    """A parsed page. ``url`` is canonical; ``headers`` are those of the response."""

    url: str
    headers: list[tuple[str, str]]
    tree: LexborHTMLParser
    shortened: bool = False

    @classmethod
    def parse(cls, url: str, headers: list[tuple[str, str]], body: bytes) -> Html:
        """Parse a page in bounded time; see :mod:`pipelines.html.markup`."""
        text, is_utf8 = _decoded(body, content_type(headers))
        affordable = bounded(text)
        shortened = len(affordable) < len(text)
        # The parser reads UTF-8: a body that is UTF-8 already need not be encoded again.
        tree = LexborHTMLParser(
            body if is_utf8 and not shortened else affordable, options=LexborDocumentOptions.WO_EVENTS
        )
        return cls(url, headers, tree, shortened)

    @cached_property
    def _nodes(self) -> list[LexborNode]:
        return self.tree.css(_PARTS)

    @property
    def cut(self) -> bool:
        """True if only a part of the page was used, since it was too costly."""
        return self.shortened or len(self._nodes) > _MAX_PARTS

    @cached_property
    def parts(self) -> dict[str, list[LexborNode]]:
        """Elements needed for extraction, by tag, in document order; AMP's images as "img", signs of figures of
        older markup as "caption", scripts that hold data as "json-ld" and "rsl"."""
        found: dict[str, list[LexborNode]] = defaultdict(list)
        last = 0
        for node in self._nodes[:_MAX_PARTS]:
            if (identity := node.mem_id) != last:  # a node that matches two selectors is listed twice
                last = identity
                found[_part(node)].append(node)
        return found

    @cached_property
    def base(self) -> str:
        """Base of relative URLs."""
        for href in [node.attributes["href"] for node in self.parts["base"] if "href" in node.attributes][:1]:
            try:
                return canonical(href or "", self.url)
            except BadUrlError:
                break
        return self.url

    @cached_property
    def metas(self) -> list[tuple[str, str]]:
        """(Name or property in lower case, content) of every ``<meta>`` that has both, in order."""
        found = []
        for node in self.parts["meta"]:
            attributes = node.attributes
            if "content" in attributes and (name := attributes.get("property") or attributes.get("name")):
                found.append((name.strip().lower(), attributes.get("content") or ""))
        return found

    @cached_property
    def language(self) -> str:
        """Declared language of the page (BCP 47, as written); empty if none."""
        root = self.tree.root
        attributes = root.attributes if root is not None else {}
        declared = attributes.get("lang") or attributes.get("xml:lang") or ""
        return declared_language(declared, self.headers)

    @cached_property
    def license(self) -> str:
        """URL of the page's licence; empty if none."""
        for node in self.parts["link"] + self.parts["a"]:
            if not _is_license(node):
                continue
            try:
                return canonical(attribute(node, "href"), self.base)
            except BadUrlError:
                continue
        return license_of_headers(self.headers, self.url)

    @cached_property
    def rsl(self) -> str:
        """URL of the page's RSL licence, or that of the page if the licence is in it; empty if there is none."""
        links = [node for node in self.parts["link"] if _media_type(node) == _RSL and _is_license(node)]
        for node in [*links, *self.parts["rsl"]]:
            try:
                return canonical(node.attributes.get("href") or "", self.base)
            except BadUrlError:
                continue
        return ""

    @cached_property
    def targets(self) -> list[str]:
        """Distinct targets of links as written, in order, without links marked ``nofollow`` and to the page itself."""
        found: dict[str, None] = {}
        for node in self.tree.css("a[href], area[href], iframe[src], frame[src]"):
            attributes = node.attributes
            if "nofollow" in (attributes.get("rel") or "").lower():
                continue
            target = attributes.get("href") if node.tag in ("a", "area") else attributes.get("src")
            found[target or ""] = None
        for node in self.tree.css("meta[http-equiv]"):
            if attribute(node, "http-equiv").strip().lower() == "refresh" and (
                refresh := _REFRESH.match(attribute(node, "content"))
            ):
                found[refresh[1]] = None
        return [target for target in found if not target.startswith("#")]

    def resolve(self, target: str) -> str:
        """Return the canonical URL of a link; empty if it has none.

        Links are resolved one by one, as they are needed: all of a page with many, and a long base, take a thousand
        times its memory.
        """
        try:
            return canonical(target, self.base)
        except BadUrlError:
            return ""


def _part(node: LexborNode) -> str:
    tag = node.tag or ""
    if tag == "script":
        return _DATA.get(_media_type(node), tag)
    return "img" if tag == "amp-img" else tag if tag in _TAGS else "caption"


def _is_license(node: LexborNode) -> bool:
    return "license" in attribute(node, "rel").lower().split()


def _media_type(node: LexborNode) -> str:
    return attribute(node, "type").lower()


def declared_language(declared: str, headers: list[tuple[str, str]]) -> str:
    """Return the first language declared by the root element, else by the response's headers."""
    if not declared:
        declared = next((value for name, value in headers if name.lower() == "content-language"), "")
    return declared.split(",")[0].strip()[:35]


def attribute(node: LexborNode, name: str) -> str:
    """Return an attribute's value; empty if it is missing."""
    return node.attributes.get(name) or ""
