"""Patterns of captions that describe nothing: file names, camera names, hashes, URLs, markup, page furniture."""

from __future__ import annotations

__all__ = ["JUNK"]

_THING = (
    r"(?:image|img|photo|photograph|picture|pic|foto|bild|figure|fig|screenshot|screen shot|scan|slide|page|untitled)"
)
_FURNITURE = (
    r"(?:logo|icon|banner|header|footer|button|arrow|avatar|thumb|thumbnail|spacer|placeholder|pixel|blank|empty|none|"
    r"null|undefined|default|background|divider|separator|spinner|loader|loading|advert|advertisement|ad|ads|sponsor|"
    r"share|tweet|like|menu|search|close|home|back|next|previous|prev|more|read more|link|download|play|video|"
    r"profile picture|no (?:image|photo|picture)s?(?: available| found| yet)?|"
    r"image not found|image not available|image unavailable|coming soon|alt|alt text)"
)
_APPEAL = (  # to the reader
    r"(?:buy|shop|order|book|subscribe|register|download|apply|donate)(?: it| yours)? (?:now|here|today|online)|"
    r"(?:read|learn|find out|see|view|show|load) more(?: here| now| details| info(?:rmation)?)?|"
    r"add to (?:cart|basket|bag|wish ?list|favou?rites)|sign ?up(?: now| here| today)?|log ?in|sign in|contact us|"
    r"(?:to )?(?:enlarge|zoom in)(?: (?:the )?(?:image|picture|photo))?|(?:follow|like|join|visit|call|email) us|"
    r"(?:share|tweet|pin|like|print|email|save) (?:this|it)"
)
_OFFER = (
    r"(?:free|fast|express|next day) (?:shipping|delivery|returns?)|(?:up to |save |get )*\d+ ?% (?:off|discount)|"
    r"(?:best|latest|top|special|hot|great|exclusive|weekly|daily) (?:offer|deal|price|sale|discount|bargain)s?|"
    r"(?:money[ -]back|price match|lowest price|satisfaction) guaranteed?|limited time only|while stocks last"
)
_AROUND = (  # what may stand beside an appeal or an offer in a caption that says nothing else
    r"(?:with|and|or|on|for|of|to|at|in|by|via|from|the|all|any|every|your|you|our|my|a|an|this|these|it|us|only|just|"
    r"now|here|today|tomorrow|online|day|week|weekend|month|season|page|post|article|story|site|website|shop|store|link|"
    r"friends?|family|colleagues|facebook|twitter|x|instagram|pinterest|whatsapp|linkedin|e-?mail|orders?|items?|products?|"
    r"purchases?|everything|selected|worldwide|over|[$\x{20ac}\x{a3}]?\d+)"
)
JUNK = (
    r"(?i)^\S+\.(?:jpe?g|png|gif|webp|svg|bmp|tiff?|avif|heic|ico)$",  # a file name
    r"(?i)\.(?:jpe?g|png|gif|webp|svg|bmp|tiff?|avif|heic)$",
    # what cameras and phones call their files
    r"(?i)^(?:img|dsc[nf]?|dcim|pxl|mvi|gopr|sam|imag|p|cimg|wp|screenshot|vlcsnap)[_\-\s]?\d{3,}[\w\-]*$",
    rf"(?i)^{_THING}s?\W*(?:no\.?|nr\.?|#)?\W*\d*\W*(?:of\W*\d+)?\W*$",  # "image 3 of 12"
    rf"(?i)^(?:the |our |site |company |website )*{_FURNITURE}s?[\s\d]*\W*$",
    rf"(?i)^(?:{_AROUND}\W+)*(?:{_APPEAL}|{_OFFER})(?:\W+(?:{_APPEAL}|{_OFFER}|{_AROUND}))*\W*$",
    r"(?i)^.{0,40}\b(?:logo|icon|avatar|thumbnail|placeholder|favicon)\W*$",
    r"(?i)\bclick (?:here|to|on|for|image|the)\b|\b(?:tap|hover) to\b|\bview (?:larger|full size)\b",
    r"(?i)\b(?:https?|ftp|data|file)://?\S|\bwww\.\S|^data:",
    r"(?i)^[0-9a-f]{4,}(?:-[0-9a-f]{4,})+$|^[0-9a-f]{12,}$",  # hashes, UUIDs
    # one endless "word", in a script that has spaces
    r"^[^\s\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}]{30,}$",
    r"</?[A-Za-z][^>]*>|&(?:[a-z]+|#\d+);|\{\{|\}\}|\$\{|%[sd]\b",  # markup and templates
)
"""RE2, matched anywhere unless anchored."""
