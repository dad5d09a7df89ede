"""Single rules against independent answers: Unicode's tables, phonenumbers' own examples, closed forms, brute force."""

import io
import re
import tempfile
import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np
import phonenumbers
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from infra.errors import ConfigError, DataError
from infra.hashing import hash64
from infra.run.context import Context
from infra.run.manifest import Artifact
from pipelines.curate.filter import Config, lists
from pipelines.curate.filter import ids as long_lists
from pipelines.curate.filter.judge import failures, judge
from pipelines.curate.filter.measures import pixel_measures
from pipelines.curate.filter.pii import mask
from pipelines.curate.filter.rules import (
    PRESETS,
    BytesPerPixel,
    ImageAspect,
    ImageSide,
    Language,
    Pii,
    Sample,
    Score,
    Subset,
    TextJunk,
    TextLength,
    TextList,
    TextRepetition,
    TextShare,
    TextWords,
    UrlList,
)
from pipelines.curate.fonts import draw_text, text_length


def captions(*texts) -> pa.Table:
    return pa.table({"caption": pa.array(texts, pa.string())})


def kept(rule, rows) -> list[bool]:
    return [reason is None for reason in judge(rows, [rule])]


def test_every_rule_sees_every_row_and_the_first_in_order_is_the_reason():
    rows = captions("IMG_1.jpg", "red", "a red circle", "ein roter Kreis auf grauem Grund")
    expected = [["text_junk", "text_words", "language"], ["text_words"], [], ["language"]]
    assert failures(rows, [TextJunk(), TextWords(), Language()]) == expected
    assert failures(rows, [Language(), TextWords(), TextJunk()]) == [found[::-1] for found in expected]


# --- characters and words


@given(st.text(max_size=30))
def test_shares_are_those_of_unicodes_categories(text):
    solid = [char for char in text if not re.match(r"[\t\n\f\r ]", char)]  # RE2's \s
    letters = sum(unicodedata.category(char)[0] in "LM" for char in solid)
    digits = sum(unicodedata.category(char)[0] == "N" for char in solid)
    # RE2 knows a younger Unicode than Python, or an older one; a character that either has not is left out.
    if any(unicodedata.category(char) == "Cn" for char in solid) or not solid:
        return
    for of, count in (("letters", letters), ("digits", digits), ("symbols", len(solid) - letters - digits)):
        (value,) = TextShare(of=of).value(captions(text))
        assert value == pytest.approx(count / len(solid)), of


def test_shares_of_scripts_and_capitals():
    rows = captions("две собаки DOG", "两只dogs", None)
    assert TextShare(of="Cyrillic").value(rows)[:2].tolist() == [pytest.approx(9 / 12), 0]
    assert TextShare(of="Han").value(rows)[:2].tolist() == [0, pytest.approx(2 / 6)]
    assert TextShare(of="capitals").value(rows)[:2].tolist() == [pytest.approx(3 / 12), 0]
    assert judge(rows, [TextShare(of="Latin", min=0.5)]) == ["text_share_latin", None, "text_share_latin"]
    with pytest.raises(ConfigError, match="Cyrillic"):
        TextShare(of="Klingon")


@given(st.lists(st.sampled_from(["red", "blue", "sky", "dog", "cat"]), max_size=12))
def test_repetition_is_the_share_of_the_commonest_word(words):
    share = max(Counter(words).values()) / len(words) if len(words) >= 4 else 0
    assert TextRepetition(min_words=4).value(captions(" ".join(words))).tolist() == [pytest.approx(share)]


def test_a_language_may_need_a_score_of_its_own():
    rows = captions("ein kleiner roter Kreis oben links", "a small red circle at the top left", "Hotel Berlin", None)
    (german, english, neither, none) = Language(languages=("de",)).value(rows).tolist()
    assert german >= 1 > english and none == 0
    strict = Language(languages=("de",), min_score=0.01, min_scores={"de": 1.0})
    assert strict.value(rows)[2] == pytest.approx(neither * 0.75)
    with pytest.raises(ConfigError, match="scores above 0"):
        Language(min_scores={"xx": 0.5})


# --- lists


def test_words_of_a_list_are_whole_words_in_any_case():
    rows = captions("A Free Download", "freedom for all", "free", "北京故宫的太和殿", None)
    assert kept(TextList(entries=("free", "太和殿")), rows) == [False, True, False, False, False]
    assert kept(TextList(entries=("free  download",), keep=True), rows) == [True, False, False, False, False]


URLS = {
    "http://ads.example/a.jpg": True,
    "https://cdn.ads.example:8080/a.jpg": True,
    "http://bads.example/a.jpg": False,
    "http://HOST.example/Private/b.png?x=1": False,
    "http://host.example/private/b.png": True,
    "http://host.example/private?x=1": True,
    "http://host.example/privateer/b.png": False,
    "http://www.host.example/private/deep/er.gif": True,
    "http://xn--mnchen-3ya.example/": True,
    "http://[2001:db8::1]/a.jpg": False,
    "no url": False,
    None: False,
}


@pytest.mark.parametrize("keep", [False, True])
def test_hosts_and_paths_are_listed_with_all_below_them(keep):
    entries = ("0.0.0.0 ads.example", "https://host.example/private/", "||münchen.example^", "# a comment", "")
    rows = pa.table({"url": list(URLS)})
    assert kept(UrlList(entries=entries, keep=keep), rows) == [listed == keep for listed in URLS.values()]


UIDS = ["00" * 16, "ff" * 16, f"{7:032x}", "0" * 31 + "8", "a" * 31, "G" * 32, None]


@given(st.sets(st.integers(0, 3)), st.booleans())
def test_ids_of_a_subset(tmp_path_factory, listed, keep):
    ids = [UIDS[index] for index in sorted(listed)]
    rows = pa.table({"uid": pa.array(UIDS, pa.string())})
    expected = [(index in listed) == keep for index in range(len(UIDS))]
    if ids:
        assert kept(Subset(entries=[uid.upper() for uid in ids], keep=keep), rows) == expected
    # DataComp's files: the two halves of an id as numbers, an id as often as it is to be seen
    context = Context(tmp_path_factory.mktemp("subset"))
    halves = [(int(uid[:16], 16), int(uid[16:], 16)) for uid in ids for _ in range(2)]
    with context.output.open("data/subset.npy") as out:
        np.save(out, np.array(halves, np.dtype("u8,u8")))
    artifact = Artifact(context.store, context.finish())
    assert kept(Subset(source="list", keep=keep).reading(artifact), rows) == expected


@given(st.lists(st.integers(0, 9), max_size=30), st.booleans())
def test_a_long_list_is_read_once_by_all_workers_of_a_node(tmp_path_factory, listed, as_numbers):
    folder = tmp_path_factory.mktemp("node")
    uids = [f"{hash64(f'a{number}'):016x}{hash64(f'b{number}'):016x}" for number in range(12)]
    context = Context(folder / "list")
    ids = [uids[number] for number in listed]
    if as_numbers:
        with context.output.open("data/ids.npy") as out:
            np.save(out, np.array([(int(uid[:16], 16), int(uid[16:], 16)) for uid in ids], np.dtype("u8,u8")))
    else:
        context.output.write("data/ids.txt", "\n".join(["", *ids, ""]).encode())
    artifact = Artifact(context.store, context.finish())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(folder))
        patch.setattr(long_lists, "_BLOCK", 4)
        patch.setattr(lists, "_made", {})
        assert lists.times_in_subset(pa.chunked_array([uids]), (), artifact).tolist() == [
            listed.count(number) for number in range(12)
        ]
        patch.setattr(lists, "_made", {})  # another worker
        for path in artifact.files():
            artifact.store.delete(path.path)
        rule = Subset(source="list").reading(artifact)
        assert kept(rule, pa.table({"uid": uids})) == [number in listed for number in range(12)]


@given(st.lists(st.integers(0, 3), max_size=9), st.booleans())
def test_ids_listed_several_times_say_so(listed, keep):
    rule = Subset(entries=[UIDS[0], *(UIDS[index] for index in listed)], keep=keep)
    rows = pa.table({"uid": pa.array(UIDS, pa.string())})
    times = Counter([0, *listed])
    if not keep or max(times.values()) == 1:
        assert rule.rewrites(rows) == {}
    else:
        assert rule.rewrites(rows)["repeats"].to_pylist() == [times.get(index) for index in range(len(UIDS))]


def test_what_is_no_subset_is_refused(tmp_path):
    rows = pa.table({"uid": UIDS[:1]})
    with pytest.raises(DataError, match="32 hex digits"):
        kept(Subset(entries=("not an id",)), rows)
    context = Context(tmp_path)
    with context.output.open("data/subset.npy") as out:
        np.save(out, np.arange(3))
    with pytest.raises(DataError, match="no subset"):
        kept(Subset(source="list").reading(Artifact(context.store, context.finish())), rows)


def test_a_list_is_given_once():
    for fields in ({}, {"entries": ["a"], "source": "list"}):
        with pytest.raises(ConfigError, match="either entries or"):
            UrlList(**fields)


# --- personal data

DATA = {
    "mail me at jane.doe+cats@mail.example.org please": "mail me at [email] please",
    "contact: ünï@exämple.de": "contact: [email]",
    "@handle and a@b are no addresses": None,
    "IBAN DE89 3704 0044 0532 0130 00 BIC COBADEFFXXX": "IBAN [iban] BIC COBADEFFXXX",
    "GB82WEST12345698765432": "[iban]",
    "DE89 3704 0044 0532 0130 01": None,  # another digit
    "card 4111 1111 1111 1111 valid": "card [card] valid",
    "card 5500-0000-0000-0004": "card [card]",
    "card 4111 1111 1111 1112": None,  # its last digit is wrong
    "ISBN 9783161484100 and EAN 4006381333931": None,  # an article's number is no card
    "server at 8.8.8.8 answered": "server at [ip] answered",
    "2001:4860:4860::8888 and ::1": "[ip] and ::1",
    "192.168.0.1, 127.0.0.1, version 1.2.3.4.5, 300.1.1.1": None,
    "at 12:30:45 on 10.11.2012": None,
    "call +44 20 7031 3000 today": "call [phone] today",
    "Nikon Z9 1/2000 f/2.8 1998-2004": None,
    "a photo of two dogs": None,
}


@pytest.mark.parametrize("text", DATA)
def test_personal_data(text):
    every = Pii().of
    assert mask(text, every) == (DATA[text] or text)
    assert kept(Pii(), captions(text)) == [DATA[text] is None]


@pytest.mark.parametrize("region", ["US", "DE", "JP", "BR", "IN", "FR"])
def test_phone_numbers_are_those_phonenumbers_gives_as_examples(region):
    number = phonenumbers.example_number(region)
    for style in (phonenumbers.PhoneNumberFormat.INTERNATIONAL, phonenumbers.PhoneNumberFormat.E164):
        written = phonenumbers.format_number(number, style)
        assert mask(f"ring {written}, ask for Ann", ("phone",)) == "ring [phone], ask for Ann"
    national = phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.NATIONAL)
    assert mask(f"ring {national} now", ("phone",), (region,)) == "ring [phone] now"
    assert mask(f"ring {national} now", ("phone",)) == f"ring {national} now"


def test_only_what_is_asked_for_counts():
    text = "a@b.example, 4111 1111 1111 1111, 8.8.8.8"
    assert mask(text, ("ip",)) == "a@b.example, 4111 1111 1111 1111, [ip]"
    assert judge(captions(None), [Pii()]) == ["pii"]
    assert judge(captions(None), [Pii(action="mask")]) == [None]


def test_later_rules_see_masked_captions():
    rows = captions("x a@b.example", "x yy zz")
    assert judge(rows, [Pii(action="mask"), TextLength(min=10)]) == ["text_length", "text_length"]
    assert judge(rows, [TextLength(min=10), Pii(action="mask")]) == [None, "text_length"]


# --- images


def encoded(image: Image.Image, form="PNG") -> bytes:
    out = io.BytesIO()
    image.save(out, form, **({"quality": 95} if form == "JPEG" else {}))
    return out.getvalue()


def test_measures_of_pixels_are_those_of_the_closed_forms():
    flat = encoded(Image.new("RGB", (600, 300), (10, 200, 30)))
    assert pixel_measures(flat) == (0, 0, 1)
    halves = Image.new("L", (200, 100), 0)
    halves.paste(255, (100, 0, 200, 100))
    entropy, sharpness, solid = pixel_measures(encoded(halves))
    assert (entropy, solid) == (1, 0.5)
    # The Laplacian is 255 and -255 at the columns beside the edge, and 0 elsewhere.
    assert sharpness == pytest.approx(2 * 255**2 / 200)
    ramp = Image.fromarray(np.tile(np.arange(256, dtype=np.uint8), (64, 1)))
    assert pixel_measures(encoded(ramp))[0] == pytest.approx(8)


def test_blur_takes_sharpness_and_size_hardly_does():
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (128, 128, 3), np.uint8)).resize((512, 512))
    sharp = pixel_measures(encoded(noise, "JPEG"))[1]
    blurred = pixel_measures(encoded(noise.filter(ImageFilter.GaussianBlur(12)), "JPEG"))[1]
    assert blurred < 20 < sharp / 10


def test_numbers_that_cannot_be_are_dropped():
    rows = pa.table({"original_width": [100, None, 0], "original_height": [300, 300, 0]})
    assert kept(ImageAspect(max=3), rows) == [True, False, False]
    assert kept(ImageSide(min=1), rows) == [True, False, False]
    rows = pa.table({"image_bytes": [100, 10, None], "width": [10, 100, 10], "height": [10, 10, 10]})
    assert kept(BytesPerPixel(min=0.5, max=1), rows) == [True, False, False]


# --- scores


def test_scores_have_limits_for_all_and_for_languages():
    rows = pa.table(
        {"clip": pa.array([0.1, 0.3, None, 0.3], pa.float32()), "caption_language": ["en", "en", "en", "de"]}
    )
    assert judge(rows, [Score(column="clip", min=0.2)]) == ["score_clip", None, "score_clip", None]
    assert kept(Score(column="clip", max=0.2, missing="keep"), rows) == [True, False, True, False]
    assert kept(Score(column="clip", min=0.05, min_by_language={"de": 0.4}), rows) == [True, True, False, False]


@pytest.mark.parametrize("fields", [{}, {"top": 0}, {"top": 0.3, "bottom": 0.3}, {"top": 1.5}])
def test_a_score_without_sense_is_refused(fields):
    with pytest.raises(ConfigError):
        Score(column="clip", **fields)


# --- published filters


def test_a_name_stands_for_the_rules_of_a_published_filter():
    assert Config(rules="datacomp_basic").rules == PRESETS["datacomp_basic"]
    assert Config(rules=["cc12m", {"kind": "pii"}]).rules == (*PRESETS["cc12m"], Pii())
    assert Config(rules=["text_junk"]).rules == (TextJunk(),)
    with pytest.raises(ConfigError, match="there is no Rule 'text_junkk'"):
        Config(rules=["datacomp_basic", "text_junkk"])


def test_the_docs_name_the_published_filters():
    page = (Path(__file__).parents[3] / "docs/curation.md").read_text()
    table = page.partition("| name | rules | of |")[2].partition("\n\n")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == list(PRESETS)


def test_datacomps_basic_filter_is_that_of_its_paper():
    """More than two words and more than five characters, sides of 200, ratio of 3, English."""
    good = {"caption": "two red dogs", "original_width": 200, "original_height": 600}
    cases = [
        (good, []),
        (good | {"caption": "two dogs"}, ["text_words"]),
        (good | {"caption": "a b c"}, ["text_length"]),
        (good | {"original_width": 199}, ["image_side", "image_aspect"]),
        (good | {"original_height": 601}, ["image_aspect"]),
        (good | {"caption": "zwei rote Hunde im Schnee"}, ["language"]),
    ]
    found = failures(pa.Table.from_pylist([row for row, _ in cases]), PRESETS["datacomp_basic"])
    for (row, expected), reasons in zip(cases, found, strict=True):
        assert set(expected) <= set(reasons) <= {*expected, "language"}, row


# --- captions in figures


@pytest.mark.parametrize(
    "text", ["红色的狐狸", "雪の中の狐", "눈 속의 여우", "สุนัขจิ้งจอก", "लोमड़ी", "நரி", "កញ្ជ្រោង", "ໝາແດງ"]
)
def test_captions_are_drawn_in_their_scripts(text):
    """No two characters look the same, as the boxes of a font that lacks them would."""
    from PIL import ImageDraw

    def drawn(char: str) -> bytes:
        image = Image.new("L", (40, 40), 255)
        draw_text(ImageDraw.Draw(image), (8, 4), char, "#000", 24)
        return image.tobytes()

    letters = [char for char in dict.fromkeys(text) if unicodedata.category(char)[0] == "L"]
    assert len({drawn(char) for char in letters}) == len(letters) > 1
    assert 0 < text_length(text, 14) < 14 * 2 * len(text)


def test_what_no_font_has_is_written_as_its_number():
    assert text_length("\U0001f98a", 14) == text_length("U+1F98A", 14)


def test_a_sample_is_about_its_share_and_a_rows_own():
    rows = pa.table({"uid": [f"{number:032x}" for number in range(4000)]})
    kept = np.array(Sample(share=0.3).keeps(rows))
    assert abs(kept.mean() - 0.3) < 0.03  # four standard deviations
    assert kept[100:200].tolist() == Sample(share=0.3).keeps(rows.slice(100, 100))
    other = np.array(Sample(share=0.3, seed=1).keeps(rows))
    assert abs((kept & other).mean() - 0.09) < 0.02
    assert np.array(Sample(share=0.6).keeps(rows))[kept].all()  # a smaller share of the same seed is part of a larger
