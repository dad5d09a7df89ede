"""Bound the time to parse a page, by cutting markup that would take a parser minutes.

Parsing HTML by the standard is linear on ordinary pages and quadratic on hostile ones: many start and end tags search
all open elements (100,000 nested ``<div>``: half a minute), attributes are compared with each other, and unclosed
formatting elements (``<font>``) are recreated in every block, by the million. A parser in C cannot be interrupted, so
an upper bound of the work is computed beforehand, in nanoseconds of one core.

A quick check passes nearly every page: one of few tags cannot be costly. Other pages are scanned tag by tag. A tag of
very many attributes loses the last of them, and at the tag that still exceeds the budget the text is cut: the part
before it is parsed as usual.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

__all__ = ["BUDGET_NS", "bounded"]

BUDGET_NS = 500_000_000

# Limits of the quick check; each, used up by the worst markup we know, stays within the budget.
_FEW_TAGS = 2_000
_MANY_TAGS = 16_000
_SHORT = 64 << 10  # characters of a page that has too few attributes to matter
_LONG_TAG = 1 << 10  # characters that must lie between two ">" for attributes to matter
_MAX_ATTRIBUTES = 1000  # of one tag
_FEW_ATTRIBUTES = 32  # of one tag, once attributes have used up half of the budget
_MAX_ON_ROOT = 2000  # of all tags of html and body together
_RECREATED = 1_000_000  # formatting elements with attributes (those without are limited to three) x tags


# Kinds of tags, as bits.
_FLAT = 1  # void, or closed by the next of its kind: cannot nest by itself
_FORMATTING = 2  # recreated in the next block if unclosed
_RAW = 4  # holds text up to its end tag
_HTML = 8  # ends SVG and MathML, or returns to HTML inside of them
_NAMES = {
    _FLAT: "area base basefont bgsound br col embed frame hr img input keygen link meta param source track wbr p li "
    "dt dd option optgroup tr td th thead tbody tfoot colgroup caption html head body rb rp rt rtc",
    _FORMATTING: "b big code em font i nobr s small strike strong tt u",
    _RAW: "script style textarea title xmp iframe noembed noframes plaintext",
    _HTML: "annotation-xml b big blockquote body br center code dd desc div dl dt em embed font foreignobject h1 h2 "
    "h3 h4 h5 h6 head hr i img li listing menu meta mi mn mo ms mtext nobr ol p pre ruby s small span strike strong "
    "sub sup table title tt u ul var",
}
_KINDS = {
    name: sum(kind for kind, names in _NAMES.items() if name in names.split())
    for name in " ".join(_NAMES.values()).split()
}


def _any_case(name: str) -> str:
    return "".join(f"[{letter}{letter.upper()}]" for letter in name)  # much faster to search for than with IGNORECASE


_FORMATTED = re.compile(f"<(?:{'|'.join(_any_case(name) for name in _NAMES[_FORMATTING].split())})[\\s/]")
_RAW_END = {name: re.compile(f"</{name}(?=[\\s/>])", re.IGNORECASE) for name in _NAMES[_RAW].split()}
_TAG = re.compile(
    r"""<(?:
        !--()
      | (/?)([a-z][^\s/>]*+)
        ((?:[^>=]++|=\s*+(?:"[^"]*+"|'[^']*+'|[^\s>]*+))*+)>?
      | [!?/][^>]*+>?
    )""",
    re.IGNORECASE | re.VERBOSE,
)
_ATTRIBUTE = re.compile(r"""[^\s/=]++(?:\s*+=\s*+(?:"[^"]*+"|'[^']*+'|\S++))?""")
_ROOT = re.compile("<(?:[hH][tT][mM][lL]|[bB][oO][dD][yY])")
_COMMENT_END = re.compile("--!?>")


def bounded(text: str, budget_ns: int = BUDGET_NS) -> str:
    """Return as much of ``text`` as costs at most ``budget_ns`` to parse: a prefix, without attributes in excess."""
    tags = text.count("<")
    few_tags = tags <= _FEW_TAGS or (tags <= _MANY_TAGS and len(_FORMATTED.findall(text)) * tags <= _RECREATED)
    if few_tags and (len(text) <= _SHORT or _has_few_attributes(text, budget_ns)):
        return text
    return "".join(_affordable(text, budget_ns))


def _has_few_attributes(text: str, budget_ns: int) -> bool:
    """True if all attributes there can be, a quarter of the characters between two ">", stay within the budget."""
    if len(_ROOT.findall(text)) > 2:
        return False
    lengths = list(map(len, text.split(">")))
    longest = max(lengths)
    return longest <= _LONG_TAG or longest * len(text) <= 8 * budget_ns


def _affordable(text: str, budget_ns: int) -> Iterator[str]:
    """Yield the parts of ``text`` that are within the budget.

    The constants are measured; the comment at each term shows the construct it bounds.
    """
    cost = position = depth = recreated = start = 0
    of_attributes = _Attributes(budget_ns)
    is_open: Counter[str] = Counter()
    foreign = False  # inside SVG or MathML, where <path/> is complete
    while match := _TAG.search(text, position):
        position = match.end()
        comment, end, name, attributes = match.groups()
        if name is None:
            if comment is not None:
                found = _COMMENT_END.search(text, match.start() + 2)
                if found is None:
                    break
                position = found.end()
            continue
        kind = _KINDS.get(name := name.lower(), 0)
        cost += 1000 + 5 * depth + 200 * recreated  # each tag; <ul><li><ul><li>...; <p><font a=1><font a=2>...</p><p>x
        if end:
            foreign = foreign and name not in ("svg", "math", "p", "br")
            if is_open[name]:
                is_open[name] -= 1
                depth -= 1
                recreated -= bool(kind & _FORMATTING)
        else:
            is_root = name in ("html", "body")
            if len(attributes) > _LONG_TAG or (attributes and is_root):
                spent, used = of_attributes.add(attributes, is_root)
                cost += spent
                if used < len(attributes):
                    yield text[start : match.start(4) + used]
                    start = match.end(4)
            foreign = (foreign and not kind & _HTML) or name in ("svg", "math")
            if not foreign and kind & _RAW:
                found = _RAW_END[name].search(text, position)
                if found is None:
                    break  # the rest is text
                position = found.end()
            elif not kind & _FLAT and not (foreign and attributes.endswith("/")):
                is_open[name] += 1
                depth += 1
                recreated += bool(kind & _FORMATTING)
        if cost > budget_ns:
            yield text[start : max(start, match.start())]
            return
    yield text[start:]


class _Attributes:
    """Limits the attributes of tags, and adds up what they cost."""

    def __init__(self, budget_ns: int) -> None:
        self._budget_ns = budget_ns
        self._spent = self._on_root = 0

    def add(self, attributes: str, is_root: bool) -> tuple[int, int]:
        """Return what the attributes of one tag cost, and where the last of them ends that may stay."""
        most = _MAX_ATTRIBUTES if 2 * self._spent < self._budget_ns else _FEW_ATTRIBUTES
        if is_root:
            most = min(most, _MAX_ON_ROOT - self._on_root)
        count, used = _count_attributes(attributes, most)
        cost = 2 * count**2  # <p a1 a2 a3 ...>
        self._spent += cost
        if is_root:  # <body a1><body a2>...: all end up on one element
            self._on_root += count
            cost += 5 * self._on_root * count
        return cost, used


def _count_attributes(attributes: str, most: int) -> tuple[int, int]:
    """Return the number of attributes, at most ``most``, and where the last of these ends: at the end, if it is all."""
    count = end = 0
    for found in _ATTRIBUTE.finditer(attributes):
        if count == most:
            return count, end
        count, end = count + 1, found.end()
    return count, len(attributes)
