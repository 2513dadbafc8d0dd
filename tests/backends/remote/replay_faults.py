"""What a client may see of an answer whose connection failed on the way, and which recordings that is tried with."""

from itertools import pairwise

import orjson

from backends.remote.recordings import Exchange

KINDS = [
    ("vllm", "chat_stop_stream"),
    ("sglang", "chat_n2_stream"),
    ("llamacpp", "completions_stream"),
    ("vllm", "chat"),
    ("vllm-embed", "embed_base64"),
    ("sglang", "err_too_long"),
]
"""A stream that is relayed, two that are repaired, an answer, embeddings, an error."""


def begins(exchange: Exchange) -> int:
    """Return how many bytes must have come for a client to see any of them; only streams show what is not complete."""
    head = exchange.wire.index(b"\r\n\r\n")
    return exchange.wire.index(b"\n\n", head + 4) + 2 if exchange.streamed else len(exchange.wire)


def edges(wire: bytes) -> list[int]:
    """Return where framing or frames end, and the places beside: in heads, chunk sizes, line ends, events."""
    ends = {at + 1 for at, (one, two) in enumerate(pairwise(wire)) if one in b"\r\n" or two in b"\r\n"}
    return sorted({at for end in ends for at in (end - 1, end, end + 1) if 0 < at < len(wire)})


def check_broken(
    exchange: Exchange, length: int, status: int, body: bytes, whole: bytes, failure: tuple[int, str]
) -> None:
    """Assert that an answer of which `length` bytes came is an error, however much of it went out before.

    Args:
        exchange: what was played.
        length: bytes that came through.
        status, body: what the client got.
        whole: the body it gets when nothing happens.
        failure: status and code of the error.
    """
    if length < begins(exchange):
        assert status == failure[0]
        assert orjson.loads(body)["error"]["code"] == failure[1]
        return
    assert status == 200
    *frames, error, done, rest = body.split(b"\n\n")
    assert (done, rest) == (b"data: [DONE]", b"")
    assert orjson.loads(error.removeprefix(b"data: "))["error"]["code"] == failure[1]
    assert frames
    assert whole.startswith(b"\n\n".join(frames) + b"\n\n")
