"""Which bytes each token stands for: what a grammar engine has to know of a tokenizer.

Made from the vocabulary alone, so that the grammar engine needs no second copy of the tokenizer: for a vocabulary of
262,144 tokens that copy would cost seconds and hundreds of megabytes.
"""

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_WORD_START = "\u2581"


class UnknownSpelling(ValueError):  # noqa: N818  # names the thing refused
    """The tokenizer's way of spelling bytes is none of those known here."""


def token_bytes(tokenizer: Any) -> list[bytes]:
    """Return the bytes of each token by its id; control tokens and holes in the vocabulary are empty.

    Args:
        tokenizer: a fast Transformers tokenizer: byte-level, or SentencePiece's spelling with or without byte fallback.

    Raises:
        UnknownSpelling: it is neither.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    decoder = None if backend is None else backend.decoder
    if decoder is None:
        raise UnknownSpelling("it has no decoder")
    steps = list(_steps(json.loads(decoder.__getstate__())))
    kinds = {step["type"] for step in steps}
    spaced = "Metaspace" in kinds or any(
        step["type"] == "Replace" and step["pattern"].get("String") == _WORD_START for step in steps
    )
    if "ByteLevel" in kinds:
        spell = _byte_level
    elif spaced:
        spell = _with_fallback if "ByteFallback" in kinds else _spaced
    else:
        raise UnknownSpelling(f"its decoder is {', '.join(sorted(kinds))}")
    vocabulary = tokenizer.get_vocab()
    added = tokenizer.added_tokens_decoder
    table = [b""] * (max((*vocabulary.values(), *added), default=-1) + 1)
    for text, token in vocabulary.items():
        table[token] = spell(text)
    for token, known in added.items():
        table[token] = b"" if known.special else known.content.encode()
    return table


def _steps(decoder: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if decoder["type"] == "Sequence":
        for step in decoder["decoders"]:
            yield from _steps(step)
    else:
        yield decoder


def _alphabet() -> dict[str, int]:
    """GPT-2's alphabet: printable Latin-1 stands for itself, the other bytes for the characters from 256 on."""
    printable: Iterable[int] = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))
    table = {chr(byte): byte for byte in printable}
    others = [byte for byte in range(256) if byte not in table.values()]
    return table | {chr(256 + at): byte for at, byte in enumerate(others)}


_ALPHABET = _alphabet()


def _byte_level(text: str) -> bytes:
    try:
        return bytes(_ALPHABET[char] for char in text)
    except KeyError:  # a token that was added without being spelt
        return text.encode()


def _spaced(text: str) -> bytes:
    return text.replace(_WORD_START, " ").encode()


def _with_fallback(text: str) -> bytes:
    byte = _BYTE.fullmatch(text)
    return _spaced(text) if byte is None else bytes([int(byte[1], 16)])
