"""A web site of real pictures with realistic dirt, and the test sets that say whether a filter of it helps.

    apt-get download tuxpaint-stamps-default openclipart-png && dpkg-deb -x ...    # pictures: GPL-2, public domain

Half of the stamps and an eighth of openclipart, by a hash of their names, are never on the site: they are the tests,
retrieval by caption and, of the stamps, classification by folder. All others are cut in three: a pool, which is the
site; clean pairs, for a data filtering network; and pairs as dirty as the pool's, for a model of another crawl.
``plant`` says of each picture of the site how it is shown, and is what a filter's verdicts can be held against.
"""

from __future__ import annotations

import io
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from html import escape
from pathlib import Path
from random import Random

from PIL import Image

from infra.formats.shards import TarWriter

Image.MAX_IMAGE_PIXELS = None  # openclipart has some of 200 million; they are left out below
MOST_PIXELS = 4_000_000
IN_A_FOLDER = 50  # pictures: openclipart has 1,378 stars
CLASS_SIZE = 6  # test pictures of a folder that is a class
PER_PAGE = 12
LANGUAGES = ("de", "es", "fr", "it", "pl", "pt", "ru", "ja")  # hosts of translations, beside English
FURNITURE = (
    *("image", "click to enlarge", "photo", "loading", "thumbnail", "read more here", "no image available"),
    *("buy now with free shipping", "our best offers of the week", "share this page with your friends"),
)


@dataclass(frozen=True)
class Picture:
    """A file and what it shows; ``topic``: its folder."""

    path: Path
    caption: str
    topic: str
    translations: tuple[tuple[str, str], ...] = ()

    def image(self, side: int = 0) -> Image.Image:
        """On white; ``side``: pixels of the longer side, else the shorter has 200 to 320, as its name decides."""
        picture = Image.open(self.path).convert("RGBA")
        page = Image.new("RGB", picture.size, "white")
        page.paste(picture, mask=picture.getchannel("A"))
        scale = side / max(page.size) if side else Random(self.path.name).randint(200, 320) / min(page.size)
        return page.resize([max(1, round(scale * length)) for length in page.size], Image.Resampling.BICUBIC)


@dataclass(frozen=True)
class Shown:
    """A picture on a page of ``host``: its file's name, its alt text, and what is wrong with it."""

    picture: Picture
    host: str
    name: str
    alt: str
    dirt: str  # "" if nothing is
    side: int = 0
    quality: int = 88

    @property
    def url(self) -> str:
        return f"http://{self.host}/{self.name}"


@dataclass(frozen=True)
class Parts:
    """The pictures by what they are for."""

    stamps: list[Picture]  # test pictures
    clipart: list[Picture]  # likewise
    pool: list[Picture]
    trusted: list[Picture]
    other: list[Picture]


def parts(stamps: Path, openclipart: Path) -> Parts:
    """Half of the pictures that are not for a test are the pool's."""
    found = Parts([], [], [], [], [])
    for folder, read in ((stamps, stamp), (openclipart, clipart)):
        in_folder: Counter[Path] = Counter()
        ranked = []
        for path in folder.rglob("*.png"):
            if not path.is_symlink() and not path.stem.endswith(("_mirror", "_flip")) and "alphabets" not in path.parts:
                name = path.relative_to(folder).with_suffix("").as_posix()
                ranked.append((blake2b(name.encode(), digest_size=8).digest(), path))
        for rank, path in sorted(ranked):
            width, height = Image.open(path).size
            in_folder[path.parent] += 1
            upright = max(width, height) <= 2.8 * min(width, height) and min(width, height) >= 40
            if in_folder[path.parent] > IN_A_FOLDER or width * height > MOST_PIXELS or not upright:
                continue
            groups = [*4 * [found.pool], found.trusted, found.trusted, found.other]
            if read is stamp:
                group = found.stamps if rank[0] % 2 == 0 else [*groups, found.pool][rank[1] % 8]
            else:
                group = [*groups, found.clipart][rank[1] % 8]
            group.append(read(path, path.relative_to(folder).parent.as_posix()))
    return found


def stamp(path: Path, topic: str) -> Picture:
    """A stamp with its caption in English and in other languages."""
    first, *others = path.with_suffix(".txt").read_text("utf-8").splitlines()
    named = (line.partition(".utf8=") for line in others)
    translations = {language: text.strip() for language, found, text in named if found and text.strip()}
    return Picture(
        path, first.strip(), topic, tuple((one, translations[one]) for one in LANGUAGES if one in translations)
    )


def clipart(path: Path, topic: str) -> Picture:
    """A picture of openclipart; its file and folder say what it is: ``animals/mammals/lion_01.png``."""
    name = " ".join(re.findall(r"[a-z]+", path.stem.lower()))
    kind = re.sub(r"[-_]", " ", topic.rpartition("/")[2])
    phrases = ("a drawing of {n}, {k}", "{n}: {k} clip art", "a picture of {n} ({k})", "{k}: {n}, free clip art")
    return Picture(path, Random(path.name).choice(phrases).format(n=name or kind, k=kind), topic)


def plant(pictures: Sequence[Picture]) -> list[Shown]:
    """All showings of ``pictures``, always the same: of each a full one, and what else the web has of it."""
    shown = []
    for number, picture in enumerate(pictures):
        draw = Random(f"plant {number} {picture.path.name}")

        def show(host: str, dirt: str, alt: str, number: int = number, **how: int) -> None:
            picture = pictures[number]
            name = f"{number:05d}-{len(shown)}.jpg"
            shown.append(Shown(picture, f"{host}.example", name, alt, dirt, **how))

        dirt, alt = _caption(picture, pictures, draw)
        show(draw.choice(("gallery", "shop", "blog")), dirt, alt)
        for _ in range(draw.choices((0, 1, 2, 4), (70, 15, 10, 5))[0]):
            _, alt = _caption(picture, pictures, draw)
            show("copies", "copy", alt, quality=draw.randint(50, 80), side=draw.randint(300, 420))
        if draw.random() < 0.25:
            show("shop", "thumbnail", picture.caption, side=draw.randint(60, 110))
        for language, text in draw.sample(picture.translations, min(3, len(picture.translations))):
            show(language, "language", text, quality=draw.randint(60, 90), side=draw.randint(330, 420))
    return shown


def _caption(picture: Picture, others: Sequence[Picture], draw: Random) -> tuple[str, str]:
    """What is wrong with a picture's caption, and the caption."""
    dirt = draw.choices(("", "wrong", "file name", "furniture"), (50, 30, 10, 10))[0]
    texts: dict[str, Callable[[], str]] = {
        "": lambda: picture.caption,
        "wrong": lambda: draw.choice(others).caption,
        "file name": lambda: draw.choice((picture.path.name, f"IMG_{draw.randint(1000, 9999)}.JPG")),
        "furniture": lambda: draw.choice(FURNITURE),
    }
    return dirt, texts[dirt]()


def write_site(shown: Sequence[Shown], folder: Path) -> list[str]:
    """The site's files, a folder for each host; the addresses to begin a crawl at."""
    by_host: dict[str, list[Shown]] = defaultdict(list)
    for one in shown:
        by_host[one.host].append(one)
        target = folder / one.host / one.name
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(jpeg(one.picture.image(one.side), one.quality))
    for host, items in by_host.items():
        Random(host).shuffle(items)
        pages = range(0, len(items), PER_PAGE)
        links = "".join(f'<li><a href="page-{start}.html">Page {start}</a>' for start in pages)
        _page(folder / host / "index.html", host, f"<ul>{links}</ul>")
        for start in pages:
            images = (
                f'<p><img src="{i.name}" alt="{escape(i.alt, quote=True)}">' for i in items[start : start + PER_PAGE]
            )
            _page(folder / host / f"page-{start}.html", host, "\n".join(images))
    return [f"http://{host}/index.html" for host in sorted(by_host)]


def _page(path: Path, title: str, body: str) -> None:
    path.write_text(f"<!doctype html><meta charset=utf-8><title>{title}</title>\n{body}\n", "utf-8")


def jpeg(image: Image.Image, quality: int) -> bytes:
    sink = io.BytesIO()
    image.save(sink, "JPEG", quality=quality)
    return sink.getvalue()


def write_tests(found: Parts, folder: Path) -> None:
    """``stamps`` and ``clipart``, retrieval of pictures whose captions differ; ``topics``, stamps by their folders."""
    for name, pictures in (("stamps", found.stamps), ("clipart", found.clipart)):
        unlike = {picture.caption: picture for picture in reversed(pictures)}.values()
        _write_test(folder / name, [("txt", picture, picture.caption) for picture in unlike])
        (folder / name / "dataset_type.txt").write_text("retrieval\n")

    topics = Counter(map(_class, found.stamps))
    classes = sorted(name for name, count in topics.items() if count >= CLASS_SIZE)
    labels = [(classes.index(_class(one)), one) for one in found.stamps if _class(one) in classes]
    _write_test(folder / "topics", [("cls", picture, str(label)) for label, picture in labels])
    (folder / "topics/classnames.txt").write_text("".join(f"{name}\n" for name in classes))
    templates = ("a picture of {c}", "a drawing of {c}", "{c}", "a photo of {c}", "{c} clip art")
    (folder / "topics/zeroshot_classification_templates.txt").write_text("".join(f"{text}\n" for text in templates))


def _class(picture: Picture) -> str:
    """The folder that says what a stamp is: ``animals/birds/cartoon`` shows birds."""
    words = [word for word in picture.topic.split("/") if word not in ("cartoon", "filled", "outlined", "plastic")]
    return words[min(1, len(words) - 1)]


def _write_test(folder: Path, samples: Sequence[tuple[str, Picture, str]]) -> None:
    write_tar(folder / "test/0.tar", samples)
    (folder / "test/nshards.txt").write_text("1\n")


def write_tar(path: Path, samples: Iterable[tuple[str, Picture, str]]) -> None:
    """A shard of (extension of the text, picture, text), images of at most 256 pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as sink, TarWriter(sink) as tar:
        for number, (extension, picture, text) in enumerate(samples):
            tar.add(f"{number:06d}.{extension}", text.encode())
            tar.add(f"{number:06d}.jpg", jpeg(picture.image(256), 92))
