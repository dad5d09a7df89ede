"""Numbering of figures: "Figure 14.2.", "Abb. 3:", "図1", which says where a picture stands and not what it shows.

A caption and an alt text that differ in it, in case or in punctuation alone say the same.
"""

from __future__ import annotations

import re

import pyarrow as pa

from pipelines.html.arrays import matches, patched

__all__ = ["same_caption", "unlabelled"]

# "Figure" and its abbreviations, as in DocBook's localisations, LaTeX's babel and journals.
_FIGURES = (
    "figure|figuur|figura|figură|figur|figuro|fig|figs|afbeelding|afb|abbildung|abb|bild|kuva|joonis|mynd|"
    "obrázek|obrázok|obr|rysunek|rys|slika|sl|rajah|gambar|gbr|larawan|mchoro|ffigur|fíor|hình|şekil|şek|resim|şəkil|"
    "рисунок|рис|фигура|фиг|слика|сл|малюнок|мал|малюнак|мал|сурет|зураг|სურათი|ნახატი|նկար|σχήμα|σχ|εικόνα|εικ|"
    "الشكل|شكل|شکل|تصویر|صورة|איור|תרשים|चित्र|आकृति|आकृती|চিত্র|চিত্ৰ|આકૃતિ|ਚਿੱਤਰ|ଚିତ୍ର|படம்|చిత్రం|ಚಿತ್ರ|ചിത്രം|"
    "รูปที่|ภาพที่|รูป|ภาพ|រូបភាព|រូបទី|ຮູບທີ|ပုံ"
)
_IDEOGRAPHIC = "图表|图片|图|圖形|圖片|圖|図|그림|附图|附圖"  # need neither a space nor a point
# Words that also name what is shown ("Photo 51", "Map 3"): labels only if a colon or the like follows.
_OTHERS = (
    "photograph|photo|picture|image|plate|illustration|illus|exhibit|scheme|chart|diagram|graph|map|table|example|"
    "screenshot|listing|tabelle|tafel|karte|grafik|foto|tableau|carte|illustrazione|ilustración|ilustração|imagen|imagem|"
    "immagine|tabla|tabela|表|写真|照片|표|사진|таблица|табл|фото"
)
_NUMBER = r"""
    (?: (?:[a-z]{1,2}[.-]?)?\d{1,4}(?:[.\-–‑·]\d{1,4}){0,4}(?:[a-z](?!\w)|\([a-z]\))?  # 3, 14.2, A.1, S2, 3-2, 3b
      | (?-i:[IVX]{1,6}|[A-Z])(?!\w) | [一二三四五六七八九十]{1,3} )
    (?! \d | (?-i:[a-z]|[A-Z](?![a-z])) )  # "3D", but not "3Overview", whose markup keeps the two apart
"""
_BEFORE = r"""
    第\s?\d{1,4}\s?[图圖図]
  | \d{1,4}(?:[.\-]\d{1,4})* (?: [.\-]\s?(?:ábra|kép|attēls|att|irudia|rasm|сурет|р\s+зураг) | \s?pav\. )
"""  # "3.2. ábra", "1-rasm": the number stands before the word
_LABEL = re.compile(
    rf"""[(\[（【]?\s*
    (?: (?P<figure>{_FIGURES})(?![^\W\d_])(?P<point>\.?) | (?P<ideographic>{_IDEOGRAPHIC})
      | (?P<other>{_OTHERS})(?![^\W\d_])\.? | (?P<before>{_BEFORE})(?!\w) )
    (?(before)|\s*(?:n[or]\.|nº|№|\#|số)?\s*[(\[（]?(?P<number>{_NUMBER})(?:\s*(?:of|von|de|sur|/)\s*\d{{1,4}}(?!\w))?)
    (?P<mark>(?:\s*[.:：)\]）】|、，。．;,]|\s[-–—―]+(?=\s)|[–—―])*)
    \s*(?P<rest>.*)""",
    re.IGNORECASE | re.VERBOSE | re.DOTALL,
)
_LEVELS = re.compile(r"\d[.\-–‑·]\d|[a-z][.\-]\d", re.IGNORECASE)  # "14.2", "A.1"
_CONTINUED = tuple("の中所에와과의和与與及")  # "図1の..." is about figure 1
# A number with at most two words before it; what marks it as a label is a sign behind it, or its levels.
_HEAD = re.compile(
    r"\W*(?:[^\W\d_]\w*\W+){0,2}?(?:[a-z][.\-])?\d+(?:(?P<levels>[.\-]\d+)+|)\s*(?P<mark>[.:：、。．)|–—-])?", re.I
)
_WORDS = re.compile(r"[^\W_]+")


_BEGINNING = rf"^[(\[（【]?\s*(?:\d|第|(?i:{_FIGURES}|{_IDEOGRAPHIC}|{_OTHERS}))"  # of every label, as RE2 has it


def unlabelled(texts: pa.StringArray) -> pa.StringArray:
    """Return clean texts without the figure's number at their start; null for what is nothing but a number."""
    return patched(texts, matches(texts, _BEGINNING), _without_label)


def _without_label(text: str) -> str | None:
    found = _LABEL.match(text)
    return (found["rest"] or None) if found and _is_label(found) else text


def _is_label(found: re.Match[str]) -> bool:
    """Return False if the number belongs to the text, as in "Figure 8 knot"."""
    rest, mark, number = found["rest"], found["mark"].strip(), found["number"] or "1"
    if found["before"] or not rest:
        return not found["other"]
    apart = bool(mark) or found.start("rest") > found.end("number")
    if found["ideographic"]:
        return apart or (number[-1].isdigit() and not rest.startswith(_CONTINUED))
    if found["other"]:
        return mark.strip(",;") != ""
    if mark:
        return True
    if not number[-1].isdigit() and not number[:1].isdigit():
        return False
    # Without a mark, if a sentence of its own starts behind it.
    return bool(_LEVELS.search(number) or found["point"]) or (number != "8" and not rest[0].islower())


def same_caption(text: str, other: str) -> bool:
    """Return True if clean texts differ in case, punctuation and a number at the start alone; in any language."""
    words, others = _WORDS.findall(text.casefold()), _WORDS.findall(other.casefold())
    if len(words) < len(others):
        text, words, others = other, others, words
    if words == others or not others:
        return words == others
    head = len(words) - len(others)
    if words[head:] != others:
        return False
    found = _HEAD.match(text)
    if found is None or not (found["mark"] or found["levels"]):
        return False
    return len(_WORDS.findall(found[0])) == head
