"""A vLLM and an SGLang to test against: as strict as the real ones (see their rules), and their answers as odd.

Each says what a test tells it to say (`Says`).  What it got is in `requests`, what it let pass or would have opened in
`noticed`; connections and requests are counted, and `until` waits for a count.  `test_openai_server.py` shows both to
the official client.
"""

import json
import select
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Condition, Thread
from types import ModuleType
from typing import Any

from backends.remote import sglang_answers, sglang_rules, vllm_answers, vllm_rules
from backends.remote.openai_rules import Noticed, Refusal, decode
from backends.remote.openai_says import Says, say

KINDS: dict[str, tuple[ModuleType, ModuleType]] = {
    "vllm": (vllm_rules, vllm_answers),
    "sglang": (sglang_rules, sglang_answers),
}

PATIENCE = 20


@dataclass
class Server:
    """The running server, as a test sees it.

    Attributes:
        kind: `vllm` or `sglang`.
        parses_tools, sees, hears: what it was started with and what its model can do.
        counts: whether it was started so that every stream ends with its counts, asked for or not (vLLM can be).
        busy: whether its queue is full.
        key: what it wants to be shown.
        requests: paths and decoded bodies, in order.
        accepted, open: connections, ever and now.
        running, left: requests being worked at, and those whose client went before the end.
        broken: what went wrong in the server itself, which no test may overlook.
    """

    kind: str
    says: Says = field(default_factory=Says)
    parses_tools: bool = True
    sees: bool = True
    hears: bool = True
    counts: bool = False
    busy: bool = False
    key: str | None = None
    requests: list[tuple[str, Any]] = field(default_factory=list)
    noticed: Noticed = field(default_factory=Noticed)
    accepted: int = 0
    open: int = 0
    running: int = 0
    left: int = 0
    broken: list[BaseException] = field(default_factory=list)
    port: int = 0
    changed: Condition = field(default_factory=Condition)

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def body(self) -> Any:
        """The last request's."""
        return self.requests[-1][1]

    def count(self, **by: int) -> None:
        """Add to counts, and tell who waits."""
        with self.changed:
            for name, step in by.items():
                setattr(self, name, getattr(self, name) + step)
            self.changed.notify_all()

    def until(self, condition: Callable[[], bool]) -> None:
        """Block until something holds."""
        with self.changed:
            assert self.changed.wait_for(condition, PATIENCE), self


Answer = tuple[str, Any] | Iterator[Any]
"""Content type and value, or the events of a stream."""


def _answer(server: Server, path: str, raw: bytes, headers: Any) -> Answer:
    rules, answers = KINDS[server.kind]
    content_type = headers.get_content_type()
    if path == "/v1/audio/transcriptions":
        form = rules.check_transcription(raw, headers["content-type"], server.noticed)
        server.requests.append((path, form))
        if not server.hears:
            raise Refusal("The model does not support Transcriptions API")
        streams = form.get("stream") == "true"
        return answers.transcript_chunks(form, server.says) if streams else answers.transcript(form, server.says)
    body = decode(raw, content_type)
    server.requests.append((path, body))
    if path == "/v1/embeddings":
        raise Refusal("This model does not appear to be an embedding model by default. Please add `--is-embedding`")
    if path == "/v1/chat/completions":
        prompt = rules.check_chat(body, server.noticed, parses_tools=server.parses_tools, sees=server.sees)
        prompts, make, chunks = len(prompt.split()), answers.chat, answers.chat_chunks
        count = body.get("n") or 1
    else:
        prompts, make, chunks = rules.check_completion(body, server.noticed), answers.completion, None
        chunks, count = answers.completion_chunks, (body.get("n") or 1) * len(prompts)
    if server.busy:
        kinds = {"vllm": "Service Unavailable", "sglang": "503"}
        raise Refusal("The request queue is full.", kinds[server.kind], status=503)
    heard = body if server.parses_tools else {**body, "tools": None}
    if server.counts:
        body = {**body, "stream_options": {"include_usage": True}}
    choices = [say(server.says, heard, index) for index in range(count)]
    return chunks(body, prompts, choices) if body.get("stream") else ("application/json", make(body, prompts, choices))


GENERATES = ("/v1/chat/completions", "/v1/completions", "/v1/audio/transcriptions")
POSTS = {"vllm": GENERATES, "sglang": (*GENERATES, "/v1/embeddings")}
OPEN = {"vllm": ("/health", "/version"), "sglang": ("/health", "/ready")}


def _handler(server: Server, over: socket.socket) -> type[BaseHTTPRequestHandler]:
    _, answers = KINDS[server.kind]

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - inherited
            """Stay quiet."""

        def setup(self) -> None:
            server.count(accepted=1, open=1)
            super().setup()

        def finish(self) -> None:
            try:
                super().finish()
            finally:
                server.count(open=-1)

        def do_GET(self) -> None:
            if not self._let_in():
                return
            known = {
                "/v1/models": answers.models(),
                "/version": {"version": "0.33.0"} if server.kind == "vllm" else None,
                "/model_info": {"model_path": "org/m1", "is_generation": True} if server.kind == "sglang" else None,
                "/health": b"",
            }
            if (value := known.get(self.path)) is None:
                self._whole(405 if self.path in POSTS[server.kind] else 404, {"detail": "Not Found"})
            else:
                self._whole(200, value)

        def do_POST(self) -> None:
            raw = self.rfile.read(int(self.headers["content-length"] or 0))
            if not self._let_in():
                return
            if self.path not in POSTS[server.kind]:
                self._whole(404, {"detail": "Not Found"})
                return
            server.count(running=1)
            try:
                self._serve(raw)
            except OSError:
                self._went()
            except Exception as error:
                server.broken.append(error)
                raise
            finally:
                server.count(running=-1)

        def _serve(self, raw: bytes) -> None:
            says = server.says
            try:
                answer = _answer(server, self.path, raw, self.headers)
            except Refusal as refusal:
                self._whole(refusal.status, answers.complaint(refusal))
                return
            if not isinstance(answer, tuple):
                self._stream(answer, says)
            elif says.stall_after is None or self._stall():
                self._whole(200, answer[1], answer[0])

        def _let_in(self) -> bool:
            if server.key is None or self.path in OPEN[server.kind]:
                return True
            if self.headers["authorization"] == f"Bearer {server.key}":
                return True
            self._whole(401, {"error": "Unauthorized"})
            return False

        def _stream(self, events: Iterator[Any], says: Says) -> None:
            listed: Sequence[Any] = list(events)
            if says.stall_after == 0 and not self._stall():
                return
            self.send_response(200)
            self.send_header("content-type", "text/event-stream; charset=utf-8")
            self.send_header("transfer-encoding", "chunked")
            self.end_headers()
            for at, event in enumerate(listed):
                if at and at == says.stall_after and not self._stall():
                    return
                if at == says.error_after:
                    broken = answers.complaint(Refusal("CUDA error: out of memory", "InternalServerError", status=500))
                    self._frame(json.dumps(broken if "error" in broken else {"error": broken}))
                    break
                if at == says.cut_after:
                    self.close_connection = True
                    return
                self._frame(json.dumps(event, ensure_ascii=False, separators=(",", ":")))
            self._frame("[DONE]")
            self._write(b"")

        def _stall(self) -> bool:
            """Say nothing until the client goes, or the test ends; return whether it is still there."""
            select.select([self.connection, over], [], [])
            self._went()
            return False

        def _went(self) -> None:
            self.close_connection = True
            server.count(left=1)

        def _frame(self, payload: str) -> None:
            self._write(f"data: {payload}\n\n".encode())

        def _write(self, data: bytes) -> None:
            self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))

        def _whole(self, status: int, value: Any, kind: str = "application/json") -> None:
            data = (
                value if isinstance(value, bytes) else (value if isinstance(value, str) else json.dumps(value)).encode()
            )
            self.send_response(status)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    return Handler


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that leaves early is part of the tests; anything else shows in what it then does not get."""


@contextmanager
def running_server(kind: str) -> Iterator[Server]:
    """Run one on a free port of the loopback, in threads.

    Args:
        kind: `vllm` or `sglang`.
    """
    server = Server(kind)
    end, over = socket.socketpair()
    with end, over, _Listener(("127.0.0.1", 0), _handler(server, over)) as listener:
        server.port = listener.server_port
        thread = Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            listener.shutdown()
            thread.join()
            end.send(b"x")
            server.until(lambda: not server.running)
            assert not server.broken
