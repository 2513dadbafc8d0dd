"""A TEI to test against, written from the document: its own route and OpenAI's, its capitals, its two kinds of errors.

`test_tei_server.py` shows the one to Hugging Face's client and the other to OpenAI's.
"""

import json
import struct
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

BATCH = 32
LONGEST = 16
"""Characters; the test server counts them for tokens."""

INFO = {
    "model_id": "org/embedder",
    "model_dtype": "float16",
    "served_model_name": "org/embedder",
    "model_type": {"embedding": {"pooling": "cls"}},
    "max_input_length": LONGEST,
    "max_client_batch_size": BATCH,
    "version": "1.9.3",
}


@dataclass
class TEI:
    """The running server, as a test sees it."""

    requests: list[Any] = field(default_factory=list)
    overloaded: bool = False
    key: str | None = None
    port: int = 0

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    def embed(self, body: Any) -> tuple[int, Any]:
        """Answer `/v1/embeddings`."""
        if not isinstance(body, dict) or "input" not in body:
            return 422, _undecodable("missing field `input`")
        if body.get("encoding_format") not in (None, "float", "base64"):
            return 422, _undecodable("encoding_format: unknown variant, expected `float` or `base64`")
        try:
            inputs = self._checked(body["input"], truncate=False)
        except Refusal as refusal:
            return refusal.status, {"message": str(refusal), "code": refusal.status, "type": refusal.kind}
        data = [
            {"object": "embedding", "index": index, "embedding": _vector(one, body)}
            for index, one in reversed(list(enumerate(inputs)))
        ]
        count = sum(map(len, inputs))
        usage = {"prompt_tokens": count, "total_tokens": count}
        return 200, {"object": "list", "data": data, "model": "org/embedder", "usage": usage}

    def native(self, body: Any) -> tuple[int, Any]:
        """Answer `/embed`, which `/` is too."""
        if not isinstance(body, dict) or "inputs" not in body:
            return 422, _undecodable("missing field `inputs`")
        if body.get("truncation_direction") not in (None, "Left", "Right", "left", "right"):
            return 422, _undecodable("truncation_direction: unknown variant, expected `Left` or `Right`")
        try:
            inputs = self._checked(body["inputs"], truncate=bool(body.get("truncate")))
        except Refusal as refusal:
            return refusal.status, {"error": str(refusal), "error_type": refusal.kind}
        return 200, [_vector(one[:LONGEST], {"dimensions": body.get("dimensions")}) for one in inputs]

    def _checked(self, given: Any, *, truncate: bool) -> list[Any]:
        inputs = [given] if isinstance(given, str) or (given and isinstance(given[0], int)) else given
        if self.overloaded:
            raise Refusal("Model is overloaded", 429, "Overloaded")
        if not inputs:
            raise Refusal("`inputs` cannot be empty", 400, "Empty")
        if len(inputs) > BATCH:
            raise Refusal(f"batch size {len(inputs)} > maximum allowed batch size {BATCH}", 422, "Validation")
        if (long := max(map(len, inputs))) > LONGEST and not truncate:
            message = f"Input validation error: `inputs` must have less than {LONGEST} tokens. Given: {long}"
            raise Refusal(message, 422, "Validation")
        return list(inputs)


class Refusal(Exception):  # noqa: N818 - what it is called here
    """What it will not do; each route says so in a shape of its own."""

    def __init__(self, message: str, status: int, kind: str) -> None:
        super().__init__(message)
        self.status, self.kind = status, kind


def _undecodable(why: str) -> str:
    return f"Failed to deserialize the JSON body into the target type: {why}"


def _vector(one: Any, body: Any) -> Any:
    row = [float(len(one)), 0.5, -0.25][: body.get("dimensions") or 3]
    if body.get("encoding_format") == "base64":
        return b64encode(struct.pack(f"<{len(row)}f", *row)).decode()
    return row


def _handler(tei: TEI) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - inherited
            """Stay quiet."""

        def do_GET(self) -> None:
            self._send(200, INFO if self.path == "/info" else {})

        def do_POST(self) -> None:
            raw = self.rfile.read(int(self.headers["content-length"] or 0))
            if tei.key is not None and self.headers["authorization"] != f"Bearer {tei.key}":
                self._send(401, "")
                return
            body = json.loads(raw)
            tei.requests.append(body)
            if self.path in ("/v1/embeddings", "/embeddings"):
                self._send(*tei.embed(body))
            else:
                self._send(*tei.native(body) if self.path in ("/", "/embed") else (404, {}))

        def _send(self, status: int, value: Any) -> None:
            plain = isinstance(value, str)
            data = value.encode() if plain else json.dumps(value).encode()
            self.send_response(status)
            self.send_header("content-type", "text/plain; charset=utf-8" if plain else "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    return Handler


@contextmanager
def running_tei() -> Iterator[TEI]:
    """Run it on a free port of the loopback, in a thread."""
    tei = TEI()
    with ThreadingHTTPServer(("127.0.0.1", 0), _handler(tei)) as server:
        server.daemon_threads = True
        tei.port = server.server_port
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield tei
        finally:
            server.shutdown()
            thread.join()
