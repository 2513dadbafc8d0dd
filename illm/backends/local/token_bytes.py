"""The bytes that a token stands for, also where they are only a part of a character.

Decoding a token by itself loses them: half a character comes out as U+FFFD.  A tokenizer's vocabulary spells its
tokens out, in one of two ways: byte-level ones (GPT-2's) with a printable character for each byte, the others
(SentencePiece's) with U+2581 for a space and `<0x0A>` for a byte that stands alone.
"""

import json
import re
from typing import Any

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
_SPACE = "\u2581"


class TokenBytes:
    """One tokenizer's tokens, as bytes.

    Args:
        tokenizer: a Transformers tokenizer; it is not changed.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._known: dict[int, bytes] = {}
        self._spelled = _SPELLINGS.get(_decoder(tokenizer))

    def __call__(self, token: int) -> bytes:
        """Return the bytes of one token; none for an id that is no token."""
        known = self._known.get(token)
        if known is None:
            known = self._known[token] = self._look_up(token)
        return known

    def table(self) -> list[bytes] | None:
        """Return the bytes of every token by its id; none for control tokens and ids that are no token.

        None where it is not known how the tokenizer spells: then nothing says where a character is cut in two.
        """
        if self._spelled is None:
            return None
        added = self._tokenizer.added_tokens_decoder
        vocabulary = self._tokenizer.get_vocab()
        table = [b""] * (max((*vocabulary.values(), *added), default=-1) + 1)
        for spelled, token in vocabulary.items():
            table[token] = self._spelled(spelled)
        for token, known in added.items():
            table[token] = b"" if known.special else known.content.encode()
        return table

    def text(self, token: int) -> str:
        """Return the same as text, spaces included; what is no whole character comes out as U+FFFD."""
        return self(token).decode(errors="replace")

    def _look_up(self, token: int) -> bytes:
        if self._spelled is None:
            text: str = self._tokenizer.decode([token], skip_special_tokens=False, clean_up_tokenization_spaces=False)
            return text.encode(errors="replace")
        spelled = self._tokenizer.convert_ids_to_tokens(token)
        return b"" if spelled is None else self._spelled(spelled)


def _decoder(tokenizer: Any) -> str:
    """Return which of the known decoders the tokenizer ends with, or an empty string."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return ""
    # Its own state, as a whole tokenizer can be tens of megabytes of JSON.
    decoder = {} if backend.decoder is None else json.loads(backend.decoder.__getstate__())
    kinds = {decoder.get("type"), *(part.get("type") for part in decoder.get("decoders") or ())}
    return next((kind for kind in _SPELLINGS if kind in kinds), "")


def _printable_bytes() -> dict[str, int]:
    """Return GPT-2's alphabet: printable bytes stand for themselves, the others for what comes after Latin-1."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = (byte for byte in range(256) if byte not in printable)
    return {chr(byte): byte for byte in printable} | {chr(256 + at): byte for at, byte in enumerate(others)}


_ALPHABET = _printable_bytes()


def _byte_level(spelled: str) -> bytes:
    if all(character in _ALPHABET for character in spelled):
        return bytes(_ALPHABET[character] for character in spelled)
    return spelled.encode()  # added later, and so spelled as it is


def _sentence_piece(spelled: str) -> bytes:
    alone = _BYTE.fullmatch(spelled)
    return bytes.fromhex(alone[1]) if alone else spelled.replace(_SPACE, " ").encode()


_SPELLINGS = {"ByteLevel": _byte_level, "ByteFallback": _sentence_piece, "Metaspace": _sentence_piece}
