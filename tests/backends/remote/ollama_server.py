"""An Ollama to test against: as strict as the real one (see `ollama_rules`), and its answers as odd.

It says what a test tells it to say (`Says`), word by word, and forgets counters that are zero.  What it got is in
`requests`.  The official client is content with it: `test_ollama_server.py`.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

from backends.remote.ollama_rules import CHECKS, Refusal, check_model, check_transcription

WHEN = "2026-08-21T10:00:00.123456789Z"

MODELS: Mapping[str, frozenset[str]] = {
    "qwen3:4b": frozenset({"completion", "tools", "thinking"}),
    "llava:7b": frozenset({"completion", "vision"}),
    "plain:latest": frozenset({"completion"}),
    "coder:latest": frozenset({"completion", "insert"}),
    "minilm:latest": frozenset({"embedding"}),
    "ears:latest": frozenset({"completion", "audio"}),
}

TRANSCRIPTIONS = "/v1/audio/transcriptions"
KINDS = {400: "invalid_request_error", 404: "not_found_error"}


@dataclass
class Says:
    """What the model says to the next request, and what goes wrong meanwhile.

    Attributes:
        words: one line each; `thinking` before them, if the request lets it think.
        calls: tool calls, in one line each, as the server of the day writes them.
        reason: why it stopped, unless the limit or a stop string came first; None leaves it out.
        prompt_count: tokens of the prompt; 0 is left out, like every zero.
        error_after: lines, after which one with an error ends the answer.
        cut_after: lines, after which the answer just ends.
        piece: bytes to write at once; None for a line at a time.
    """

    words: Sequence[str] = ("Hello", " there", "!")
    thinking: Sequence[str] = ("Hm", "...")
    calls: Sequence[Mapping[str, Any]] = ()
    reason: str | None = "stop"
    prompt_count: int = 5
    error_after: int | None = None
    cut_after: int | None = None
    piece: int | None = None


@dataclass
class Ollama:
    """The running server, as a test sees it."""

    says: Says = field(default_factory=Says)
    models: Mapping[str, frozenset[str]] = field(default_factory=lambda: dict(MODELS))
    requests: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    lists_capabilities: bool = True
    busy: bool = False
    port: int = 0

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def body(self) -> dict[str, Any]:
        """The last request's."""
        return self.requests[-1][1]

    def tags(self) -> dict[str, Any]:
        """Answer `/api/tags`."""
        return {"models": [self._tag(name) for name in self.models]}

    def _tag(self, name: str) -> dict[str, Any]:
        tag = {
            "name": name,
            "model": name,
            "modified_at": WHEN,
            "size": 2600000000,
            "digest": "0" * 64,
            "details": {"parent_model": "", "format": "gguf", "family": "qwen3", "families": ["qwen3"]},
        }
        return tag | {"capabilities": sorted(self.models[name])} if self.lists_capabilities else tag

    def show(self, name: str) -> dict[str, Any]:
        """Answer `/api/show`."""
        info = {"general.architecture": "qwen3", "qwen3.context_length": 512}
        return {"modelfile": "", "template": "", "model_info": info, "capabilities": sorted(self.models[name])}

    def answer(self, path: str, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield the lines of an answer.  Raises `Refusal` where the real one refuses."""
        if not body:
            raise Refusal(400, "missing request body")
        name, abilities = check_model(body, self.models)
        if path == "/api/show":
            yield self.show(name)
            return
        checked = CHECKS[path](body, name, abilities)
        if self.busy:
            raise Refusal(503, "server busy, please try again.  maximum pending requests exceeded")
        if path == "/api/embed":
            yield self._embeddings(body, checked)
        elif not body.get("messages" if path == "/api/chat" else "prompt"):
            yield {**self._line(body, path, ""), "done": True, "done_reason": "load"}
        else:
            yield from self._words(body, path, abilities)

    def _embeddings(self, body: dict[str, Any], inputs: Any) -> dict[str, Any]:
        size = body.get("dimensions") or 4
        rows = [[1.0 if at == len(text) % size else 0.0 for at in range(size)] for text in inputs]
        count = {"prompt_eval_count": sum(map(len, inputs))} if inputs else {}
        return {"model": body["model"], "embeddings": rows, "total_duration": 1, "load_duration": 1, **count}

    def _words(self, body: dict[str, Any], path: str, abilities: frozenset[str]) -> Iterator[dict[str, Any]]:
        says, options = self.says, body.get("options") or {}
        # Left unset, a model that can think does.
        if "thinking" in abilities and body.get("think") is not False:
            for word in says.thinking:
                yield self._line(body, path, "", thinking=word)
        words, reason = list(says.words), says.reason
        if 0 < options.get("num_predict", -1) < len(words):
            words, reason = words[: options["num_predict"]], "length"
        for word in words:
            yield self._line(body, path, word)
        for call in says.calls if body.get("tools") else ():
            yield self._line(body, path, "", tool_calls=[call])
        counts = {"prompt_eval_count": says.prompt_count, "eval_count": len(words), "total_duration": 812000000}
        end = {"done": True, "done_reason": reason, **counts}
        yield {**self._line(body, path, ""), **{name: value for name, value in end.items() if value}}

    def _line(self, body: dict[str, Any], path: str, text: str, **more: Any) -> dict[str, Any]:
        line: dict[str, Any] = {"model": body["model"], "created_at": WHEN, "done": False}
        if path == "/api/chat":
            line["message"] = {"role": "assistant", "content": text, **more}
        else:
            line |= {"response": text, **more}
        if body.get("logprobs") and text:
            alternatives = [{"token": "alt", "logprob": -2.5, "bytes": list(b"alt")}] * body.get("top_logprobs", 0)
            one = {"token": text, "logprob": -0.5, "bytes": list(text.encode())}
            line["logprobs"] = [one | ({"top_logprobs": alternatives} if alternatives else {})]
        return line


def _merged(lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Make the one object of an answer that is not streamed."""
    chat = "message" in lines[-1]
    parts = [line["message"] if chat else line for line in lines]
    text = "content" if chat else "response"
    said: dict[str, Any] = {text: "".join(part[text] for part in parts)}
    if thinking := "".join(part.get("thinking", "") for part in parts):
        said["thinking"] = thinking
    if calls := [call for part in parts for call in part.get("tool_calls", ())]:
        said["tool_calls"] = calls
    logprobs = [one for line in lines for one in line.get("logprobs", ())]
    whole = {**lines[-1], **({"logprobs": logprobs} if logprobs else {})}
    return {**whole, "message": {"role": "assistant", **said}} if chat else {**whole, **said}


def _handler(ollama: Ollama) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - inherited
            """Stay quiet."""

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            match self.path:
                case "/":
                    self._whole(200, b"Ollama is running", "text/plain; charset=utf-8")
                case "/api/version":
                    self._json(200, {"version": "0.33.0"})
                case "/api/tags":
                    self._json(200, ollama.tags())
                case _:
                    self._whole(404, b"404 page not found", "text/plain")

        def do_POST(self) -> None:
            raw = self.rfile.read(int(self.headers["content-length"] or 0))
            if self.path == TRANSCRIPTIONS:
                self._transcribe(raw)
                return
            if self.path not in (*CHECKS, "/api/show"):
                self._whole(404, b"404 page not found", "text/plain")
                return
            try:
                body = json.loads(raw) if raw else {}
                ollama.requests.append((self.path, body))
                self._lines(body, ollama.answer(self.path, body))
            except Refusal as refusal:  # before the first line
                self._json(refusal.status, {"error": refusal.message})
            except ValueError as error:
                self._json(400, {"error": str(error)})

        def _transcribe(self, raw: bytes) -> None:
            try:
                form = check_transcription(raw, self.headers["content-type"], ollama.models)
            except Refusal as refusal:
                kind = KINDS.get(refusal.status, "api_error")
                error = {"message": refusal.message, "type": kind, "param": None, "code": None}
                self._json(refusal.status, {"error": error})
                return
            ollama.requests.append((self.path, form))
            self._json(200, {"text": "".join(ollama.says.words)})

        def _lines(self, body: dict[str, Any], lines: Iterator[dict[str, Any]]) -> None:
            first = next(lines)
            if self.path in ("/api/embed", "/api/show"):
                self._json(200, first)
                return
            if body.get("stream") is False:
                self._json(200, _merged([first, *lines]))
                return
            self.send_response(200)
            self.send_header("content-type", "application/x-ndjson")
            self.send_header("transfer-encoding", "chunked")
            self.end_headers()
            for at, line in enumerate([first, *lines]):
                if at == ollama.says.error_after:
                    self._write({"error": "an error was encountered while running the model: unexpected EOF"})
                    break
                if at == ollama.says.cut_after:
                    break
                self._write(line)
            self.wfile.write(b"0\r\n\r\n")

        def _write(self, line: Mapping[str, Any]) -> None:
            data = json.dumps(line, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
            size = ollama.says.piece or len(data)
            for at in range(0, len(data), size):
                piece = data[at : at + size]
                self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))

        def _json(self, status: int, value: Any) -> None:
            self._whole(status, json.dumps(value).encode(), "application/json; charset=utf-8")

        def _whole(self, status: int, data: bytes, kind: str) -> None:
            self.send_response(status)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

    return Handler


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that leaves early is part of the tests; anything else shows in what it then does not get."""


@contextmanager
def running_ollama() -> Iterator[Ollama]:
    """Run it on a free port of the loopback, in a thread."""
    ollama = Ollama()
    with _Server(("127.0.0.1", 0), _handler(ollama)) as server:
        ollama.port = server.server_port
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield ollama
        finally:
            server.shutdown()
            thread.join()
