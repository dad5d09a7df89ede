"""Captions are read as the scene they were made of, and nothing else is."""

from open_clip.tokenizer import SimpleTokenizer

from workflows.demo.reading import read
from workflows.demo.scenes import captions, compose, full_captions


def test_every_caption_says_its_scene():
    said, clip = set(), SimpleTokenizer()
    for seed in range(300):
        scene = compose(seed)
        for caption in captions(scene) + full_captions(scene):
            found = read(caption.upper().replace(",", " ,"))
            assert found is not None, caption
            assert read(clip.decode(clip.encode(caption))) == found, caption
            assert found == {name: getattr(scene, name) for name in found}
            said |= {*found}
        assert all(len(read(caption)) == 6 for caption in full_captions(scene))
    assert said == {"shape", "colour", "size", "texture", "position", "background"}


def test_other_texts_say_nothing():
    for text in (
        "", "red circle", "a picture of a small red circle and more", "a small red circle at the top left",
        "a red circle on a cream background background", "there is no red circle at the top of this rose card",
        "a reddish circle on a cream background", "a red circles on a cream background",
    ):  # fmt: skip
        assert read(text) is None, text
