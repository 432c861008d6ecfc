from __future__ import annotations

import gzip
import hashlib
import random
import subprocess
import sys
import unicodedata
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import CLIPTokenizer

from comfy import clip_tokens
from comfy.clip_tokens import clip_bpe, words_of

# Blocks that have not changed since old versions of Unicode, whose tables libraries differ in.
BLOCKS = [
    (0x20, 0x24F),
    (0x300, 0x33F),
    (0x391, 0x3C9),
    (0x400, 0x481),
    (0x905, 0x939),
    (0x966, 0x96F),
    (0x2010, 0x2027),
    (0x2150, 0x2182),
    (0x3041, 0x3096),
    (0x4E00, 0x9FA5),
    (0xAC00, 0xD7A3),
    (0x1F600, 0x1F64F),
]
TEXTS = [
    "a photo of a cat",
    "it's WE'LL i'm don't they've 'sup 's",
    "1girl, blue_eyes, 4k 8K",
    "naïve café, Å and ﬁ",
    "ΟΔΥΣΣΕΥΣ İstanbul ẞ Ω",
    "½ ²³ Ⅷ १२३",
    "日本語 テスト 한국어",
    "👍🏽 👨\u200d👩\u200d👧",
    "don\u2019t \u201cquote\u201d — …",
    "a\nb\tc\u00a0d\u3000e\x85f\x1cg",
    "...!!!???___",
    "a" * 300,
    "",
    " ",
]


@pytest.fixture(scope="module")
def reference() -> CLIPTokenizer:
    """The transformers library's own tokenizer over our vocabulary."""
    with gzip.open(clip_tokens.MERGES_FILE, "rt", encoding="utf-8") as lines:
        merges = [tuple(line.split()) for line in lines]
    return CLIPTokenizer(vocab=clip_bpe().get_vocab(), merges=merges)


def mixed_text(seed: int) -> str:
    chooser = random.Random(seed)
    length = chooser.randrange(1, 30)
    return "".join(chr(chooser.randint(*chooser.choice(BLOCKS))) for _ in range(length))


@pytest.mark.parametrize("text", TEXTS)
def test_ids_equal_those_of_transformers(reference: CLIPTokenizer, text: str) -> None:
    assert clip_bpe()(text)["input_ids"] == reference(text)["input_ids"]


@pytest.mark.parametrize("seed", range(200))
def test_ids_of_mixed_scripts_equal_those_of_transformers(
    reference: CLIPTokenizer, seed: int
) -> None:
    text = mixed_text(seed)
    assert clip_bpe()(text)["input_ids"] == reference(text)["input_ids"]


@pytest.mark.parametrize(
    ("symbol", "token"),
    [("!", 0), ("!</w>", 256), ("in", 512), ("jekyll</w>", 49405), ("<|endoftext|>", 49407)],
)
def test_vocabulary_has_its_symbols_at_their_ids(symbol: str, token: int) -> None:
    vocabulary = clip_bpe().get_vocab()
    assert len(vocabulary) == 49408
    assert vocabulary[symbol] == token


def test_merges_are_the_ones_that_the_notice_names() -> None:
    notice = clip_tokens.MERGES_FILE.with_name("NOTICE").read_text(encoding="utf-8")
    digest = hashlib.sha256(gzip.decompress(clip_tokens.MERGES_FILE.read_bytes())).hexdigest()
    assert digest in notice


@pytest.mark.parametrize("marker", ["<|startoftext|>", "<|EndOfText|>"])
def test_markers_in_a_prompt_are_markers(marker: str) -> None:
    tokens = clip_bpe()(f"a {marker}b")["input_ids"]
    assert tokens[2] == clip_bpe().get_vocab()[marker.lower()]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("A  b\tc", ["a", "b", "c"]),
        ("don't", ["don", "'t"]),
        ("ab12", ["ab", "1", "2"]),
        ("x²y", ["x", "²", "y"]),
        ("blue_eyes!?", ["blue", "_", "eyes", "!?"]),
        ("e\u0301", ["é"]),
    ],
)
def test_text_is_split_into_words(text: str, words: list[str]) -> None:
    assert list(words_of(text)) == words


def test_every_character_is_split_by_its_category() -> None:
    wrong = []
    for code in range(0x80, 0x110000):
        char = chr(code)
        kind = unicodedata.category(char)[0]
        # Between letters a letter joins them, anything else parts them.
        if kind in "CZ" or len(clip_tokens.normalize(f"a{char}a")) != 3:
            continue
        if (len(list(words_of(f"a{char}a"))) == 1) != (kind == "L"):
            wrong.append(hex(code))
    assert wrong == []


@pytest.fixture(scope="module")
def ranks() -> dict[tuple[str, ...], int]:
    with gzip.open(clip_tokens.MERGES_FILE, "rt", encoding="utf-8") as lines:
        return {tuple(line.split()): rank for rank, line in enumerate(lines)}


def naive_merge(parts: list[str], ranks: dict[tuple[str, ...], int]) -> list[str]:
    while True:
        pairs = [(ranks.get(pair, len(ranks)), i) for i, pair in enumerate(pairwise(parts))]
        if not pairs or min(pairs)[0] == len(ranks):
            return parts
        place = min(pairs)[1]
        parts = [*parts[:place], parts[place] + parts[place + 1], *parts[place + 2 :]]


@settings(deadline=None, max_examples=200)
@given(word=st.text(alphabet="abcdeinorst", min_size=1, max_size=40))
def test_merging_takes_the_pair_of_lowest_rank_each_time(
    ranks: dict[tuple[str, ...], int], word: str
) -> None:
    parts = [*word[:-1], f"{word[-1]}</w>"]
    vocabulary = clip_bpe().get_vocab()
    assert clip_bpe().encode(word) == [vocabulary[part] for part in naive_merge(parts, ranks)]


@given(st.text(alphabet="abc xyz,.!1é日", max_size=30))
def test_decoding_gives_the_text_with_words_apart(text: str) -> None:
    assert clip_bpe().decode(clip_bpe().encode(text)) == " ".join(words_of(text))


def test_lone_surrogates_do_not_stop_a_prompt() -> None:
    assert clip_bpe().encode("a \ud800 b") == clip_bpe().encode("a ? b")


def test_the_vocabulary_is_not_read_at_import() -> None:
    code = (
        "import builtins, gzip\n"
        "gzip.open = builtins.open = None\n"
        "import comfy.clip_tokens\n"
        "assert comfy.clip_tokens.clip_bpe.cache_info().currsize == 0\n"
    )
    root = str(clip_tokens.MERGES_FILE.parents[3])
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True)
