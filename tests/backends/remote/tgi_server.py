"""A TGI to test against: as strict as the real one (see `tgi_rules`), and its answers as odd.

It says what a test tells it to say (`Says`), token by token.  What it got is in `requests`, and every address that it
would have fetched, had it a vision model, is in `fetched`.  `test_tgi_server.py` shows it to the official clients.
"""

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

from backends.remote.tgi_rules import (
    CONTEXT,
    IMAGE,
    Refusal,
    Undecodable,
    check_chat,
    check_native,
    samples,
)

DATA_URL = re.compile(r"data:image/(png|jpeg|gif|webp);base64,[A-Za-z0-9+/]+={0,2}")


@dataclass
class Says:
    """What the model says to the next request, and what goes wrong meanwhile.

    Attributes:
        tokens: the text, a token each; the end-of-text token follows if nothing else ends it.
        call: a tool call, name and pieces of the arguments, for requests that have tools and let it.
        error_after, cut_after: events of a stream, after which an error comes, or just the end.
        keep_alive: whether comments stand between events.
    """

    tokens: Sequence[str] = (" Hello", " the", "re", "!")
    call: tuple[str, Sequence[str]] | None = None
    error_after: int | None = None
    cut_after: int | None = None
    keep_alive: bool = False


@dataclass
class TGI:
    """The running server, as a test sees it."""

    says: Says = field(default_factory=Says)
    requests: list[tuple[str, Any]] = field(default_factory=list)
    fetched: list[str] = field(default_factory=list)
    sampled: bool = False
    overloaded: bool = False
    key: str | None = None
    port: int = 0

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def body(self) -> Any:
        """The last request's."""
        return self.requests[-1][1]

    def look_for_images(self, prompt: str) -> None:
        """Do what the router does with all of a prompt's text."""
        for url in IMAGE.findall(prompt):
            if url.startswith("data:"):
                if DATA_URL.fullmatch(url) is None:
                    raise Refusal("invalid image: bad data URL")
            else:
                self.fetched.append(url)

    def generate(self, given: Any, limit: int | None) -> tuple[list[dict[str, Any]], str]:
        """Return the tokens and why they end: a stop string counts only at the end of a token."""
        if self.overloaded:
            raise Refusal("Model is overloaded", "overloaded", 429)
        tokens: list[dict[str, Any]] = []
        text, reason = "", "eos_token"
        for said in self.says.tokens:
            tokens.append({"id": len(said), "text": said, "logprob": -0.5, "special": False})
            text += said
            if any(text.endswith(stop) for stop in given.get("stop") or ()):
                reason = "stop_sequence"
            elif limit is not None and len(tokens) >= limit:
                reason = "length"
            else:
                continue
            break
        else:
            tokens.append({"id": 2, "text": "</s>", "logprob": -0.1, "special": True})
        return tokens, reason


ALTERNATIVE = {"id": 9, "text": " Hi", "logprob": -1.5, "special": False}


def _text(tokens: Sequence[dict[str, Any]]) -> str:
    return "".join(token["text"] for token in tokens if not token["special"])


def _native(tgi: TGI, body: Any, *, stream: bool) -> Iterator[Any]:
    given = check_native(body, stream=stream)
    tgi.look_for_images(body["inputs"])
    tgi.sampled = samples(given)
    tokens, reason = tgi.generate(given, given.get("max_new_tokens"))
    seed = (given.get("seed") or 42) if tgi.sampled else None
    before = body["inputs"] if given.get("return_full_text") else ""
    details = {"finish_reason": reason, "generated_tokens": len(tokens), "seed": seed}
    top = given.get("top_n_tokens")
    if not stream:
        answer: dict[str, Any] = {"generated_text": before + _text(tokens)}
        if given.get("details"):
            answer["details"] = {**details, "prefill": [], "tokens": tokens}
            if top:
                answer["details"]["top_tokens"] = [[ALTERNATIVE] * top for _ in tokens]
        yield answer
        return
    details["input_length"] = len(body["inputs"].split())
    for index, token in enumerate(tokens, 1):
        last = index == len(tokens)
        event = {
            "index": index,
            "token": token,
            "generated_text": before + _text(tokens) if last else None,
            "details": details if last and given.get("details") else None,
        }
        yield event | ({"top_tokens": [ALTERNATIVE] * top} if top else {})


def _head(chunk: bool) -> dict[str, Any]:
    name = "chat.completion.chunk" if chunk else "chat.completion"
    return {"object": name, "id": "", "created": 1767000000, "model": "org/tiny", "system_fingerprint": "3.3.7-native"}


def _chat(tgi: TGI, body: Any) -> Iterator[Any]:
    prompt = check_chat(body)
    tgi.look_for_images(prompt)
    tgi.sampled = body.get("temperature") != 0
    tokens, reason = tgi.generate(body, body.get("max_tokens"))
    if "presence_penalty" in body and body["presence_penalty"] is not None:
        tokens = [{**token, "text": "garbage"} for token in tokens]  # a repetition penalty of two and more
    calls = bool(body.get("tools")) and body.get("tool_choice") != "none" and tgi.says.call is not None
    usage = {"prompt_tokens": len(prompt.split()), "completion_tokens": len(tokens)}
    usage["total_tokens"] = sum(usage.values())
    reason = {"eos_token": "stop"}.get(reason, reason)
    if body.get("stream"):
        yield from _chunks(tgi, body, tokens, reason, usage, calls=calls)
        return
    message: dict[str, Any] = {"role": "assistant", "content": _text(tokens)}
    if calls:
        name, pieces = tgi.says.call or ("", ())
        function = {"description": None, "name": name, "arguments": "".join(pieces)}
        message = {"role": "assistant", "tool_calls": [{"id": "0", "type": "function", "function": function}]}
        reason = "stop"
    choice = {"index": 0, "message": message, "logprobs": _logprobs(body, tokens), "finish_reason": reason}
    yield {**_head(False), "choices": [choice], "usage": usage}


def _chunks(tgi: TGI, body: Any, tokens: Any, reason: str, usage: Any, *, calls: bool) -> Iterator[Any]:
    def chunk(delta: dict[str, Any], finish: str | None = None, logprobs: Any = None) -> dict[str, Any]:
        choice = {
            "index": 0,
            "delta": {"role": "assistant", **delta},
            "logprobs": logprobs,
            "finish_reason": finish,
        }
        return {**_head(True), "choices": [choice], "usage": None}

    if calls:
        name, pieces = tgi.says.call or ("", ())
        for at, piece in enumerate(pieces):
            function = {"name": name if at == 0 else None, "arguments": piece}
            yield chunk({"tool_calls": [{"index": 0, "id": "0", "type": "function", "function": function}]})
        # and nothing that says why it ended
    else:
        for at, token in enumerate(tokens):
            text = "" if token["special"] else token["text"]
            last = at == len(tokens) - 1
            yield chunk({"content": text}, reason if last else None, _logprobs(body, [token]))
    if (body.get("stream_options") or {}).get("include_usage"):
        yield {**_head(True), "choices": [], "usage": usage}


def _logprobs(body: Any, tokens: Sequence[dict[str, Any]]) -> Any:
    if not body.get("logprobs"):
        return None
    top = [{"token": ALTERNATIVE["text"], "logprob": ALTERNATIVE["logprob"]}] * (body.get("top_logprobs") or 0)
    return {"content": [{"token": one["text"], "logprob": one["logprob"], "top_logprobs": top} for one in tokens]}


INFO = {
    "model_id": "org/tiny",
    "model_sha": "abc",
    "model_pipeline_tag": "text-generation",
    "max_concurrent_requests": 128,
    "max_best_of": 2,
    "max_stop_sequences": 4,
    "max_input_tokens": CONTEXT - 1,
    "max_total_tokens": CONTEXT,
    "validation_workers": 2,
    "max_client_batch_size": 4,
    "router": "text-generation-router",
    "version": "3.3.7",
    "sha": "abc",
    "docker_label": None,
}


def _handler(tgi: TGI) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - inherited
            """Stay quiet."""

        def do_GET(self) -> None:
            match self.path:
                case "/" | "/health" | "/ping":
                    self._whole(200, b"", "text/plain")
                case "/info":
                    self._json(200, INFO)
                case _:
                    self._whole(404, b"", "text/plain")

        def do_POST(self) -> None:
            raw = self.rfile.read(int(self.headers["content-length"] or 0))
            if tgi.key is not None and self.headers["authorization"] != f"Bearer {tgi.key}":
                self._whole(401, b"", "text/plain")
            elif self.headers.get_content_type() != "application/json":
                self._whole(415, b"Expected request with `Content-Type: application/json`", "text/plain")
            else:
                self._answer(raw)

        def _answer(self, raw: bytes) -> None:
            try:
                body = json.loads(raw)
            except ValueError as error:
                self._whole(400, f"Failed to parse the request body as JSON: {error}".encode(), "text/plain")
                return
            tgi.requests.append((self.path, body))
            chat = self.path == "/v1/chat/completions"
            asked = isinstance(body, dict) and body.get("stream") is True
            stream = self.path == "/generate_stream" or (asked and self.path in ("/", "/v1/chat/completions"))
            try:
                if chat:
                    events = _chat(tgi, body)
                elif self.path in ("/", "/generate", "/generate_stream"):
                    events = _native(tgi, body, stream=stream)
                else:
                    self._whole(404, b"", "text/plain")
                    return
                first = next(events)
            except Undecodable as error:
                self._whole(error.status, str(error).encode(), "text/plain; charset=utf-8")
            except Refusal as refusal:
                if stream:  # all is well, says the status
                    self._stream([_complaint(refusal, chat)], chat)
                else:
                    self._json(refusal.status, {"error": str(refusal), "error_type": refusal.kind})
            else:
                if stream:
                    self._stream([first, *events], chat)
                else:
                    self._json(200, [first] if self.path == "/" else first)

        def _stream(self, events: Sequence[Any], chat: bool) -> None:
            self.send_response(200)
            self.send_header("content-type", "text/event-stream")
            self.send_header("transfer-encoding", "chunked")
            self.end_headers()
            says = tgi.says
            for at, event in enumerate(events):
                if says.keep_alive:
                    self._write(b":\n\n")
                if at == says.error_after:
                    broken = Refusal("Request failed during generation: CUDA error", "generation")
                    self._write(_frame(_complaint(broken, chat)))
                    break
                if at == says.cut_after:
                    self._write(b"")
                    return
                self._write(_frame(event))
            if chat:
                self._write(b"data: [DONE]\n\n")
            self._write(b"")

        def _write(self, data: bytes) -> None:
            self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))

        def _json(self, status: int, value: Any) -> None:
            counts = {}
            if isinstance(value, dict) and "generated_text" in value:
                tokens = value.get("details", {}).get("generated_tokens", len(tgi.says.tokens))
                counts = {"x-prompt-tokens": len(tgi.body["inputs"].split()), "x-generated-tokens": tokens}
            self._whole(status, json.dumps(value).encode(), "application/json", counts)

        def _whole(self, status: int, data: bytes, kind: str, more: Any = ()) -> None:
            self.send_response(status)
            for name, value in {"content-type": kind, "content-length": len(data), **dict(more)}.items():
                self.send_header(name, str(value))
            self.end_headers()
            self.wfile.write(data)

    return Handler


def _complaint(refusal: Refusal, chat: bool) -> Any:
    if chat:
        return {"error": {"message": str(refusal), "http_status_code": 422}}  # whatever it was
    return {"error": str(refusal), "error_type": refusal.kind}


def _frame(event: Any) -> bytes:
    return b"data:%s\n\n" % json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that leaves early is part of the tests; anything else shows in what it then does not get."""


@contextmanager
def running_tgi() -> Iterator[TGI]:
    """Run it on a free port of the loopback, in a thread."""
    tgi = TGI()
    with _Server(("127.0.0.1", 0), _handler(tgi)) as server:
        tgi.port = server.server_port
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield tgi
        finally:
            server.shutdown()
            thread.join()
