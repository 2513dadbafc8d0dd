"""`/tokenize` and `/detokenize`."""

from typing import Annotated, Any

import orjson
from msgspec import Meta, Struct

from illm.core import events
from illm.core.requests import Detokenize, Tokenize
from illm.dialects.openai.json_body import convert, invalid
from illm.dialects.openai.messages import WireMessage, to_message
from illm.dialects.openai.plain import MAX_MESSAGES
from illm.dialects.openai.prompts import TokenId
from illm.dialects.openai.sampling import Name

MAX_TOKENS = 1 << 20
"""Token ids that one request may have turned into text."""


class TokenizeWire(Struct, kw_only=True):
    """The JSON fields of a request to tokenise."""

    prompt: str | None = None
    messages: Annotated[list[WireMessage], Meta(min_length=1, max_length=MAX_MESSAGES)] | None = None
    add_special_tokens: bool | None = None
    return_token_strs: bool = False
    model: Name | None = None
    framework: Name | None = None


class DetokenizeWire(Struct, kw_only=True):
    """The JSON fields of a request for the text of token ids."""

    tokens: Annotated[list[TokenId], Meta(max_length=MAX_TOKENS)]
    model: Name | None = None
    framework: Name | None = None


def parse_tokenize(body: dict[str, Any]) -> Tokenize:
    """Parse a request to tokenise.

    Args:
        body: the decoded JSON object; it stays with the request, so nobody should change it afterwards.

    Raises:
        GatewayError: a field is wrong, or not exactly one of `prompt` and `messages` is there.
    """
    wire = convert(body, TokenizeWire)
    if (wire.prompt is None) == (wire.messages is None):
        raise invalid("give either 'prompt' or 'messages'", param="prompt")
    if wire.messages is not None and wire.add_special_tokens:
        raise invalid("the chat template has them already", param="add_special_tokens")
    messages = tuple(to_message(message, f"messages[{at}]") for at, message in enumerate(wire.messages or ()))
    return Tokenize(
        prompt=wire.prompt,
        messages=None if wire.messages is None else messages,
        special=wire.prompt is not None and wire.add_special_tokens is not False,
        strings=wire.return_token_strs,
        model=wire.model,
        framework=wire.framework,
        body=body,
    )


def parse_detokenize(body: dict[str, Any]) -> Detokenize:
    """Parse a request for the text of token ids.  Arguments and errors as `parse_tokenize`."""
    wire = convert(body, DetokenizeWire)
    return Detokenize(tokens=tuple(wire.tokens), model=wire.model, framework=wire.framework, body=body)


def tokenized_body(tokens: events.Tokens) -> bytes:
    """Encode token ids."""
    return orjson.dumps(
        {
            "count": len(tokens.ids),
            "max_model_len": tokens.limit,
            "tokens": tokens.ids,
            "token_strs": tokens.strings,
        }
    )


def detokenized_body(text: str) -> bytes:
    """Encode the text of token ids."""
    return orjson.dumps({"prompt": text})
