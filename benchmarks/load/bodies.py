"""Requests, made before the clock starts: no two of a run are alike, and each carries the tag that must come back."""

import base64
import json
import random
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from benchmarks.load.plan import Plan
from benchmarks.marks import tag_text

WORDS = [
    "river",
    "stone",
    "paper",
    "window",
    "morning",
    "letter",
    "garden",
    "silver",
    "mountain",
    "harbour",
    "candle",
    "forest",
    "winter",
    "question",
    "answer",
    "market",
    "bridge",
    "music",
    "shadow",
    "summer",
    "engine",
    "ladder",
    "copper",
    "island",
    "travel",
    "signal",
    "number",
    "story",
    "circle",
    "method",
]

ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyz"
LARGE_PROMPT = 100_000
IMAGE_SIDE = 590  # of random pixels, three bytes each: nothing compresses, so about a megabyte
LARGE_BODIES = 16
INPUTS = 256
"""Texts of a request for embeddings."""


@dataclass(frozen=True, slots=True)
class Body:
    """One request, ready to be written.

    Args:
        tag: what every mark of its answer must repeat.
        wire: head and body.
        size: bytes of the body; no upstream can have seen much less.
    """

    tag: bytes
    wire: bytes
    size: int


def prepare(plan: Plan) -> list[Body]:
    """Return the requests of a run; they are used in order, and again from the first."""
    source = random.Random(plan.seed)
    count = min(plan.bodies, LARGE_BODIES) if plan.shape in _LARGE else plan.bodies
    shape = _SHAPES[plan.shape]
    bodies = []
    for _ in range(count):
        tag = "".join(source.choices(ALPHABET, k=12)).encode()
        bodies.append(_encode(plan, tag, {"model": plan.model, **shape(source, tag_text(tag))}))
    return bodies


def _encode(plan: Plan, tag: bytes, content: dict[str, Any]) -> Body:
    where = urlsplit(plan.url)
    path = "/v1/embeddings" if plan.shape.startswith("embeddings") else "/v1/chat/completions"
    if plan.dialect == "ollama":
        path, content = "/api/chat", _as_ollama(content)
    body = json.dumps(content, separators=(",", ":")).encode()
    lines = [
        f"POST {where.path.rstrip('/')}{path} HTTP/1.1",
        f"host: {where.netloc}",
        "content-type: application/json",
        f"content-length: {len(body)}",
        *(f"{name}: {value}" for name, value in plan.headers.items()),
    ]
    return Body(tag, "\r\n".join([*lines, "", ""]).encode() + body, len(body))


def _as_ollama(content: dict[str, Any]) -> dict[str, Any]:
    content = dict(content)
    options = {"num_predict": content.pop("max_tokens"), "temperature": content.pop("temperature")}
    return {**content, "stream": content.get("stream", False), "options": options}


def _sentence(source: random.Random, words: int) -> str:
    return " ".join(source.choices(WORDS, k=words))


def _chat(source: random.Random, tag: str) -> dict[str, Any]:
    return {
        "messages": [
            {"role": "system", "content": "You are a helpful assistant. Answer briefly."},
            {"role": "user", "content": f"{tag} {_sentence(source, 40)}"},
        ],
        "max_tokens": 128,
        "temperature": 0.7,
    }


def _stream(source: random.Random, tag: str) -> dict[str, Any]:
    return {**_chat(source, tag), "stream": True}


def _prompt(source: random.Random, tag: str) -> dict[str, Any]:
    text = _sentence(source, LARGE_PROMPT // 6)
    while len(text) < LARGE_PROMPT:
        text += f" {_sentence(source, 200)}"
    return {**_chat(source, tag), "messages": [{"role": "user", "content": f"{tag} {text[:LARGE_PROMPT]}"}]}


def _image(source: random.Random, tag: str) -> dict[str, Any]:
    url = f"data:image/png;base64,{base64.b64encode(noise_png(source, IMAGE_SIDE)).decode()}"
    parts = [{"type": "text", "text": f"{tag} What is this?"}, {"type": "image_url", "image_url": {"url": url}}]
    return {**_chat(source, tag), "messages": [{"role": "user", "content": parts}]}


def _embeddings(source: random.Random, tag: str) -> dict[str, Any]:
    inputs = [f"{tag} {_sentence(source, 12)}", *(_sentence(source, 12) for _ in range(INPUTS - 1))]
    return {"input": inputs, "encoding_format": "float"}


def _packed(source: random.Random, tag: str) -> dict[str, Any]:
    return {**_embeddings(source, tag), "encoding_format": "base64"}


def _tools(source: random.Random, tag: str) -> dict[str, Any]:
    parameters = {"type": "object", "properties": {"q": {"type": "string"}}, "required": ["q"]}
    function = {"name": "look", "description": "Look something up.", "parameters": parameters}
    return {**_stream(source, tag), "tools": [{"type": "function", "function": function}]}


def noise_png(source: random.Random, side: int) -> bytes:
    """Return a valid square PNG of random colours, `side` pixels wide."""

    def chunks() -> Iterator[bytes]:
        rows = b"".join(b"\0" + source.randbytes(3 * side) for _ in range(side))
        for kind, data in (
            (b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)),
            (b"IDAT", zlib.compress(rows, 0)),
            (b"IEND", b""),
        ):
            yield struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks())


_SHAPES: dict[str, Callable[[random.Random, str], dict[str, Any]]] = {
    "chat": _chat,
    "stream": _stream,
    "prompt": _prompt,
    "image": _image,
    "embeddings": _embeddings,
    "embeddings-base64": _packed,
    "tools": _tools,
}

_LARGE = ("prompt", "image", "embeddings", "embeddings-base64")
