"""A TEI to test against, written from the document: its OpenAI-like route, its capitals, its flat errors."""

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
    port: int = 0

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    def embed(self, body: Any) -> tuple[int, Any]:
        """Answer `/v1/embeddings`."""
        inputs = body.get("input")
        inputs = [inputs] if isinstance(inputs, str) or (inputs and isinstance(inputs[0], int)) else inputs
        if self.overloaded:
            return 429, _flat("Model is overloaded", 429, "Overloaded")
        if not inputs:
            return 400, _flat("`inputs` cannot be empty", 400, "Empty")
        if len(inputs) > BATCH:
            return 422, _flat(f"batch size {len(inputs)} > maximum allowed batch size {BATCH}", 422, "Validation")
        if any(len(one) > LONGEST for one in inputs):
            long = max(map(len, inputs))
            message = f"Input validation error: `inputs` must have less than {LONGEST} tokens. Given: {long}"
            return 422, _flat(message, 422, "Validation")
        data = [
            {"object": "embedding", "index": index, "embedding": _vector(one, body)}
            for index, one in reversed(list(enumerate(inputs)))
        ]
        count = sum(map(len, inputs))
        usage = {"prompt_tokens": count, "total_tokens": count}
        return 200, {"object": "list", "data": data, "model": "org/embedder", "usage": usage}


def _vector(one: Any, body: Any) -> Any:
    row = [float(len(one)), 0.5, -0.25][: body.get("dimensions") or 3]
    if body.get("encoding_format") == "base64":
        return b64encode(struct.pack(f"<{len(row)}f", *row)).decode()
    return row


def _flat(message: str, code: int, kind: str) -> Any:
    return {"message": message, "code": code, "type": kind}


def _handler(tei: TEI) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - inherited
            """Stay quiet."""

        def do_GET(self) -> None:
            self._send(200, INFO if self.path == "/info" else {})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"] or 0)))
            tei.requests.append(body)
            self._send(*tei.embed(body) if self.path == "/v1/embeddings" else (404, {}))

        def _send(self, status: int, value: Any) -> None:
            data = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
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
