"""CLIP's byte-pair encoding: text to token ids and back.

The vocabulary is 256 byte symbols, the same 256 at the end of a word, one symbol for each merge
in order of rank, and the two markers of start and end: 49,408 ids. Only the merges are stored;
`text_encoders/clip_vocab/NOTICE` says where they come from.
"""

from __future__ import annotations

import functools
import gzip
import heapq
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

MERGES_FILE = Path(__file__).with_name("text_encoders") / "clip_vocab" / "merges.txt.gz"

START_TEXT, END_TEXT = "<|startoftext|>", "<|endoftext|>"
END_OF_WORD = "</w>"

# Unicode's White_Space; `\s` of `re` has four control characters more.
_WHITE = re.compile("[\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+")
# `[^\W\d_]` is a letter, or a numeral that is no decimal digit: `_split_numerals` parts them.
_WORD = re.compile(
    r"<\|startoftext\|>|<\|endoftext\|>|'(?:s|t|re|ve|m|ll|d)|[^\W\d_]+|\d|(?:[^\w ]|_)+"
)
_WORD_CACHE = 1 << 16


def byte_symbols() -> dict[int, str]:
    """The character that stands for each byte, in the order of their ids.

    Printable bytes stand for themselves and come first; the others follow as U+0100 and up.
    """
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = sorted(set(range(256)) - set(printable))
    return {byte: chr(byte) for byte in printable} | {
        byte: chr(256 + index) for index, byte in enumerate(hidden)
    }


def normalize(text: str) -> str:
    """Compose (NFC), make each run of white space one space, and lower each character's case."""
    text = _WHITE.sub(" ", unicodedata.normalize("NFC", text))
    # Character by character: `lower` of a whole string knows a final sigma, CLIP does not.
    return text.lower() if text.isascii() else "".join(map(str.lower, text))


def words_of(text: str) -> Iterator[str]:
    """Split text, which is normalized first, into what is encoded apart from its neighbours."""
    for match in _WORD.finditer(normalize(text)):
        word = match.group()
        if word.isascii() or word.isalpha():
            yield word
        else:
            yield from _split_numerals(word)


def _split_numerals(word: str) -> Iterator[str]:
    letters = ""
    for char in word:
        if not unicodedata.category(char).startswith("N"):
            letters += char
            continue
        if letters:
            yield letters
        letters = ""
        yield char
    if letters:
        yield letters


class ClipBpe:
    """CLIP's tokenizer, called as those of the transformers library are.

    Args:
        merges: Pairs of symbols, ``"a b"``, in order of rank.

    Note:
        Safe to share between threads: the only thing that changes is a cache.
    """

    def __init__(self, merges: Iterable[str]) -> None:
        pairs = [(left, right) for left, right in map(str.split, merges)]
        self._of_byte = byte_symbols()
        symbols = list(self._of_byte.values())
        self._byte_of = {char: byte for byte, char in self._of_byte.items()}
        self._ranks = {pair: rank for rank, pair in enumerate(pairs)}
        self._symbols = [
            *symbols,
            *(char + END_OF_WORD for char in symbols),
            *(left + right for left, right in pairs),
            START_TEXT,
            END_TEXT,
        ]
        self._ids = {symbol: token for token, symbol in enumerate(self._symbols)}
        self.start_token = self._ids[START_TEXT]
        self.end_token = self._ids[END_TEXT]
        self._encode_word = functools.lru_cache(maxsize=_WORD_CACHE)(self._merge_word)

    def __call__(self, text: str) -> dict[str, Any]:
        """Encode: ``{"input_ids": [start, ..., end]}``."""
        return {"input_ids": [self.start_token, *self.encode(text), self.end_token]}

    def get_vocab(self) -> dict[str, int]:
        """All symbols with their ids, as a new dict."""
        return dict(self._ids)

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, without start and end."""
        return [token for word in words_of(text) for token in self._encode_word(word)]

    def decode(self, tokens: Sequence[int]) -> str:
        """The text that `tokens` stand for, in lower case, words parted by one space."""
        joined = "".join(self._symbols[token] for token in tokens)
        for marker in (START_TEXT, END_TEXT):
            joined = joined.replace(marker, "")
        parts = joined.split(END_OF_WORD)
        raw = (bytes(self._byte_of[char] for char in part) for part in parts)
        return b" ".join(raw).decode("utf-8", errors="replace").rstrip(" ")

    def _merge_word(self, word: str) -> tuple[int, ...]:
        if word in (START_TEXT, END_TEXT):
            return (self._ids[word],)
        parts = [self._of_byte[byte] for byte in word.encode("utf-8", errors="replace")]
        parts[-1] += END_OF_WORD
        return tuple(self._ids[part] for part in self._merge(parts))

    def _merge(self, parts: list[str]) -> list[str]:
        """Join the neighbours of lowest rank, leftmost first, until no pair has a rank.

        A heap of candidates over a linked list: n log n, where a search for the minimum after
        each merge takes seconds for a few thousand characters without a space.
        """
        after = [*range(1, len(parts)), -1]
        before = [-1, *range(len(parts) - 1)]
        heap: list[tuple[int, int, str, str]] = []

        def offer(left: int, right: int) -> None:
            if left >= 0 and right >= 0:
                rank = self._ranks.get((parts[left], parts[right]))
                if rank is not None:
                    heapq.heappush(heap, (rank, left, parts[left], parts[right]))

        for index in range(len(parts) - 1):
            offer(index, index + 1)
        while heap:
            _, left, first, second = heapq.heappop(heap)
            right = after[left]
            if right < 0 or parts[left] != first or parts[right] != second:
                continue  # one of the two has been joined to something else
            parts[left], parts[right] = first + second, ""
            after[left] = after[right]
            if after[right] >= 0:
                before[after[right]] = left
            offer(before[left], left)
            offer(left, after[left])
        return [part for part in parts if part]


@functools.lru_cache(maxsize=1)
def clip_bpe() -> ClipBpe:
    """The tokenizer with CLIP's own vocabulary; read from its file on the first call."""
    with gzip.open(MERGES_FILE, "rt", encoding="utf-8") as lines:
        return ClipBpe(lines)
