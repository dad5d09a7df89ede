"""Figure numbers: taken off in any language, left where they belong to the text."""

import pyarrow as pa
import pytest

from pipelines.html.labels import same_caption, unlabelled

LABELS = (
    "Figure 14.2.|Figure 14.2|Fig. 3|Fig 3:|Fig.3.|(Figure 3)|[Fig. 2]|Figure 3a.|Fig. 3(b)|"
    "Figure A.1.|Figure S1.|Figure IV.|FIGURE 7 –|Figure 3 -|Fig. 1-3.|Figure 1 of 5:|"
    "Photo 3:|Table 2.|Abbildung 13.6.|Abb. 3:|Bild 3 von 7:|Afbeelding 3.2.|Kuva 3.|"
    "Figura 3.2.|Obrázek 3.1.|Rysunek 4.16.|Rys. 4.|Slika 2.1.|Gambar 3.|Hình 4.1.|Hình số 3:|"
    "Şekil 4.1.|Рисунок 13.10.|Рис. 3.|Σχήμα 3.4.|Εικόνα 2:|شكل 9.2.|شکل ۹.۲:|الشكل (1):|"
    "איור 3.|चित्र 3:|รูปที่ 3:|图 3.2.|图3-2：|图一：|圖形 13.2.|圖1|図 13.7|図１|第3图|그림 3.2.|그림 1|"
    "3.2. ábra|1. attēls.|3 pav.|1-rasm."
)


@pytest.mark.parametrize("label", LABELS.split("|"))
def test_labels_are_taken_off(label):
    texts = pa.array([f"{label} The red fox", f"{label} 赤いキツネ"])
    assert unlabelled(texts).to_pylist() == ["The red fox", "赤いキツネ"]


@pytest.mark.parametrize("nothing", ["Figure 3", "Fig. 12.", "Abbildung 1.1", "図 3", "(Fig. 2)"])
def test_a_number_alone_is_no_text(nothing):
    assert unlabelled(pa.array([nothing])).to_pylist() == [None]


@pytest.mark.parametrize(
    "text",
    [
        *(
            "Figure 8 knot tied in a rope",
            "Figure 8 Knot",
            "Figure skating 2014",
            "Figure A walking",
            "Figure 3D model",
        ),
        *("I saw the Figure 5 in gold", "Photo 51 by Rosalind Franklin", "Table 3, Chairs 4", "Map 3", "Example III"),
        *(
            "3 foxes",
            "Apollo 11. Moon",
            "图书馆 3",
            "图3D打印",
            "図1の構成",
            "Picture of a fox",
            "Figure",
            "Bilder 3",
            "",
        ),
        *("Figaro 3", "3 kép", "2019. A year"),
    ],
)
def test_numbers_that_belong_to_the_text_stay(text):
    assert unlabelled(pa.array([text])).to_pylist() == [text]


@pytest.mark.parametrize(
    ("text", "other", "same"),
    [
        ("Red fox", "red fox.", True),
        ("A red fox", "Kuvio 3. A red fox", True),  # in a language of which the word is not known
        ("Wykres nr 3: lis", "Lis", True),
        ("Dibujo 14.2 red fox", "“Red fox”", True),
        ("Figuur A.3. lis", "lis", True),
        ("Moon landing", "Apollo 11 moon landing", False),
        ("foxes", "2 foxes", False),
        ("fox", "A red fox 3.", False),
        ("Red fox", "Red fox. Photo by Ann", False),
        ("", "a", False),
    ],
)
def test_captions_that_say_the_same(text, other, same):
    assert same_caption(text, other) is same_caption(other, text) is same
