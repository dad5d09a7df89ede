"""The rules against texts and sizes a person would judge the same way, and the stage against its rules."""

import io

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from infra.errors import ConfigError
from pipelines.curate.filter import Config, run
from pipelines.curate.filter.judge import judge
from pipelines.curate.filter.languages import DETECTED, KNOWN
from pipelines.curate.filter.rules import (
    BASIC,
    ImageAspect,
    ImageSide,
    Language,
    TextJunk,
    TextLength,
    TextWords,
)
from pipelines.curate.filter.texts import relative_scores
from pipelines.curate.words import is_unspaced, words
from pipelines.tables import read_table


def kept(rule, *captions) -> list[bool]:
    return [reason is None for reason in judge(pa.table({"caption": pa.array(captions, pa.string())}), [rule])]


SENSE = """a small red circle at the top left
Green square.
A picture of a dotted yellow triangle in the centre
Portrait of Marie Curie, 1920
Eiffel Tower, Paris
Figure 3.1: The partitioning tool of the installer
Apollo 11 launch, 16 July 1969
AC/DC live at Wembley
image of two dogs playing in the snow
The home of Jane Austen
My 3 cats
Debian 12 (bookworm) boot menu
Click beetle on a leaf
左上角的红色小圆圈
маленький красный круг слева вверху
a very very very nice picture""".splitlines()

JUNK = """IMG_2034.JPG
DSC00417
IMG-20190402-WA0012
photo-1.png
my summer holiday.jpeg
image
Image 3 of 12
picture #7
untitled
logo
ACME Corporation logo
our site logo
spacer
loading...
thumbnail
no image
click here to enlarge
read more here
Shop now!
Add to cart
Learn more...
Buy now with free shipping
Our best offers of the week
Share this page with your friends
Save up to 50% off!
Follow us on Facebook
Click to view larger
http://cdn.example/pictures/banner.png
see www.example.org for more
d41d8cd98f00b204e9800998ecf8427e
123e4567-e89b-12d3-a456-426614174000
aHR0cHM6Ly9leGFtcGxlLm9yZy9waWN0dXJl
---- 1234 ----
★★★★★ 4.5 (120)
<b>bold</b>
Tom &amp; Jerry
{{ product.title }}
sale sale sale sale sale sale now""".splitlines()


@pytest.mark.parametrize("caption", SENSE)
def test_sense_is_no_junk(caption):
    assert kept(TextJunk(), caption) == [True]


@pytest.mark.parametrize("caption", JUNK)
def test_junk(caption):
    assert kept(TextJunk(), caption) == [False]


APPEALS_IN_SENTENCES = """people sign up for a race
a book now read by millions
an old log in a forest
see more birds in the park
order of the garter
a dog in the shop here
Free shipping container house in Chile
Great deals market in Berlin
Special delivery dog in a box
Follow us up the mountain trail
a man and a woman share this bench""".splitlines()


@pytest.mark.parametrize("caption", APPEALS_IN_SENTENCES)
def test_words_of_appeals_in_a_sentence_are_no_junk(caption):
    assert kept(TextJunk(), caption) == [True]


ENGLISH = [text for text in SENSE if text.isascii()]
FOREIGN = """ein kleiner roter Kreis oben links
Ein großer blauer Stern auf grauem Hintergrund
grünes Quadrat
un petit cercle rouge en haut à gauche
une grande étoile bleue
triangle jaune
un pequeño círculo rojo arriba a la izquierda
círculo rojo
una estrella azul grande sobre un fondo gris
un cerchio rosso su uno sfondo grigio
красный круг на сером фоне
左上角的红色小圆圈
左上の赤い丸
een kleine rode cirkel linksboven
mały czerwony okrąg w lewym górnym rogu""".splitlines()


@pytest.mark.parametrize("caption", ENGLISH)
def test_english_stays(caption):
    assert kept(Language(), caption) == [True]


@pytest.mark.parametrize("caption", FOREIGN)
def test_other_languages_go(caption):
    assert kept(Language(), caption) == [False]


def test_generated_captions_are_english():
    from workflows.demo import scenes

    scene = scenes.Scene("circle", "red", "small", "plain", "top left", "grey", 1)
    captions = [
        text
        for shape in scenes.SHAPES
        for text in scenes.captions(scenes.Scene(shape, *("blue", "large", "striped", "right", "rose", 2)))
    ]
    captions += scenes.captions(scene)
    assert all(kept(Language(), *captions))
    assert all(kept(TextJunk(), *captions))


def test_several_languages():
    rule = Language(languages=("de", "fr"))
    assert kept(rule, "ein kleiner roter Kreis oben links", "une grande étoile bleue", SENSE[0]) == [True, True, False]
    caption = pa.chunked_array([["une grande étoile bleue"]])
    assert relative_scores(caption, {"fr": 1.0}) == [1]
    assert relative_scores(caption, {"de": 1.0}) < [0.5]


@pytest.mark.parametrize(
    ("code", "meant"), [("jp", "ja"), ("cn", "zh"), ("en-US", "en"), ("zh_Hans", "zh"), ("EN", "en"), ("iw", "he")]
)
def test_another_code_is_refused_with_what_was_meant(code, meant):
    with pytest.raises(ConfigError) as caught:
        Language(languages=("de", code))
    assert f"did you mean {meant!r}?" in str(caught.value)


@pytest.mark.parametrize("code", ["English", "xx", "", "zzz"])
def test_a_code_without_sense_is_refused_with_those_known(code):
    with pytest.raises(ConfigError, match="languages") as caught:
        Language(languages=(code,))
    assert "did you mean" not in str(caught.value)
    assert "ja ka km" in str(caught.value)


def test_the_languages_listed_are_those_the_detector_knows():
    import eldc

    assert sorted(eldc.LANGUAGES) == list(DETECTED)
    assert len(KNOWN) == len(set(KNOWN)) == 69


# A caption of each language, of about the length that people write.
CAPTIONS = {
    "ar": "ثعلب أحمر يركض في الثلج",
    "bg": "червена лисица тича в снега",
    "bo": "ལྷ་ས་པོ་ཏ་ལ་ཕོ་བྲང་གི་མཚན་མོའི་མཛེས་ལྗོངས།",
    "cs": "červená liška běží ve sněhu",
    "de": "ein roter Fuchs läuft im Schnee",
    "el": "μια κόκκινη αλεπού τρέχει στο χιόνι",
    "es": "un zorro rojo corre por la nieve",
    "fa": "دو سگ در پارک بازی می‌کنند",
    "fi": "punainen kettu juoksee lumessa",
    "fr": "un renard roux court dans la neige",
    "he": "שועל אדום רץ בשלג",
    "hi": "बर्फ में दौड़ती लाल लोमड़ी",
    "hu": "egy vörös róka fut a hóban",
    "id": "seekor rubah merah berlari di salju",
    "it": "una volpe rossa corre nella neve",
    "ja": "雪の中を走る赤い狐",
    "km": "កញ្ជ្រោងក្រហមរត់ក្នុងព្រិលយ៉ាងលឿន",
    "ko": "눈 속을 달리는 붉은 여우",
    "lo": "ໝາແດງແລ່ນຢູ່ໃນຫິມະຂາວທີ່ສວຍງາມຫຼາຍ",
    "my": "နှင်းထဲတွင်ပြေးနေသောမြေခွေးနီတစ်ကောင်",
    "nb": "en rød rev løper i snøen",
    "nl": "een rode vos rent door de sneeuw",
    "pl": "rudy lis biegnie po śniegu",
    "pt": "uma raposa vermelha corre na neve",
    "ro": "o vulpe roșie aleargă prin zăpadă",
    "ru": "рыжая лиса бежит по снегу",
    "si": "හිම මත දුවන රතු නරියා",
    "sv": "en röd räv springer i snön",
    "ta": "பனியில் ஓடும் சிவப்பு நரி",
    "th": "สุนัขจิ้งจอกสีแดงวิ่งในหิมะ",
    "tr": "karda koşan kırmızı bir tilki",
    "uk": "руда лисиця біжить по снігу",
    "vi": "con cáo đỏ chạy trong tuyết",
    "zh": "一只红色的狐狸在雪地里奔跑",
}


@pytest.mark.parametrize("code", CAPTIONS)
def test_each_language_is_told_from_english(code):
    assert code in KNOWN
    assert kept(Language(languages=(code,)), CAPTIONS[code], "two dogs are playing with the ball") == [True, False]
    assert kept(Language(), CAPTIONS[code]) == [False]


@pytest.mark.parametrize("code", CAPTIONS)
def test_without_a_choice_of_languages_all_stay(code):
    """Nothing but Language may treat one language other than another."""
    for rule in (TextJunk(), TextLength(), TextWords()):
        assert kept(rule, CAPTIONS[code]) == [True], rule


@pytest.mark.parametrize("caption", ["ᏣᎳᎩ ᎦᏬᏂᎯᏍᏗ ᎠᏂᏴᏫᏯ", "ᓂᕐᓕᓇᐅᔭᖅ ᐱᖓᓱᑦ", "2019-05-04", "🎉 🎉 🎉", ""])
def test_what_is_in_no_known_language_is_dropped(caption):
    assert kept(Language(), caption) == [False]


def test_a_name_in_another_script_does_not_decide():
    assert kept(Language(languages=("km",)), "ប្រាសាទ Angkor Wat ពេលថ្ងៃលិចស្អាតណាស់") == [True]
    assert kept(Language(), "the temple of Angkor Wat (អង្គរវត្ត) at dawn") == [True]


# Words as a reader counts them, or a dictionary: of each script without spaces a text that leaves no doubt.
WORDS = {
    "红烧肉": (2, 6),  # characters of China, Japan and Korea count twice
    "小猫睡觉": (2, 8),
    "两只狗在公园里": (6, 14),
    "猫の写真": (3, 8),
    "ラーメン": (1, 8),
    "東京タワー の 夜景": (3, 18),
    "แมวนอนหลับ": (3, 10),
    "ແມວນອນ": (2, 6),
    "ឆ្មាដេក": (2, 7),
    "ကြောင်": (1, 6),
    "ར་སྔོན་པོ": (3, 9),
    "비빔밥 한 그릇": (3, 14),
    "Nikon Z9のカメラ": (4, 16),
    "a cat": (2, 5),
    "don't — stop": (3, 12),
    "می‌کنند دو": (2, 10),
    "𠮷 狐狸 在": (3, 10),
    "😀 狐狸在雪地": (4, 12),
    "": (0, 0),
    "   ": (0, 0),
}


@pytest.mark.parametrize("caption", WORDS)
def test_words_and_lengths_go_by_script(caption):
    words, length = WORDS[caption]
    for rule, number in ((TextWords, words), (TextLength, length)):
        assert kept(rule(min=number, max=max(1, number)), caption) == [True], rule
        assert kept(rule(min=number + 1, max=1000), caption) == [False], rule


def test_a_missing_caption_has_no_length():
    rows = pa.table({"caption": pa.array([None, "三只小猫在睡觉", None], pa.string())})
    for rule in (TextWords(min=0), TextLength(min=0), TextJunk(), Language(languages=("zh",))):
        assert judge(rows, [rule]) == [rule.kind, None, rule.kind]


def test_one_word_repeated_is_noise_in_any_script():
    assert kept(TextJunk(), "打折打折打折打折打折打折打折", "ลด ลด ลด ลด ลด ลด ลด") == [False, False]


@pytest.mark.long
@given(st.text(max_size=40))
def test_any_text_has_an_answer(text):
    for rule in (TextJunk(), Language(), TextWords(), TextLength()):
        assert kept(rule, text) in ([True], [False])
    count = len(words(text))
    assert kept(TextWords(min=count, max=max(1, count)), text) == [True]
    if not is_unspaced(text) and "\u0f0b" not in text and "\u0f0c" not in text:
        assert count == len(text.split())


def test_sizes():
    rows = pa.table({"original_width": [200, 199, 800, 601, 600], "original_height": [200, 500, 199, 200, 200]})
    assert ImageSide(min=200).keeps(rows).tolist() == [True, False, False, True, True]
    assert ImageAspect(max=3).keeps(rows).tolist() == [True, True, False, False, True]


def test_the_first_rule_that_fails_is_the_reason():
    rows = pa.table({"caption": ["IMG_1.jpg", "red", "a red circle", "ein roter Kreis auf grauem Grund"]})
    assert judge(rows, [TextJunk(), TextWords(), Language()]) == ["text_junk", "text_words", None, "language"]
    assert judge(rows, [TextWords(), TextJunk()]) == ["text_words", "text_words", None, None]
    assert judge(rows, []) == [None] * 4


def test_rules_come_from_plain_values():
    config = Config(rules=[{"kind": "text_words", "min": 2}, "text_junk", {"kind": "language", "languages": ["de"]}])
    assert config.rules == (TextWords(min=2), TextJunk(), Language(languages=("de",)))
    assert config.identity()["rules"][:2] == [{"kind": "text_words", "min": 2}, {"kind": "text_junk"}]
    assert config.resolved()["rules"][0] == {"kind": "text_words", "min": 2, "max": 256}
    assert Config().rules == BASIC
    with pytest.raises(ConfigError, match="text_wrds") as caught:
        Config(rules=[{"kind": "text_wrds"}])
    assert caught.value.fix == "did you mean 'text_words'?"
    with pytest.raises(ConfigError, match="minn"):
        Config(rules=[{"kind": "text_words", "minn": 2}])


def test_the_stage(ray_cluster, images_artifact, finished):
    large, small = Image.new("RGB", (300, 200), "red"), Image.new("RGB", (64, 64), "blue")
    rows = [
        ("a red rectangle without anything", large),
        ("a blue square that is small", small),
        ("gone before it came", None),
        ("logo", large),
        ("ein rotes Rechteck ohne irgendetwas", large),
        ("another red rectangle, on the second shard", large),
    ]
    images = images_artifact(rows, per_shard=4)
    selection = finished(run, Config(), {"images": images})
    assert selection.manifest.funnel.to_json() == {
        "unit": "images",
        "entered": 5,
        "kept": 2,
        "dropped": {"image_side": 1, "language": 1, "text_junk": 1},
    }
    dropped = read_table(selection.store, "data/dropped-00000.parquet").to_pylist()
    assert [(row["caption"], row["reason"]) for row in dropped] == [(rows[1][0], "image_side"), ("logo", "text_junk")]
    second = read_table(selection.store, "data/kept-00001.parquet").to_pylist()
    assert [(row["caption"], row["shard"], row["key"]) for row in second] == [(rows[5][0], 1, "000011")]
    figures = [file.path for file in selection.files("figures/")]
    galleries = ("kept", "dropped_image_side", "dropped_language", "dropped_text_junk")
    compared = ("image_side", "image_aspect", "text_length", "text_words", "language")
    drawn = (*galleries, "rules", "languages", *(f"histogram_{rule}" for rule in compared))
    assert figures == [f"figures/{name}.png" for name in drawn]
    facts = selection.manifest.facts
    assert facts["failed"] == {"image_side": 1, "language": 2, "text_junk": 1, "text_length": 1, "text_words": 1}
    assert facts["languages"] == {
        "de": {"language": 1},
        "en": {"": 2, "image_side": 1},
        "pt": {"text_junk": 1},
    }
    assert Image.open(io.BytesIO(selection.read("figures/kept.png"))).width > 400
    assert finished(run, Config(), {"images": images}).manifest == selection.manifest
