"""Every name of a charset that browsers know is decoded as they decode it; the names are those of webencodings."""

import codecs

import pytest
import webencodings
from webencodings.labels import LABELS

from pipelines.html.page import decode

WORDS = ("Grüße", "žluť", "жёлтый", "κίτρινο", "黄色い", "黄色的", "노란색", "黃色", "สีเหลือง", "צהוב", "أصفر", "vàng")
NONE = {"replacement", "x-user-defined"}  # not to be read at all, and bytes for scripts
OTHERWISE = {"utf-16le", "utf-16be"}  # in a page that can declare them they are lies: browsers read UTF-8


@pytest.mark.parametrize("label", sorted(label for label, name in LABELS.items() if name not in NONE | OTHERWISE))
def test_a_page_is_decoded_by_whatever_name_browsers_know_its_charset(label):
    encoding = webencodings.lookup(label)
    words = [word for word in WORDS if encodes(word, encoding.codec_info)]
    text = f"<p>{'. '.join(words) or 'nothing but ASCII'}</p>"
    body = encoding.codec_info.encode(text)[0]
    assert decode(body, f"text/html; charset={label}") == text
    assert decode(b'<meta charset="' + label.encode() + b'">' + body, "text/html").endswith(text)


@pytest.mark.parametrize("label", ["replacement", "iso-2022-cn", "x-user-defined", "none", "zip", "8859"])
def test_a_name_without_a_charset_is_read_as_western(label):
    assert decode("Grüße".encode("cp1252"), f"text/html; charset={label}") == "Grüße"


def encodes(word: str, codec: codecs.CodecInfo) -> bool:
    try:
        return codec.decode(codec.encode(word)[0])[0] == word
    except UnicodeError:
        return False
