"""Captions of the demo's scenes in Chinese, Japanese and Thai, which put no spaces between words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from workflows.demo.scenes import BACKGROUNDS, COLOURS, POSITIONS, SHAPES, SIZES, TEXTURES, Scene

__all__ = ["TRANSLATIONS", "Translation", "names"]


@dataclass(frozen=True)
class Translation:
    """The words of a language, each list in the order of the English one in scenes.py, and how captions are put.

    ``page``: title of a page with its number; ``prose``: a sentence for its visitors; ``charset``: an old one of the
    language, and where its pages declare it. In ``wordings``: a: size, t: texture, c: colour, s: shape, p: position,
    b: background.
    """

    page: str
    prose: str
    charset: tuple[str, str]
    shapes: Sequence[str]
    colours: Sequence[str]
    sizes: Sequence[str]
    textures: Sequence[str]
    positions: Sequence[str]
    backgrounds: Sequence[str]
    wordings: Sequence[str]

    def captions(self, scene: Scene) -> list[str]:
        """Captions of the scene; all name colour and shape."""
        words = {
            "s": self.shapes[SHAPES.index(scene.shape)],
            "c": self.colours[COLOURS.index(scene.colour)],
            "a": self.sizes[SIZES.index(scene.size)],
            "t": self.textures[TEXTURES.index(scene.texture)],
            "p": self.positions[POSITIONS.index(scene.position)],
            "b": self.backgrounds[BACKGROUNDS.index(scene.background)],
        }
        return [wording.format(**words) for wording in self.wordings]


def names() -> list[str]:
    """Return the words for shapes and colours in every language."""
    return [word for words in TRANSLATIONS.values() for word in (*words.shapes, *words.colours)]


TRANSLATIONS = {
    "zh": Translation(
        page="第{}页",
        prose="我们每两周展出一批新作品。",
        charset=("gb18030", "header"),
        shapes=("圆形", "正方形", "三角形", "星形", "十字", "心形"),
        colours=("红色", "黄色", "绿色", "蓝色", "紫色", "黑色"),
        sizes=("小", "中等", "大"),
        textures=("纯色", "条纹", "圆点", "格子"),
        positions=("左上角", "上方", "右上角", "左边", "中间", "右边", "左下角", "下方", "右下角"),
        backgrounds=("奶油色", "灰色", "灰绿色", "蓝灰色", "玫瑰色"),
        wordings=(
            "{b}背景上有一个{c}{s}",
            "画面{p}有一个{a}的{c}{s}",
            "画着{t}{c}{s}的图片。",
            "一个{c}的{s}，在{p}",
        ),
    ),
    "ja": Translation(
        page="ページ{}",
        prose="新しい作品を隔週で展示しています。",
        charset=("euc-jp", "meta"),
        shapes=("円", "正方形", "三角形", "星", "十字", "ハート"),
        colours=("赤い", "黄色い", "緑の", "青い", "紫の", "黒い"),
        sizes=("小さな", "中くらいの", "大きな"),
        textures=("無地の", "縞模様の", "水玉模様の", "市松模様の"),
        positions=("左上", "上", "右上", "左", "中央", "右", "左下", "下", "右下"),
        backgrounds=("クリーム色", "灰色", "灰緑色", "青灰色", "バラ色"),
        wordings=(
            "{b}の背景に描かれた{c}{s}",
            "画面の{p}に{a}{c}{s}があります。",
            "{t}{c}{s}の絵",
            "{p}にある{a}{c}{s}",
        ),
    ),
    "th": Translation(
        page="หน้า {}",
        prose="เรานำผลงานใหม่มาแสดงทุกสองสัปดาห์",
        charset=("windows-874", "header"),
        shapes=("วงกลม", "สี่เหลี่ยมจัตุรัส", "สามเหลี่ยม", "ดาว", "กากบาท", "หัวใจ"),
        colours=("สีแดง", "สีเหลือง", "สีเขียว", "สีน้ำเงิน", "สีม่วง", "สีดำ"),
        sizes=("ขนาดเล็ก", "ขนาดกลาง", "ขนาดใหญ่"),
        textures=("ลายเรียบ", "ลายทาง", "ลายจุด", "ลายตาราง"),
        positions=(
            *("มุมซ้ายบน", "ด้านบน", "มุมขวาบน"),
            *("ด้านซ้าย", "ตรงกลาง", "ด้านขวา"),
            *("มุมซ้ายล่าง", "ด้านล่าง", "มุมขวาล่าง"),
        ),
        backgrounds=("สีครีม", "สีเทา", "สีเขียวอมเทา", "สีเทาอมฟ้า", "สีชมพู"),
        wordings=(
            "{s}{c}บนพื้นหลัง{b}",
            "ภาพ{s}{c}{a}",
            "{s}{c}{t}อยู่ที่{p}",
            "รูปวาด{s}{c} {t}{a}",
        ),
    ),
}
