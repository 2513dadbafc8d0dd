"""`POST /v1/embeddings`: the request, and an answer that is encoded a piece at a time.

An answer can be tens of megabytes of digits.  It is therefore an iterator: whoever sends it may let other tasks run
between pieces.
"""

import math
import sys
from array import array
from binascii import b2a_base64
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

import orjson
from msgspec import Meta, Struct

from illm.core.requests import Embed
from illm.dialects.openai.json_body import convert, invalid
from illm.dialects.openai.prompts import CutTo, WirePrompts, to_cut, to_prompts
from illm.dialects.openai.sampling import MAX_INT32, Name
from illm.errors import GatewayError, Kind

MAX_INPUTS = 16384
"""Eight times what OpenAI takes: a longer list is cut into turns, so it holds nobody up."""

_PIECE = 1 << 16


class EmbeddingWire(Struct, kw_only=True):
    """The JSON fields of an embedding request."""

    input: WirePrompts
    model: Name | None = None
    embedding_model: Name | None = None
    framework: Name | None = None
    dimensions: Annotated[int, Meta(ge=1, le=MAX_INT32)] | None = None
    encoding_format: Literal["float", "base64"] = "float"
    truncate: bool = False
    truncate_prompt_tokens: CutTo | None = None
    prompt_name: Name | None = None


def parse_embeddings(body: dict[str, Any]) -> Embed:
    """Parse an embedding request.

    An empty string is refused, as OpenAI does: there is nothing in it to embed, and a mean over nothing is NaN.

    Args:
        body: the decoded JSON object; it stays with the request, so nobody should change it afterwards.

    Returns:
        The request; `embedding_model` has won over `model`, and `explicit` says that it was given.

    Raises:
        GatewayError: a field is wrong; `param` names it (`input[3]`).
    """
    wire = convert(body, EmbeddingWire)
    inputs = to_prompts(wire.input, name="input", most=MAX_INPUTS)
    for at, text in enumerate(inputs):
        if not text:
            raise invalid("must not be empty", param="input" if isinstance(wire.input, str) else f"input[{at}]")
    return Embed(
        inputs=inputs,
        dimensions=wire.dimensions,
        base64=wire.encoding_format == "base64",
        cut=to_cut(wire.truncate, wire.truncate_prompt_tokens),
        prompt_name=wire.prompt_name,
        model=wire.model if wire.embedding_model is None else wire.embedding_model,
        explicit=wire.embedding_model is not None,
        framework=wire.framework,
        body=body,
    )


def embeddings_body(request: Embed, *, model: str, rows: Sequence[bytes], prompt_tokens: int) -> Iterator[bytes]:
    """Encode the answer.

    Args:
        request: what was asked; decides between numbers and base64.
        model: the name to answer with.
        rows: one vector an input, little-endian float32.
        prompt_tokens: tokens of all inputs.

    Yields:
        Consecutive pieces of the JSON body, about 64 KiB each or one vector, whichever is more.

    Raises:
        GatewayError: `INTERNAL` where a vector holds NaN or infinity, which JSON has no words for.
    """
    encode = _base64 if request.base64 else _numbers
    piece = bytearray(b'{"object":"list","data":[')
    for index, row in enumerate(rows):
        piece += b'%s{"object":"embedding","index":%d,"embedding":' % (b"," if index else b"", index)
        piece += encode(row)
        piece += b"}"
        if len(piece) >= _PIECE:
            yield bytes(piece)
            piece.clear()
    piece += b'],"model":%s,"usage":{"prompt_tokens":%d,"total_tokens":%d}}' % (
        orjson.dumps(model),
        prompt_tokens,
        prompt_tokens,
    )
    yield bytes(piece)


def _base64(row: bytes) -> bytes:
    return b'"%s"' % b2a_base64(row, newline=False)


def _numbers(row: bytes) -> bytes:
    vector = array("f", row)
    if sys.byteorder == "big":
        vector.byteswap()
    if not math.isfinite(sum(vector)):
        raise GatewayError(Kind.INTERNAL, "The model returned an embedding that is not a number.")
    return orjson.dumps(vector.tolist())
