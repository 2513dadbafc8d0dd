"""Requests for token ids, or for their text, answered by a model's tokenizer alone: no engine has a part in it."""

from collections.abc import Callable
from typing import Any

from illm.core.events import Delta, Done, Event, Tokens, Usage
from illm.core.requests import Detokenize, Message, Text, Tokenize
from illm.errors import GatewayError, Kind

Encode = Callable[[str, bool], list[int]]
"""Text into ids; whether with the tokenizer's own tokens around them.  Raises `GatewayError`."""

Write = Callable[[tuple[Message, ...]], list[int]]
"""A conversation into ids.  Raises `GatewayError`."""


def answer_tokens(
    request: Tokenize | Detokenize,
    *,
    tokenizer: Any,
    encode: Encode,
    write: Write | None,
    vocabulary: int,
    limit: int,
) -> tuple[Event, ...]:
    """Return the whole answer.

    Args:
        request: what is asked.
        tokenizer: of Transformers.
        encode, write: see `Encode` and `Write`; None where the model knows no conversations.
        vocabulary: how many token ids the model knows.
        limit: its context, in tokens.

    Raises:
        GatewayError: `INVALID_REQUEST` for what cannot be written as tokens, or for tokens that are none of its own.
    """
    if isinstance(request, Detokenize):
        return (Delta(0, _text(request, tokenizer, vocabulary)), Done(Usage()))
    if request.messages is None:
        ids = encode(request.prompt or "", request.special)
    elif write is None:
        raise GatewayError(Kind.CAPABILITY, "This model knows no conversations.", param="messages")
    else:
        _refuse_media(request.messages)
        ids = write(request.messages)
    strings = tuple(tokenizer.convert_ids_to_tokens(ids)) if request.strings else None
    return (Tokens(tuple(ids), limit, strings), Done(Usage(len(ids))))


def _refuse_media(messages: tuple[Message, ...]) -> None:
    for at, message in enumerate(messages):
        if not all(isinstance(part, Text) for part in message.content):
            name = f"messages[{at}].content"
            raise GatewayError(Kind.CAPABILITY, "Only text can be tokenised here.", param=name)


def _text(request: Detokenize, tokenizer: Any, vocabulary: int) -> str:
    wrong = next((at for at, token in enumerate(request.tokens) if token >= vocabulary), None)
    if wrong is not None:
        name = f"tokens[{wrong}]"
        message = f"{name}: token id {request.tokens[wrong]} is outside the vocabulary of {vocabulary}."
        raise GatewayError(Kind.INVALID_REQUEST, message, param=name)
    text: str = tokenizer.decode(request.tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return text
