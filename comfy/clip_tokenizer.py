"""Prompts to chunks of weighted tokens, for one text encoder."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from comfy.clip_chunks import ChunkFormat, Token, chunks_of
from comfy.clip_tokens import clip_bpe
from comfy.prompt_weights import parse_prompt
from comfy.textual_inversion import (
    IDENTIFIER,
    Directories,
    find_embedding,
    load_embed,
    split_embeddings,
)

logger = logging.getLogger(__name__)

SPECIAL_TOKENS: Mapping[str, int] = {"start": 49406, "end": 49407, "pad": 49407}
OPEN_CLIP_SPECIAL_TOKENS: Mapping[str, int] = {**SPECIAL_TOKENS, "pad": 0}


class SDTokenizer:
    """Turns a prompt into chunks of weighted tokens.

    Args:
        embedding_directory: Where textual inversions are; None: ``embedding:`` has no meaning.
        embedding_size: Width of the text encoder, which vectors must have; `tokenizer_data` may
            give another under ``<embedding_key>_size``.
        embedding_key: Of this encoder in embedding files for several.
        pad_with_end: Pad with the end token; else with id 0.
        max_length: Tokens in a chunk.
        tokenizer_data: Facts of the loaded model.
    """

    def __init__(
        self,
        embedding_directory: Directories = None,
        embedding_size: int = 768,
        embedding_key: str = "clip_l",
        pad_with_end: bool = True,
        max_length: int = 77,
        tokenizer_data: Mapping[str, Any] | None = None,
    ) -> None:
        self.embedding_directory = embedding_directory
        self.embedding_size: int = (tokenizer_data or {}).get(
            f"{embedding_key}_size", embedding_size
        )
        self.embedding_key = embedding_key
        self.embedding_identifier = IDENTIFIER
        self.max_length = max_length
        self.max_word_length = 8
        self.start_token = SPECIAL_TOKENS["start"]
        self.end_token = SPECIAL_TOKENS["end"]
        self.pad_token = self.end_token if pad_with_end else 0

    @property
    def tokenizer(self) -> Any:
        """The byte-pair tokenizer; its vocabulary is read when it is first asked for."""
        return clip_bpe()

    @property
    def inv_vocab(self) -> dict[int, str]:
        """Symbols by id, as a new dict."""
        return {token: symbol for symbol, token in self.tokenizer.get_vocab().items()}

    def tokenize_with_weights(
        self, text: str, return_word_ids: bool = False, **kwargs: Any
    ) -> list[list[tuple[Any, ...]]]:
        """Tokenize a prompt; the syntax is that of `comfy.prompt_weights`.

        Args:
            text: The prompt.
            return_word_ids: Add the number of its word to each token, from 1; 0 for markers. A
                word is a segment of one weight, or a textual inversion.
            **kwargs: Options that other families' tokenizers know.

        Returns:
            Chunks of (id or vector, weight[, word]).
        """
        words = self._words(text)
        numbered: list[list[Token]] = [
            [(token, weight, number) for token in word]
            for number, (word, weight) in enumerate(words, start=1)
        ]
        form = ChunkFormat(
            self.start_token, self.end_token, self.pad_token, self.max_length, self.max_word_length
        )
        chunks = chunks_of(numbered, form)
        if return_word_ids:
            return [list(chunk) for chunk in chunks]
        return [[token[:2] for token in chunk] for chunk in chunks]

    def _words(self, text: str) -> list[tuple[list[Any], float]]:
        words: list[tuple[list[Any], float]] = []
        for segment, weight in parse_prompt(text):
            for part in self._parts(segment):
                if part.startswith(IDENTIFIER) and self.embedding_directory is not None:
                    vectors, part = self._embedding(part[len(IDENTIFIER) :])
                    words.append((vectors, weight))
                words.append((self._encode(part), weight))
        return [(tokens, weight) for tokens, weight in words if tokens]

    def _parts(self, segment: str) -> list[str]:
        return [segment] if self.embedding_directory is None else split_embeddings(segment)

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text)["input_ids"][1:-1]
        return ids

    def _embedding(self, text: str) -> tuple[list[torch.Tensor], str]:
        """Read ``name rest``: the vectors of that name, none if there are none, and the rest.

        Commas after a name belong to the prompt, unless there is a file so called.
        """
        name, rest = [*text.split(maxsplit=1), "", ""][:2]
        for candidate in dict.fromkeys((name, name.rstrip(","))):
            if find_embedding(candidate, self.embedding_directory) is None:
                continue
            vectors = load_embed(
                candidate, self.embedding_directory, self.embedding_size, self.embedding_key
            )
            return [] if vectors is None else list(vectors), f"{name[len(candidate) :]} {rest}"
        logger.warning("there is no embedding '%s'; it is left out of the prompt", name)
        return [], rest

    def untokenize(self, token_weight_pair: Sequence[Sequence[Any]]) -> list[tuple[Any, str]]:
        """Pair each token with its symbol; a vector's is empty."""
        symbols = self.inv_vocab
        return [
            (pair, symbols.get(pair[0], "") if isinstance(pair[0], int) else "")
            for pair in token_weight_pair
        ]

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint has to keep of the tokenizer: nothing, the vocabulary is CLIP's."""
        return {}


class OpenClipTokenizer(SDTokenizer):
    """The tokenizer of OpenCLIP's encoders, which pad with id 0; see `SDTokenizer`.

    Attributes:
        width: Of the text encoder.
        key: Of this encoder in embedding files for several.
    """

    width: int
    key: str

    def __init__(
        self,
        embedding_directory: Directories = None,
        tokenizer_data: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(
            embedding_directory,
            embedding_size=self.width,
            embedding_key=self.key,
            pad_with_end=False,
            tokenizer_data=tokenizer_data,
        )
