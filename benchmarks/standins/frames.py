"""The answers of the paced stand-in, rendered ahead so that a token costs one formatting.  No I/O, no clock.

Two dialects: OpenAI's chunks as server-sent events, and Ollama's objects, one a line.
"""

import base64
import random
import re
from array import array
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.marks import MARK_BYTES, tag_number, write_mark

CREATED = 1_700_000_000
STREAMED = re.compile(rb'"stream"\s*:\s*true')
NOT_STREAMED = re.compile(rb'"stream"\s*:\s*false')
TOOLS = re.compile(rb'"tools"\s*:\s*\[')
USAGE = re.compile(rb'"include_usage"\s*:\s*true')
BASE64 = re.compile(rb'"encoding_format"\s*:\s*"base64"')
MODEL = re.compile(rb'"model"\s*:\s*"([^"]+)"')

SSE_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)
NDJSON_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\ntransfer-encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"

WORDS = b"of the and to in that is was it for on with as he be at by had not are but from or have an they which one "


@dataclass(frozen=True, slots=True)
class Around:
    """What stands before and after a token's mark; the two make one HTTP chunk around it."""

    before: bytes
    after: bytes


@dataclass(frozen=True, slots=True)
class Frames:
    """One stream's answer, less its marks.

    Args:
        opening: the head and what comes before the first token.
        kinds: what stands around tokens; more than one where the answer has parts (reasoning, text, tool call).
        closing: all after the last token.
        tag: what every mark repeats.
        tokens: how many there will be.
        parts: for every kind but the first, the marked text that introduces it and carries no mark.
    """

    opening: bytes
    kinds: tuple[Around, ...]
    closing: bytes
    tag: bytes
    tokens: int
    parts: tuple[bytes, ...] = ()

    def token(self, index: int, received: int, sent: int) -> bytes:
        """Return the bytes of token `index`, with what comes before the first and after the last."""
        at = index * len(self.kinds) // self.tokens
        around = self.kinds[at]
        data = around.before + write_mark(index, received, sent, self.tag) + around.after
        if at and (index - 1) * len(self.kinds) // self.tokens != at:
            data = self.parts[at - 1] + data
        if index == 0:
            data = self.opening + data
        return data + self.closing if index == self.tokens - 1 else data


def chunk(data: bytes) -> bytes:
    """Return `data` as one chunk of an HTTP body."""
    return b"%x\r\n%s\r\n" % (len(data), data)


def _around(before: bytes, after: bytes) -> Around:
    size = len(before) + MARK_BYTES + len(after)
    return Around(b"%x\r\n%s" % (size, before), after + b"\r\n")


def filler(size: int) -> bytes:
    """Return `size` bytes of words that follow a mark, to make a chunk as long as real ones; JSON needs no escapes."""
    return (WORDS * (size // len(WORDS) + 1))[:size]


def openai_stream(body: bytes, tag: bytes, tokens: int, size: int, prompt: int) -> Frames:
    """Return a streamed chat answer.

    Args:
        body: the request's, or both its ends.
        tag: what to echo.
        tokens: how many.
        size: bytes of text in a token, beside its mark.
        prompt: bytes of the whole body, which the answer counts as its prompt tokens: what was cut off shows.
    """
    base = b'"id":"chatcmpl-%s","object":"chat.completion.chunk","created":%d,"model":"%s"' % (
        tag,
        CREATED,
        _model(body),
    )
    more = filler(size)

    def event(delta: bytes, reason: bytes = b"null") -> bytes:
        choice = b'{"index":0,"delta":%s,"logprobs":null,"finish_reason":%s}' % (delta, reason)
        return b'data: {%s,"choices":[%s]}\n\n' % (base, choice)

    def around(before: bytes, after: bytes) -> Around:
        left, _, right = event(before + b"\0" + more + after).partition(b"\0")
        return _around(left, right)

    text = around(b'{"content":"', b'"}')
    tools = TOOLS.search(body) is not None
    kinds: tuple[Around, ...]
    parts: tuple[bytes, ...]
    if tools:  # as vLLM has it: reasoning under its own name, and a call's id and name once
        kinds = (
            around(b'{"reasoning":"', b'"}'),
            text,
            around(b'{"tool_calls":[{"index":0,"function":{"arguments":"', b'"}}]}'),
        )
        call = (
            b'{"index":0,"id":"call-%s","type":"function","function":{"name":"look","arguments":"{\\"q\\": \\""}}' % tag
        )
        parts = (b"", chunk(event(b'{"tool_calls":[%s]}' % call)))
        last = event(b'{"tool_calls":[{"index":0,"function":{"arguments":"\\"}"}}]}')
    else:
        kinds, parts, last = (text,), (), b""
    closing = last + event(b"{}", b'"tool_calls"' if tools else b'"stop"')
    if USAGE.search(body) is not None:
        closing += b'data: {%s,"choices":[],"usage":%s}\n\n' % (base, _usage(prompt, tokens))
    opening = SSE_HEAD + chunk(event(b'{"role":"assistant","content":""}'))
    return Frames(opening, kinds, chunk(closing + b"data: [DONE]\n\n") + END, tag, tokens, parts)


def ollama_stream(body: bytes, tag: bytes, tokens: int, size: int, prompt: int) -> Frames:
    """Return a streamed answer of `/api/chat`; the arguments are `openai_stream`'s."""
    base = _ollama_base(body)
    end = b'"},"done":true,"done_reason":"stop",%s}\n' % _ollama_counts(prompt, tokens)
    kinds = (_around(base, filler(size) + b'"},"done":false}\n'),)
    return Frames(NDJSON_HEAD, kinds, chunk(base + end) + END, tag, tokens)


def openai_answer(body: bytes, tag: bytes, size: int, prompt: int, received: int, sent: int) -> bytes:
    """Return a whole chat answer, with one mark."""
    text = write_mark(0, received, sent, tag) + filler(size)
    choice = b'{"index":0,"message":{"role":"assistant","content":"%s"},"logprobs":null,"finish_reason":"stop"}' % text
    base = b'"id":"chatcmpl-%s","object":"chat.completion","created":%d,"model":"%s"' % (tag, CREATED, _model(body))
    return b'{%s,"choices":[%s],"usage":%s}' % (base, choice, _usage(prompt, 1))


def ollama_answer(body: bytes, tag: bytes, size: int, prompt: int, received: int, sent: int) -> bytes:
    """Return a whole answer of `/api/chat`, with one mark."""
    text = write_mark(0, received, sent, tag) + filler(size)
    return b'%s%s"},"done":true,"done_reason":"stop",%s}' % (_ollama_base(body), text, _ollama_counts(prompt, 1))


def embeddings_answer(inputs: int, dimensions: int, base64_vectors: bool) -> Callable[[bytes], bytes]:
    """Render vectors once, and return what makes an answer of them and a request's tag.

    Args:
        inputs: how many vectors.
        dimensions: numbers in a vector.
        base64_vectors: whether they are packed float32 instead of decimal numbers.
    """
    source = random.Random(inputs)
    rows = []
    for index in range(inputs):
        vector = array("f", (source.uniform(-1, 1) for _ in range(dimensions)))
        if base64_vectors:
            shown = b'"%s"' % base64.b64encode(vector.tobytes())
        else:
            shown = b"[%s]" % b",".join(b"%.8f" % number for number in vector)
        rows.append(b'{"object":"embedding","index":%d,"embedding":%s}' % (index, shown))
    before = b'{"object":"list","data":[%s],"model":"bench"' % b",".join(rows)

    def answer(tag: bytes) -> bytes:
        # As a number, and where every gateway that knows embeddings carries it on: the count of prompt tokens.
        count = tag_number(tag)
        return b'%s,"usage":{"prompt_tokens":%d,"total_tokens":%d}}' % (before, count, count)

    return answer


def _model(body: bytes) -> bytes:
    found = MODEL.search(body)
    return found[1] if found is not None else b"model"


def _usage(prompt: int, completion: int) -> bytes:
    return b'{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d}' % (prompt, completion, prompt + completion)


def _ollama_base(body: bytes) -> bytes:
    created = b"2023-11-14T22:13:20.000000Z"
    message = b'{"role":"assistant","content":"'
    return b'{"model":"%s","created_at":"%s","message":%s' % (_model(body), created, message)


def _ollama_counts(prompt: int, completion: int) -> bytes:
    return (
        b'"total_duration":1000000,"load_duration":1000,"prompt_eval_count":%d,"prompt_eval_duration":1000,'
        b'"eval_count":%d,"eval_duration":1000' % (prompt, completion)
    )
