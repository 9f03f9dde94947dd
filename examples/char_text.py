"""Text as numbers, for `char_transformer.py`, and what one learns of a text by counting alone."""

from pathlib import Path
from pydoc_data.topics import topics
from typing import NamedTuple

import numpy as np

HELD_OUT = 0.1
SMOOTHING = 0.01


class Corpus(NamedTuple):
    """A text in two parts: the last tenth of its paragraphs is kept for the test."""

    characters: str
    """The vocabulary: the id of a character is its place here."""
    train: np.ndarray
    test: np.ndarray

    def encode(self, text: str) -> np.ndarray:
        """Ids of characters, all of which must be in the vocabulary."""
        if unknown := set(text) - set(self.characters):
            raise ValueError(f"not in the text that was learnt: {''.join(sorted(unknown))!r}")
        return np.array([self.characters.index(each) for each in text], np.int32)

    def decode(self, ids: np.ndarray) -> str:
        return "".join(self.characters[i] for i in ids.tolist())


def read(file: Path | None = None) -> Corpus:
    """A text file; by default the reference of the Python language, which every Python carries.

    Topics quote each other. A paragraph counts once, or the test would hold what was learnt.
    """
    text = (
        "\n\n".join(topics[name] for name in sorted(topics))
        if file is None
        else file.read_text("utf-8")
    )
    blocks = (block.strip("\n") for block in text.split("\n\n"))
    paragraphs = list(dict.fromkeys(block for block in blocks if block))
    characters = "".join(sorted(set("".join(paragraphs)) | {"\n"}))
    number = np.zeros(1 + max(map(ord, characters)), np.int32)
    number[[ord(each) for each in characters]] = np.arange(len(characters))
    split = round(len(paragraphs) * (1 - HELD_OUT))
    parts = ("\n\n".join(part) for part in (paragraphs[:split], paragraphs[split:]))
    return Corpus(characters, *(number[[ord(each) for each in part]] for part in parts))


def n_gram_loss(corpus: Corpus, n: int) -> float:
    """What a character of the test costs, in nats, if the n - 1 before it are all that is known.

    Its probability is how often it followed them in the text to learn from; SMOOTHING is added to
    what was counted, so that nothing is impossible.
    """
    size = len(corpus.characters)

    def coded(ids: np.ndarray) -> np.ndarray:
        """Each n successive characters as one number."""
        grams = np.lib.stride_tricks.sliding_window_view(ids.astype(np.int64), n)
        return grams @ size ** np.arange(n - 1, -1, -1)

    learnt, asked = coded(corpus.train), coded(corpus.test)
    followed = occurrences(asked, learnt) + SMOOTHING
    contexts = occurrences(asked // size, learnt // size) + SMOOTHING * size
    return -float(np.mean(np.log(followed / contexts)))


def occurrences(of: np.ndarray, among: np.ndarray) -> np.ndarray:
    """How often each number is among others."""
    values, counts = np.unique(among, return_counts=True)
    place = np.minimum(np.searchsorted(values, of), len(values) - 1)
    return np.where(values[place] == of, counts[place], 0)
