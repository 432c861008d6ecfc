from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from comfy.clip_tokenizer import SDTokenizer
from comfy.clip_tokens import clip_bpe
from comfy.sd1_clip import SD1Tokenizer
from comfy.sdxl_clip import SDXLRefinerTokenizer, SDXLTokenizer
from comfy.text_encoders.sd2_clip import SD2Tokenizer

REFERENCE = json.loads((Path(__file__).parents[1] / "data" / "clip_tokens.json").read_text())
FAMILIES = {"sd1": SD1Tokenizer, "sdxl": SDXLTokenizer}
CAT = clip_bpe().encode("cat")


def expected(chunk: dict[str, Any]) -> list[tuple[int, float, int]]:
    """The chunk that a line of the reference stands for."""
    padding = chunk["length"] - len(chunk["ids"])
    ids = chunk["ids"] + [chunk["pad_with"]] * padding
    words = chunk["word_ids"] + [0] * padding
    weights = [chunk["weights_not_1"].get(str(place), 1.0) for place in range(len(ids))]
    return list(zip(ids, weights, words, strict=True))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("prompt", REFERENCE["prompts"])
def test_tokens_are_comfyuis(family: str, prompt: str) -> None:
    chunks = FAMILIES[family]().tokenize_with_weights(prompt, return_word_ids=True)
    wanted = REFERENCE["prompts"][prompt][family]
    assert list(chunks) == list(wanted)
    for name in wanted:
        rounded = [[(t, round(w, 6), n) for t, w, n in chunk] for chunk in chunks[name]]
        assert rounded == [expected(chunk) for chunk in wanted[name]]


@pytest.mark.parametrize(
    ("tokenizer", "name", "pad"),
    [(SD1Tokenizer, "l", 49407), (SD2Tokenizer, "h", 0), (SDXLRefinerTokenizer, "g", 0)],
)
def test_each_family_pads_in_its_way(tokenizer: Any, name: str, pad: int) -> None:
    [chunk] = tokenizer().tokenize_with_weights("")[name]
    assert chunk == [(49406, 1.0), (49407, 1.0), *[(pad, 1.0)] * 75]


def test_word_numbers_are_left_out_unless_asked_for() -> None:
    plain = SDTokenizer().tokenize_with_weights("a (cat:1.2)")
    numbered = SDTokenizer().tokenize_with_weights("a (cat:1.2)", return_word_ids=True)
    assert plain == [[token[:2] for token in chunk] for chunk in numbered]


def test_long_prompts_take_several_chunks() -> None:
    chunks = SDTokenizer().tokenize_with_weights("cat " * 160)
    assert [len(chunk) for chunk in chunks] == [77, 77, 77]
    assert sum(token == CAT[0] for chunk in chunks for token, _ in chunk) == 160


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_file({"emb_params": torch.ones(2, 768)}, tmp_path / "two.safetensors")
    save_file({"emb_params": torch.ones(1, 768)}, tmp_path / "comma,.safetensors")
    save_file({"emb_params": torch.ones(1, 5)}, tmp_path / "narrow.safetensors")
    save_file(
        {"clip_l": torch.ones(1, 768), "clip_g": torch.full((3, 1280), 2.0)},
        tmp_path / "both.safetensors",
    )
    return tmp_path


def written(chunk: list[Any]) -> str:
    """The chunk's content as text: an id by its symbol, a vector as V."""
    symbols = SDTokenizer().inv_vocab
    inner = [token for token, _, number in chunk if number]
    return "".join(
        "V " if isinstance(token, torch.Tensor) else symbols[token].replace("</w>", " ")
        for token in inner
    ).rstrip()


@pytest.mark.parametrize(
    ("prompt", "content"),
    [
        ("embedding:two", "V V"),
        ("a embedding:two cat", "a V V cat"),
        ("a\nembedding:two\ncat", "a V V cat"),
        ("embedding:two, cat", "V V , cat"),
        ("embedding:two,, cat", "V V ,, cat"),
        ("embedding:comma, cat", "V cat"),
        ("embedding:two.safetensors", "V V"),
        ("(embedding:two:1.5) cat", "V V cat"),
        ("embedding:two embedding:both", "V V V"),
        ("xembedding:two", "xembedding : two"),
        ("embedding:absent cat", "cat"),
        ("embedding:narrow cat", "cat"),
        ("embedding:../two cat", "cat"),
        ("embedding:", ""),
    ],
)
def test_embeddings_stand_where_they_are_named(folder: Path, prompt: str, content: str) -> None:
    [chunk] = SDTokenizer(folder / "").tokenize_with_weights(prompt, return_word_ids=True)
    assert written(chunk) == content
    assert len(chunk) == 77


def test_vectors_of_one_embedding_are_one_word_of_one_weight(folder: Path) -> None:
    tokenizer = SDTokenizer(folder)
    [chunk] = tokenizer.tokenize_with_weights("cat (embedding:two:1.5) cat", return_word_ids=True)
    assert [(weight, number) for _, weight, number in chunk[1:5]] == [
        (1.0, 1),
        (1.5, 2),
        (1.5, 2),
        (1.0, 3),
    ]


@pytest.mark.parametrize("prompt", ["embedding:absent cat", "embedding:../two"])
def test_missing_embeddings_are_told_by_name(
    folder: Path, prompt: str, caplog: pytest.LogCaptureFixture
) -> None:
    SDTokenizer(folder).tokenize_with_weights(prompt)
    [message] = caplog.messages
    assert f"'{prompt.split(':')[1].split()[0]}'" in message


def test_without_directories_the_word_has_no_meaning() -> None:
    [chunk] = SDTokenizer().tokenize_with_weights("embedding:two", return_word_ids=True)
    assert written(chunk) == "embedding : two"


def test_width_of_a_narrow_model_comes_from_its_facts(folder: Path) -> None:
    tokenizer = SDTokenizer(folder, tokenizer_data={"clip_l_size": 5})
    [chunk] = tokenizer.tokenize_with_weights("embedding:narrow", return_word_ids=True)
    assert written(chunk) == "V"


def test_each_encoder_of_sdxl_takes_its_own_vectors(folder: Path) -> None:
    tokens = SDXLTokenizer(folder).tokenize_with_weights("embedding:both")
    assert [t.shape for t, _ in tokens["l"][0] if isinstance(t, torch.Tensor)] == [(768,)]
    assert [t.shape for t, _ in tokens["g"][0] if isinstance(t, torch.Tensor)] == [(1280,)] * 3


def test_untokenize_gives_symbols() -> None:
    pairs = [(CAT[0], 1.0), (torch.zeros(768), 1.0)]
    assert SD1Tokenizer().untokenize(pairs) == [(pairs[0], "cat</w>"), (pairs[1], "")]


def test_checkpoints_keep_nothing_of_a_tokenizer() -> None:
    assert SD1Tokenizer().state_dict() == SDXLTokenizer().state_dict() == {}
