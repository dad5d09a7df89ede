"""A pool of real pairs with noise of known kinds planted in it, and the test set that leaks into it."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from random import Random

import numpy as np
import pyarrow as pa
from PIL import Image, ImageFilter, ImageOps

from infra.formats.shards import TarWriter, sample_key, write_triple
from infra.run.context import Context
from infra.run.manifest import Artifact
from infra.schema import images_schema, pairs_schema
from tests.benchmarks.real_pool import FURNITURE, Picture, jpeg

PER_SHARD = 200
TEST_IMAGES = 200
IN_A_TOPIC = 12  # pictures: openclipart has hundreds of stars that differ in a hairline


@dataclass(frozen=True)
class Row:
    """A pair of the pool: its noise, "" if it is good, and for a copy the number of the row it copies."""

    image: bytes
    caption: str
    noise: str = ""
    of: int = -1
    english: bool = True
    """Whether the caption's language is known: a stamp's is, a file's name in openclipart may be in any."""


# --- noise ------------------------------------------------------------------------------------------------------------

Draw = Random


def _file_name(draw: Draw, picture: Picture) -> str:
    number = draw.randint(100, 99999)
    names = (picture.path.name, f"IMG_{number}.JPG", f"DSC{number:05d}", f"{picture.path.stem}-{number}x300.webp")
    return draw.choice(names)


def _furniture(draw: Draw, picture: Picture) -> str:
    page = f"image {draw.randint(1, 9)} of 12"
    return draw.choice((*FURNITURE, page, "Click to view full size", "logo", "<b>sale</b> &amp; more", "No image"))


def _personal(draw: Draw, picture: Picture) -> str:
    number = f"+44 20 7946 0{draw.randint(100, 999)}"
    found = (f"jane.doe{draw.randint(1, 99)}@example.com", number, "4111 1111 1111 1111", "81.2.69.142")
    return f"{picture.caption} {draw.choice(('Contact', 'Ask', 'Call'))} {draw.choice(found)}"


def _repeated(draw: Draw, picture: Picture) -> str:
    return " ".join([picture.topic.rpartition("/")[2]] * draw.randint(6, 12))


def _translated(draw: Draw, picture: Picture) -> str:
    return draw.choice(picture.translations)[1]


CAPTIONS: dict[str, tuple[str, Callable[[Draw, Picture], str]]] = {
    "file name as caption": ("text_junk", _file_name),
    "page furniture as caption": ("text_junk", _furniture),
    "one word again and again": ("text_junk", _repeated),
    "one or two words": ("text_words", lambda draw, picture: " ".join(picture.caption.split()[: draw.randint(1, 2)])),
    "another language": ("language", _translated),
    "personal data": ("pii", _personal),
    "one caption of many": ("caption_frequency", lambda draw, picture: "A fine picture from our shop"),
}

IMAGES: dict[str, tuple[str, Callable[[Draw, Image.Image], Image.Image]]] = {
    "tiny": ("image_side", lambda draw, image: _fitted(image, draw.randint(16, 150))),
    "banner": ("image_aspect", lambda draw, image: image.resize((image.height * 4, image.height))),
    "blurred": ("image_sharpness", lambda draw, image: image.filter(ImageFilter.GaussianBlur(draw.uniform(7, 12)))),
    "one colour": ("image_solid", lambda draw, image: Image.new("RGB", image.size, _colour(draw))),
    "static": ("bytes_per_pixel", lambda draw, image: _static(draw, image.size)),
}

COPIES: dict[str, Callable[[Draw, Image.Image], bytes]] = {
    "equal file": lambda draw, image: jpeg(image, 88),
    "recompressed": lambda draw, image: jpeg(image, draw.randint(40, 75)),
    "scaled": lambda draw, image: jpeg(_fitted(image, draw.randint(120, 190)), 85),
    "grey": lambda draw, image: jpeg(image.convert("L").convert("RGB"), 85),
    "cropped by 3%": lambda draw, image: jpeg(ImageOps.crop(image, round(0.03 * min(image.size))), 85),
    "framed": lambda draw, image: jpeg(ImageOps.expand(image, round(0.05 * min(image.size)), "black"), 85),
}


def _fitted(image: Image.Image, side: int) -> Image.Image:
    scale = side / min(image.size)
    return image.resize([max(1, round(scale * length)) for length in image.size], Image.Resampling.LANCZOS)


def _colour(draw: Draw) -> tuple[int, int, int]:
    return draw.randint(0, 255), draw.randint(0, 255), draw.randint(0, 255)


def _static(draw: Draw, size: tuple[int, int]) -> Image.Image:
    noise = np.random.default_rng(draw.randint(0, 2**31)).integers(0, 256, (size[1], size[0], 3), np.uint8)
    return Image.fromarray(noise)


# --- the pool ---------------------------------------------------------------------------------------------------------


def plant(pictures: list[Picture], good: int, each: int) -> tuple[list[Row], list[bytes]]:
    """The pool, and the images of the test set.

    The stamps are among the good pairs, for their captions are known to be English. A wrong caption is that of a
    picture of another folder.
    """
    draw = Random("planted noise")
    pictures = [one for one in pictures if len(one.caption.split()) >= 3]
    draw.shuffle(pictures)
    in_topic: Counter[str] = Counter()
    every = []
    for one in pictures:
        in_topic[one.topic] += 1
        if in_topic[one.topic] <= IN_A_TOPIC:
            every.append(one)
    foreign = [one for one in every if one.translations][:each]
    left = iter(sorted((one for one in every if one not in foreign), key=lambda one: not one.translations))
    rows = [
        Row(jpeg(one.image(), 88), one.caption, english=bool(one.translations))
        for _, one in zip(range(good), left, strict=False)
    ]
    for noise, (_, caption) in CAPTIONS.items():
        chosen = iter(foreign) if noise == "another language" else left
        for _, one in zip(range(each), chosen, strict=False):
            rows.append(Row(jpeg(one.image(), 88), caption(draw, one), noise))
    for noise, (_, change) in IMAGES.items():
        for _, one in zip(range(each), left, strict=False):
            quality = 95 if noise == "static" else 88
            rows.append(Row(jpeg(change(draw, one.image()), quality), one.caption, noise))
    for number, (noise, copy) in enumerate(COPIES.items()):
        for place in range(number * each, min((number + 1) * each, good)):
            rows.append(Row(copy(draw, _opened(rows[place].image)), f"{rows[place].caption} (another)", noise, place))
    wrong = [one for _, one in zip(range(each), left, strict=False)]
    for one in wrong:
        other = draw.choice([other.caption for other in every if other.topic != one.topic])
        rows.append(Row(jpeg(one.image(), 88), other, "wrong caption"))
    tests = [one.image() for _, one in zip(range(TEST_IMAGES), left, strict=False)]
    for noise, copy in COPIES.items():
        for image in draw.sample(tests, max(1, each // len(COPIES))):
            rows.append(Row(copy(draw, image), f"A picture of a test, {noise}", "test image"))
    return rows, [jpeg(image, 92) for image in tests]


def _opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data)).convert("RGB")


def write_pool(rows: Sequence[Row], folder: Path) -> Artifact:
    """The rows as a download writes them; the url is ``http://a.example/{number}``."""
    context = Context(folder)
    schema = images_schema(pairs_schema()).append(pa.field("reason", pa.string()))
    for shard, start in enumerate(range(0, len(rows), PER_SHARD)):
        table, members = [], []
        for index, row in enumerate(rows[start : start + PER_SHARD]):
            number, (width, height) = start + index, _opened(row.image).size
            key = sample_key(shard, index, PER_SHARD)
            members += [(f"{key}.jpg", row.image), (f"{key}.txt", row.caption.encode())]
            size = {"width": width, "height": height, "original_width": width, "original_height": height}
            url = f"http://a.example/{number}"
            named = {"uid": f"{number:032x}", "url": url, "caption": row.caption, "key": key, "status": "success"}
            table.append({**named, **size, "exif": "{}", "sha256": sha256(row.image).hexdigest()})
        write_triple(context.output, shard, members, pa.Table.from_pylist(table, schema))
    return Artifact(context.store, context.finish())


def write_tests(images: Sequence[bytes], folder: Path) -> Artifact:
    context = Context(folder)
    with context.output.open("data/known/test/0.tar") as sink, TarWriter(sink) as tar:
        for number, image in enumerate(images):
            tar.add(f"{number:05d}.cls", b"0")
            tar.add(f"{number:05d}.jpg", image)
    for name, data in (("classnames.txt", b"thing\n"), ("test/nshards.txt", b"1\n")):
        context.output.write(f"data/known/{name}", data)
    return Artifact(context.store, context.finish())
