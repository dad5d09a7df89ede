"""Which pictures dedup takes for copies: recall by kind of copy, false merges, and pictures that differ in words only.

    apt-get download tuxpaint-stamps-default openclipart-png && dpkg-deb -x ...    # pictures: GPL-2, public domain
    python -m tests.benchmarks.near_duplicates --pictures .../tuxpaint/stamps .../openclipart/png --half even

Each picture is put on the web as it is and changed in the ways of ``picture_variants``, downloaded (256 px), and looked
for among all the others, as dedup does: by keys, then by thumbnail. The thresholds were set on the odd half of the
pictures, by a hash of their names; figures are to be of the even half. Left out are blank pictures, equal files, and
copies of less than 64 px. At the end the time of a hash, beside imagehash's in the same run.
"""

from __future__ import annotations

import argparse
import io
import time
from collections import Counter, defaultdict
from hashlib import blake2b
from itertools import combinations
from pathlib import Path

import imagehash
import numpy as np
from PIL import Image

from pipelines.curate.dedup import Config
from pipelines.curate.dedup.alike import same
from pipelines.curate.dedup.pairs import agree
from pipelines.curate.dedup.signatures import Signature, signature
from pipelines.images.phash import phash_of
from tests.benchmarks.picture_variants import VARIANTS, jpeg, same_but_words, stored

LEAST = 64  # pixels of a copy's shorter side
IN_A_FOLDER = 12  # pictures: openclipart has hundreds of stars
MOST_PIXELS = 20_000_000
TEMPLATES, EACH = 25, 6  # of pictures that differ in words, and pictures of each


def pictures(folder: Path, half: str, count: int, in_a_folder: int) -> list[Path]:
    """``count`` pictures of one half or of all, in the order of a hash of their names."""
    ranked = []
    for path in folder.rglob("*.png"):
        rank = blake2b(path.relative_to(folder).with_suffix("").as_posix().encode(), digest_size=8).digest()
        if half in ("all", ("even", "odd")[rank[0] % 2]) and not path.stem.endswith(("_mirror", "_flip")):
            ranked.append((rank, path))
    chosen: list[Path] = []
    folders: Counter[Path] = Counter()
    for _, path in sorted(ranked):
        width, height = Image.open(path).size
        if min(width, height) < 96 or width * height > MOST_PIXELS or folders[path.parent] == in_a_folder:
            continue
        folders[path.parent] += 1
        chosen.append(path)
    return chosen[:count]


def opened(path: Path, side: int = 640) -> Image.Image:
    """A picture on white, its longer side at most ``side`` pixels."""
    picture = Image.open(path).convert("RGBA")
    page = Image.new("RGB", picture.size, "white")
    page.paste(picture, mask=picture.getchannel("A"))
    page.thumbnail((side, side), Image.Resampling.LANCZOS)
    return page


def pixels(picture: Image.Image) -> int:
    return picture.width * picture.height


def is_near(one: Signature, other: Signature) -> bool:
    return bool(Keys([one]).near(other).any())


class Keys:
    """The keys of some images, and which of them are near another."""

    def __init__(self, images: list[Signature]) -> None:
        self._count = len(images)
        self._searches = [
            (_keys([one.keys for one in images]), Config().max_distance),
            (_keys([one.all_keys for one in images]), Config().max_distance_parts),
        ]

    def near(self, other: Signature) -> np.ndarray:
        """Mask of the images with which dedup compares ``other``: (n,)."""
        found = np.zeros(self._count, bool)
        for ((owners, keys), distance), own in zip(self._searches, (other.keys, other.all_keys), strict=True):
            bits = np.bitwise_count(np.array(own, np.uint64)[:, None] ^ keys)
            found[owners[(bits <= distance).any(axis=0)]] = True
        return found


def _keys(lists: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Place of the list of each key, and the keys: (n,), (n,) uint64."""
    return np.repeat(np.arange(len(lists)), list(map(len, lists))), np.array(
        [key for one in lists for key in one], np.uint64
    )


class Table:
    """What became of copies, by name of the variant: found by keys, taken for copies; and false merges."""

    def __init__(self, originals: list[Signature]) -> None:
        self.originals = originals
        self.keys = Keys(originals)
        self.rows: defaultdict[str, list[tuple[bool, bool]]] = defaultdict(list)
        self.false: Counter[tuple[int, int]] = Counter()

    def look_for(self, name: str, place: int, copy: Signature, *, mirrored: bool, more: int) -> None:
        """Compare a copy of the original at ``place`` with all; with ``more`` pixels it is the first, as in dedup."""
        candidates = np.flatnonzero(self.keys.near(copy)).tolist()
        found = set()
        for candidate in candidates:
            pair = [self.originals[candidate].thumbnail, copy.thumbnail]
            one, other = reversed(pair) if more > 0 else pair
            if agree(one, [other], np.array([more == 0]), mirrored=mirrored)[0]:
                found.add(candidate)
        self.rows[name].append((place in candidates, place in found))
        self.false.update((place, other) for other in found - {place})


def blank(data: bytes) -> bool:
    return float(np.asarray(Image.open(io.BytesIO(data)).convert("L")).std()) < 5


def measure(paths: list[Path]) -> None:
    """Print recall by kind of copy, and precision."""
    files = {path: stored(jpeg(opened(path), 90)) for path in paths}
    distinct = {data: path for path, data in reversed(files.items()) if not blank(data)}
    paths = sorted(distinct.values())
    table = Table([signature(files[path]) for path in paths])
    mirrors = Table([signature(files[path], mirrored=True) for path in paths])
    print(f"{len(paths)} pictures")
    for place, path in enumerate(paths):
        rng, picture = np.random.default_rng(place), opened(path)
        for name, (kind, change) in VARIANTS.items():
            changed = change(picture, rng)
            served = changed if isinstance(changed, bytes) else jpeg(changed, 85)
            copy = stored(served)
            if min(Image.open(io.BytesIO(copy)).size) < LEAST:
                continue
            mirrored, more = kind == "mirror", pixels(Image.open(io.BytesIO(served))) - pixels(picture)
            one = signature(copy, mirrored=mirrored)
            (mirrors if mirrored else table).look_for(name, place, one, mirrored=mirrored, more=more)

    kinds: defaultdict[str, list[bool]] = defaultdict(list)
    print(f"\n{'copy':24} {'number':>6} {'by keys':>8} {'recall':>7}")
    for name, (kind, _) in VARIANTS.items():
        rows = (table.rows | mirrors.rows)[name]
        kinds[kind] += [found for _, found in rows]
        near, found = np.mean(rows, axis=0)
        print(f"{name:24} {len(rows):6} {near:8.3f} {found:7.3f}")
    print()
    for kind, found in kinds.items():
        print(f"recall of {kind}: {np.mean(found):.3f}")
    for (place, other), count in (table.false + mirrors.false).most_common(12):
        print(f"different, but merged {count} times: {paths[place].name} and {paths[other].name}")
    true, false = sum(map(sum, kinds.values())), table.false.total() + mirrors.false.total()
    print(f"precision: {true / (true + false):.4f} ({false} of {true + false} merges are of different pictures)")


def measure_words(paths: list[Path]) -> None:
    """Print the share of pictures that differ in words only which are kept apart."""
    groups: defaultdict[tuple[str, int], list[Signature]] = defaultdict(list)
    for kind, group, data in same_but_words([opened(path) for path in paths[:TEMPLATES]], EACH):
        groups[kind, group].append(signature(data))
    kept: defaultdict[str, list[bool]] = defaultdict(list)
    for (kind, _), members in groups.items():
        for one, other in combinations(members, 2):
            kept[kind].append(not (is_near(one, other) and same(one.thumbnail, [other.thumbnail])[0]))
    print()
    for kind, answers in kept.items():
        print(f"kept apart, {kind}: {np.mean(answers):.3f} of {len(answers)} pairs")


def measure_speed(paths: list[Path]) -> None:
    """Print the CPU time of hashes of stored JPEGs, interleaved with imagehash's, and how far apart they are."""
    files = [stored(jpeg(opened(path), 90)) for path in paths[:100]]
    spent: Counter[str] = Counter()
    distances = []
    for data in files * 3:
        begin = time.process_time()
        theirs = imagehash.phash(Image.open(io.BytesIO(data)))
        middle = time.process_time()
        ours = phash_of(data)
        end = time.process_time()
        signature(data)
        spent += Counter({"imagehash": middle - begin, "hash": end - middle, "signature": time.process_time() - end})
        if not blank(data):
            distances.append((int(str(theirs), 16) ^ ours).bit_count())
    each = {name: seconds / len(files) / 3 * 1e6 for name, seconds in spent.items()}
    print(f"\nimagehash {each['imagehash']:.0f} us, hash {each['hash']:.0f} us, signature {each['signature']:.0f} us")
    print(f"hash: {each['imagehash'] / each['hash']:.2f} x imagehash, mean distance {np.mean(distances):.2f} bits")
    size = np.mean([len(signature(data).thumbnail) for data in files])
    print(f"{np.mean([len(signature(data).all_keys) for data in files]):.1f} keys, thumbnail {size:.0f} bytes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, nargs="+", required=True, help="folders of PNG files")
    parser.add_argument("--half", choices=["odd", "even", "all"], default="even")
    parser.add_argument("--count", type=int, default=250, help="pictures of each folder")
    parser.add_argument("--in-a-folder", type=int, default=IN_A_FOLDER, help="pictures of one folder, at most")
    arguments = parser.parse_args()
    Image.MAX_IMAGE_PIXELS = None
    chosen = [pictures(folder, arguments.half, arguments.count, arguments.in_a_folder) for folder in arguments.pictures]
    measure_speed(chosen[0])
    measure_words(chosen[0])
    measure([path for paths in chosen for path in paths])


if __name__ == "__main__":
    main()
