"""Learn merges for CLIP's tokenizer from the captions of shards, for ``train.model.merges``::

    python -m training.merges --shards /data/shards --vocabulary 8000 > merges.txt

CLIP's own are of English on the web. Captions of another language take fewer tokens by merges of their own, and of a
small set a vocabulary of some hundred tokens holds every word, where CLIP's 49,408 cost most of a small model.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator

from open_clip.tokenizer import SimpleTokenizer
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

from infra.errors import CliplineError, DataError
from infra.formats.merges import MOST, vocabulary
from infra.formats.shards import read_samples
from training.data.index import captions_of
from training.inputs import Inputs

__all__ = ["learn_merges"]

_FIXED = vocabulary(())


def learn_merges(captions: Iterable[str], size: int) -> tuple[str, ...]:
    """Merges of byte pair encoding for a vocabulary of at most ``size`` tokens, 515 to 49,408; fewer if words run out.

    Words are what CLIP's tokenizer takes for words, the same for the same captions in any order.
    Raises DataError if there is nothing to merge.
    """
    clip = SimpleTokenizer()
    words = pre_tokenizers.Split(Regex(clip.pat.pattern), "removed", invert=True)
    as_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.pre_tokenizer = pre_tokenizers.Sequence([words, as_bytes])
    # All 512 bytes first, as CLIP has them: so there are enough merges, and equally frequent pairs have an order.
    ends = [f"{byte}</w>" for byte in sorted(as_bytes.alphabet())]
    trainer = trainers.BpeTrainer(
        vocab_size=size - 2,
        end_of_word_suffix="</w>",
        initial_alphabet=as_bytes.alphabet(),
        special_tokens=ends,
        show_progress=False,
    )
    learner.train_from_iterator(map(clip.clean_fn, captions), trainer)
    pairs = json.loads(learner.to_str())["model"]["merges"]
    # A token that another pair has made before is that token.
    made = {first + second: f"{first} {second}" for first, second in reversed(pairs)}
    found = [merge for first, second in pairs if made[first + second] == (merge := f"{first} {second}")]
    if not found:
        raise DataError("there is nothing to merge", expected="captions with words", found="none")
    return tuple(found[: size - _FIXED])


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0].removesuffix("::"))
    parser.add_argument("--shards", nargs="+", required=True, help="tars, as clipline-train takes them")
    parser.add_argument("--caption-key", default="txt", help="as data.caption_key of the training")
    parser.add_argument("--vocabulary", type=int, default=8000, help=f"tokens, {_FIXED + 1} to {_FIXED + MOST}")
    args = parser.parse_args(arguments)
    if not 1 <= args.vocabulary - _FIXED <= MOST:
        parser.error(f"a vocabulary of {args.vocabulary} is not one of {_FIXED + 1} to {_FIXED + MOST} tokens")
    try:
        merges = learn_merges(_captions(args.shards, args.caption_key), args.vocabulary)
    except CliplineError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    sys.stdout.write("".join(f"{merge}\n" for merge in merges))
    return 0


def _captions(places: list[str], key: str) -> Iterator[str]:
    """All captions of shards; samples without one are passed over, as training passes over them."""
    extension = key.partition(":")[0]
    for shards in Inputs.at(places, None, {}).sources.values():
        for path in shards.paths:
            with shards.store.open(path) as tar:
                for sample in read_samples(tar, place=shards.store.locate(path)):
                    try:
                        yield from captions_of({extension: sample.get(extension, b"")}, key)
                    except ValueError:
                        continue


if __name__ == "__main__":
    sys.exit(main())
