"""The sampler, the index and the pixels."""

import io
import shutil
import threading
from concurrent.futures import CancelledError
from fractions import Fraction

import numpy as np
import pytest
import torch
from nesting import nested
from PIL import Image

from infra.errors import ConfigError, DataError
from infra.formats.shards import TarWriter, read_samples
from infra.store import LocalStore
from training.config import Config
from training.data import shard_cache
from training.data.decode import CROP_DRAWS, decode, draw_crop, resize
from training.data.loader import Loader, _Prefetcher, draws, on_device
from training.data.sampler import Sampler, epoch_order
from training.data.samples import Samples, Shards
from training.data.shard_cache import Shard
from training.data.tokens import Tokenizer
from training.distributed.world import World

SIDE = (16, 16)


def tokens_of(text):
    return np.frombuffer(text.encode().ljust(16, b"\0")[:16], np.uint8).astype(np.int64)


def tokenize(texts):
    return np.stack([tokens_of(text) for text in texts])


def config(**changes):
    values = {
        "batch_size": 8,
        "seed": 3,
        "augment__crop_scale": (0.5, 1.0),
        "loading__threads": 2,
        "loading__max_corrupt": 5,
    }
    return Config(**nested({**values, **changes}))


def samples(place, **changes):
    store = LocalStore(place)
    shards = Shards(store, [path for path in store.paths() if path.endswith(".tar")])
    options = {"tokenize": Tokenizer(tokenize), "min_side": 16, "folder": place / "cache"} | changes
    return Samples(shards, World(), **options)


def load(source, start, stop, size=1, sampler=None, **changes):
    """The batches of all ranks put together: images and captions."""
    worlds = [World(rank=rank, size=size) for rank in range(size)]
    loaders = [Loader(source, config(**changes), world, SIDE, sampler) for world in worlds]
    parts = zip(*[loader.batches(start, stop) for loader in loaders], strict=True)
    batches = [
        tuple(np.concatenate([getattr(batch, name).numpy() for batch in ranks]) for name in ("images", "texts"))
        for ranks in parts
    ]
    return batches, [loader.corrupt for loader in loaders]


def test_the_index_finds_what_a_reader_finds(shards):
    source = samples(shards)
    expected = []
    for path in sorted(shards.rglob("*.tar")):
        with path.open("rb") as tar:
            expected += list(read_samples(tar))
    assert len(source) == len(expected) == 40
    texts = source.index.texts(np.arange(40), np.zeros(40))
    for number, sample in enumerate(expected):
        data = next(sample[extension] for extension in ("png", "jpg", "webp") if extension in sample)
        assert (source.image(number) == decode(data, 16)).all()
        assert (texts[number] == tokens_of(sample["txt"].decode())).all()


def test_an_epoch_sees_every_sample_once_and_epochs_differ():
    assert sorted(epoch_order(0, 0, 100)) == list(range(100))
    assert list(epoch_order(0, 0, 100)) != list(epoch_order(0, 1, 100)) != list(epoch_order(1, 1, 100))
    assert list(epoch_order(0, 0, 100)) == list(epoch_order(0, 0, 100))


@pytest.mark.parametrize("size", [2, 4])
def test_the_number_of_ranks_threads_and_the_cache_change_nothing(shards, size):
    expected, _ = load(samples(shards), 0, 96)
    found, _ = load(samples(shards, cache_bytes=20_000), 0, 96, size=size, loading__threads=3)
    assert len(expected) == 12
    for a, b in zip(expected, found, strict=True):
        assert (a[0] == b[0]).all()
        assert (a[1] == b[1]).all()


def test_it_starts_anywhere(shards):
    source = samples(shards)
    whole, tail = load(source, 0, 96)[0], load(source, 56, 96)[0]
    assert len(tail) == 5
    for a, b in zip(whole[7:], tail, strict=True):
        assert (a[0] == b[0]).all()


def test_crops_differ_between_epochs(shards):
    batches, _ = load(samples(shards), 0, 80)
    first, second = (np.concatenate([image for image, _ in part]) for part in (batches[:5], batches[5:]))
    same = np.argsort(epoch_order(3, 0, 40)), np.argsort(epoch_order(3, 1, 40))
    assert (first[same[0]] != second[same[1]]).any(axis=(1, 2, 3)).all()


@pytest.mark.parametrize("options", [{}, {"shuffle": "window", "window": 2, "batch": 12}, {"weights": [0.25, 0.75]}])
def test_any_plan_is_the_same_for_one_two_and_three_ranks(shards, options):
    store = LocalStore(shards)
    paths = [path for path in store.paths() if path.endswith(".tar")]
    sources = [Shards(store, paths[:1]), Shards(store, paths[1:])]
    source = Samples(sources, World(), tokenize=Tokenizer(tokenize), min_side=16, folder=shards / "cache")
    assert source.counts == [[14], [13, 13]]
    sampler = Sampler(source.counts, 3, **options)
    changes = {
        "augment__flip_prob": 0.5,
        "augment__color_jitter": (0.4, 0.4, 0.4, 0.1),
        "augment__gray_scale_prob": 0.2,
        "batch_size": 12,
    }
    expected, _ = load(source, 0, 120, sampler=sampler, **changes)
    numbers = sampler.numbers(np.arange(120))
    assert (np.concatenate([text for _, text in expected]) == source.index.texts(numbers, np.zeros(120))).all()
    for size in (2, 3):
        found, _ = load(source, 60, 120, size=size, sampler=sampler, **changes)
        for a, b in zip(expected[5:], found, strict=True):
            assert all((one == two).all() for one, two in zip(a, b, strict=True))


def test_pictures_side_by_side_are_augmented_alike(shards):
    """Each half as it would be alone: same crop, same size."""
    source = samples(shards)
    jitter = {"augment__color_jitter": (0.3, 0.3, 0.3, 0.1), "augment__color_jitter_prob": 1.0}
    vqa = {"objective": {"kind": "vqa", "answers": ("yes", "no"), "images": 2}}
    loader = Loader(source, config(**vqa, **jitter), World(), SIDE)
    batch, random = loader.load(32, 6), draws(loader.config.seed, 32, 6)
    assert batch.images.shape == (6, SIDE[0], 2 * SIDE[1], 3)
    for number, draw, found in zip(batch.numbers.tolist(), random.tolist(), batch.images.numpy(), strict=True):
        image = source.image(number)
        middle = round(image.shape[1] / 2)
        for half, part in zip((image[:, :middle], image[:, middle:]), np.split(found, 2, axis=1), strict=True):
            alone = np.empty((*SIDE, 3), np.uint8)
            loader.augment(half, draw, alone)
            assert (part == alone).all()


def test_batches_that_are_kept_stay_as_they_were(shards):
    loader = Loader(samples(shards), config(), World(), SIDE)
    kept = list(loader.batches(0, 96))
    copies = [batch.images.clone() for batch in kept]
    places = {batch.images.data_ptr() for batch in kept}
    views, kept = [batch.images[3:] for batch in kept[:2]], None
    again = list(loader.batches(0, 96))
    for batch, images in zip(again, copies, strict=True):
        assert batch.images.equal(images)
    for view, images in zip(views, copies, strict=False):
        assert view.equal(images[3:])
        assert view.data_ptr() not in {batch.images[3:].data_ptr() for batch in again}
    assert len(places & {batch.images.data_ptr() for batch in again}) == 10  # memory is used again


@pytest.mark.gpu
def test_batches_reach_the_gpu_as_they_were_made(shards):
    source = samples(shards)
    world = World(device=torch.device("cuda"))
    pairs = zip(
        Loader(source, config(), World(), SIDE).batches(0, 400),
        on_device(Loader(source, config(), world, SIDE).batches(0, 400), world.device),
        strict=True,
    )
    for expected, found in pairs:
        assert (found.images.device.type, found.texts.device.type) == ("cuda", "cpu")
        assert found.images.cpu().equal(expected.images)
        assert found.texts.equal(expected.texts)


def test_a_shard_that_is_lost_is_named(make_shards, tmp_path):
    source = samples(make_shards(tmp_path))
    (tmp_path / "data/train/00001.tar").unlink()
    with pytest.raises(DataError, match="does not exist any more") as error:
        load(source, 0, 40)
    assert "00001.tar" in error.value.found


def test_remote_shards_are_fetched_ahead_within_their_limit(make_shards, tmp_path, monkeypatch):
    folder = make_shards(tmp_path, samples=80, shards=8)
    store = LocalStore(folder)
    paths = [path for path in store.paths() if path.endswith(".tar")]
    sampler = Sampler([[10] * 8], 3, shuffle="window", window=2, batch=8)
    expected, _ = load(samples(folder), 0, 160, sampler=sampler)
    monkeypatch.setattr(Shard, "local", None)
    size = max(store.size(path) for path in paths)
    options = {"folder": tmp_path / "disk", "disk_bytes": 5 * size}
    source = samples(folder, **options)
    found, _ = load(source, 0, 160, size=2, sampler=sampler)
    for a, b in zip(expected, found, strict=True):
        assert (a[0] == b[0]).all()
    assert sum(path.stat().st_size for path in (tmp_path / "disk").rglob("*.tar")) <= 5 * size
    with pytest.raises(ConfigError, match="do not fit"):
        load(source, 0, 160)  # shuffled globally


def test_nodes_fetch_their_own_parts_of_a_window(make_shards, tmp_path, monkeypatch):
    folder = make_shards(tmp_path / "shards", samples=160, shards=32)
    sampler = Sampler([[5] * 32], 3, shuffle="window", window=8, batch=8)
    expected, _ = load(samples(folder, folder=tmp_path / "cache"), 0, 160, sampler=sampler)
    monkeypatch.setattr(Shard, "local", None)
    parts = []
    for rank in range(4):
        shutil.copytree(tmp_path / "cache/index", tmp_path / f"node-{rank}/index")  # to make one takes all shards
        source = samples(folder, folder=tmp_path / f"node-{rank}")
        batches = Loader(source, config(), World(rank=rank, size=4), SIDE, sampler).batches(0, 160)
        parts.append([batch.images.numpy() for batch in batches])
        assert len(list((tmp_path / f"node-{rank}/shards").rglob("*.tar"))) <= 16
    for (images, _), own in zip(expected, zip(*parts, strict=True), strict=True):
        assert (np.concatenate(own) == images).all()


def test_who_stops_waits_for_the_downloads_under_way_only(make_shards, tmp_path, monkeypatch):
    folder = make_shards(tmp_path / "shards", samples=40, shards=20)
    samples(folder, folder=tmp_path / "cache")
    monkeypatch.setattr(Shard, "local", None)
    source = samples(folder, folder=tmp_path / "cache")
    begun, gate, copy = [], threading.Event(), shard_cache._copy

    def slow(shard, to):
        begun.append(shard.path)
        assert gate.wait(60)
        return copy(shard, to)

    monkeypatch.setattr(shard_cache, "_copy", slow)
    prefetcher = _Prefetcher(source, Sampler(source.counts, 3), World())
    prefetcher.prefetch(0, 8)
    fetches = list(prefetcher._fetches)
    assert len(fetches) == 20
    leaving = threading.Thread(target=prefetcher.__exit__)
    leaving.start()
    with pytest.raises(CancelledError):
        fetches[-1].result(60)
    gate.set()
    leaving.join(60)
    assert not leaving.is_alive()
    assert len(begun) <= 4


def test_the_disk_must_hold_what_all_processes_of_a_node_need(make_shards, tmp_path, monkeypatch):
    folder = make_shards(tmp_path / "shards", samples=160, shards=32)
    sampler = Sampler([[5] * 32], 3, shuffle="window", window=8, batch=8)
    samples(folder, folder=tmp_path / "cache")
    monkeypatch.setattr(Shard, "local", None)
    largest = max(path.stat().st_size for path in folder.rglob("*.tar"))
    source = samples(folder, folder=tmp_path / "cache", disk_bytes=8 * largest)  # two windows need sixteen
    own = World(rank=1, size=4)
    assert own.node == (Fraction(1, 4), Fraction(1, 2))
    assert len(list(Loader(source, config(), own, SIDE, sampler).batches(0, 160))) == 20
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert own.node == (0, 1)
    with pytest.raises(ConfigError, match="do not fit"):
        next(Loader(source, config(), own, SIDE, sampler).batches(0, 160))


def test_corrupt_samples_are_replaced_by_the_next_and_counted(make_shards, tmp_path):
    source = samples(make_shards(tmp_path, damaged=(7, 8, 20)))
    expected, corrupt = load(source, 0, 80)
    assert corrupt == [{7, 8, 20}]
    captions = np.concatenate([text for _, text in expected[:5]])
    replacement = {7: 9, 8: 9, 20: 21}
    wanted = np.array([replacement.get(number, number) for number in epoch_order(3, 0, 40).tolist()])
    assert (captions == source.index.texts(wanted, np.zeros(40))).all()
    found, corrupt = load(source, 0, 80, size=2)
    assert set().union(*corrupt) == {7, 8, 20}
    for a, b in zip(expected, found, strict=True):
        assert (a[0] == b[0]).all()


def test_too_many_corrupt_samples_are_an_error_that_names_one(make_shards, tmp_path):
    source = samples(make_shards(tmp_path, damaged=tuple(range(6))))
    with pytest.raises(DataError, match="too many samples") as error:
        load(source, 0, 80)
    assert "00000.tar" in error.value.found


def test_samples_without_a_caption_are_counted(make_shards, tmp_path):
    source = samples(make_shards(tmp_path, bare=4))
    assert (len(source), source.incomplete) == (40, 4)


def test_no_shards_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no shards"):
        samples(tmp_path)


# --- pixels -----------------------------------------------------------------------------------------------------------


def smooth(side):
    y, x = np.mgrid[0:side, 0:side] / side
    return np.stack([255 * x, 255 * y, 127 + 120 * np.sin(6 * x + 4 * y)], axis=2).astype(np.uint8)


@pytest.mark.parametrize(("form", "extra"), [("PNG", {}), ("WEBP", {"lossless": True}), ("JPEG", {"quality": 95})])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_decoding_agrees_with_pillow(form, mode, extra):
    if mode == "CMYK" and form != "JPEG":
        pytest.skip("only JPEG knows it")
    data = io.BytesIO()
    Image.fromarray(smooth(64)).convert(mode).save(data, form, **extra)
    found = decode(data.getvalue(), 64)
    with Image.open(data) as image:
        expected = np.asarray(image.convert("RGB"))
    # Pillow inverts Adobe's CMYK without a profile, OpenCV does the same up to rounding.
    assert np.abs(found.astype(int) - expected).mean() < (4 if mode == "CMYK" else 1)


@pytest.mark.parametrize("form", ["AVIF", "TIFF", "GIF", "BMP", "PPM", "JPEG2000"])
def test_the_formats_of_downloads_are_decoded(form):
    data = io.BytesIO()
    Image.fromarray(smooth(64)).convert("P" if form == "GIF" else "RGB").save(data, form)
    with Image.open(data) as image:
        assert np.abs(decode(data.getvalue(), 64).astype(int) - np.asarray(image.convert("RGB"))).max() <= 1


def test_a_jpeg_with_stray_bytes_or_without_its_end_is_no_corrupt_sample():
    image = io.BytesIO()
    Image.fromarray(smooth(64)).save(image, "JPEG", quality=95)
    data = image.getvalue()
    for odd in (data[:20] + b"ab" + data[20:], data[:-2], data + bytes(99)):
        assert np.array_equal(decode(odd, 64), decode(data, 64))
    for cut in (data[: len(data) // 2], data[: len(data) // 2] + data[-2:]):
        with pytest.raises(ValueError, match="truncated"):
            decode(cut, 64)


def test_orientation_tags_are_ignored_as_open_clip_does():
    image = Image.fromarray(smooth(32)[:, :20])
    image.getexif()[0x0112] = 6
    for form in ("JPEG", "PNG"):
        data = io.BytesIO()
        image.save(data, form, exif=image.getexif())
        assert decode(data.getvalue(), 20).shape[:2] == (32, 20)


def test_a_large_jpeg_is_decoded_smaller_but_never_too_small():
    data = io.BytesIO()
    Image.fromarray(smooth(256)).save(data, "JPEG", quality=95)
    small = decode(data.getvalue(), 60)
    assert 60 <= small.shape[0] <= 70
    out = np.empty((60, 60, 3), np.uint8)
    resize(small, out)
    expected = np.asarray(Image.fromarray(smooth(256)).resize((60, 60), Image.Resampling.BICUBIC))
    assert np.abs(out.astype(int) - expected).mean() < 1


@pytest.mark.parametrize("data", [b"", b"GIF89a", b"\xff\xd8\xff\xe0 not a jpeg"])
def test_damage_is_a_value_error(data):
    with pytest.raises(ValueError):
        decode(data, 16)


def test_crops_follow_torchvisions_distribution():
    from torchvision.transforms import RandomResizedCrop

    scale, ratio, shape = (0.3, 1.0), (0.75, 4 / 3), (40, 60, 3)
    torch.manual_seed(0)
    image = torch.empty(3, 40, 60)
    theirs = np.array([RandomResizedCrop.get_params(image, scale, ratio) for _ in range(4000)], float)
    draws = np.random.default_rng(0).random((4000, CROP_DRAWS)).tolist()
    ours = np.array([draw_crop(own, shape, scale, ratio) for own in draws], float)
    assert (ours[:, 0] + ours[:, 2]).max() <= 40
    assert (ours[:, 1] + ours[:, 3]).max() <= 60
    error = np.sqrt(ours.var(axis=0) / 4000 + theirs.var(axis=0) / 4000)
    assert (np.abs(ours.mean(axis=0) - theirs.mean(axis=0)) < 4 * error).all()
    assert np.abs(ours.std(axis=0) / theirs.std(axis=0) - 1).max() < 0.06


def write_tar(path, names):
    with path.open("wb") as sink, TarWriter(sink) as tar:
        for name in names:
            tar.add(name, b"x")


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["0.jpg", "0.txt", "0.jpg", "0.txt"], "00000.tar: sample '0' has two members 'jpg'"),
        (["0.jpg", "1.jpg", "0.txt", "0.jpg"], "00000.tar: sample '0' has two members 'jpg'"),
        (["p.1.jpg", "p.1.txt", "p.2.jpg", "p.2.txt"], "'1.jpg' counts as the extension"),
    ],
)
def test_samples_that_would_be_lost_unseen_are_an_error(tmp_path, names, words):
    write_tar(tmp_path / "00000.tar", names)
    with pytest.raises(DataError, match=words):
        samples(tmp_path)


def test_a_bad_shard_is_named_wherever_it_is(tmp_path):
    write_tar(tmp_path / "00000.tar", ["0.jpg", "0.txt"])
    for content, words in [(b"", "0 bytes"), ((tmp_path / "00000.tar").read_bytes()[:1200], "ends in the middle")]:
        (tmp_path / "00001.tar").write_bytes(content)
        with pytest.raises(DataError, match=f"{tmp_path}/00001.tar: .*{words}"):
            samples(tmp_path)
