"""Drives an ASGI application by hand, without a server: the test decides when each `send` returns.

`Talk` is one request.  `way` chooses how the application learns that the client has left: `receive` says so, as on
any server, or the callback of our own server's extension is called.
"""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import orjson


class Talk:
    """One request and what came back.

    Args:
        app: the application.
        path, method, headers, query: of the request.
        body: one piece or several.
        way: `own` or `foreign`.
        slow: whether `send` blocks until the test lets it (`let`).
    """

    def __init__(
        self,
        app: Any,
        path: str,
        *,
        method: str = "POST",
        headers: dict[str, str] | None = None,
        query: str = "",
        body: Any = b"",
        way: str = "own",
        slow: bool = False,
        root_path: str = "",
    ) -> None:
        self._app = app
        self._pieces = [body] if isinstance(body, bytes) else list(body)
        self._way = way
        self._left = anyio.Event()
        self._callbacks: list[Any] = []
        self._slow = slow
        self._news = anyio.Event()
        self.sending = anyio.Event()
        self.messages: list[dict[str, Any]] = []
        self.over = anyio.Event()
        self.raised: BaseException | None = None
        self.scope: dict[str, Any] = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "root_path": root_path,
            "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in (headers or {}).items()],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 2),
        }
        if way == "own":
            self.scope["extensions"] = {"illm.disconnect": {"register": self._register}}

    async def run(self) -> None:
        try:
            await self._app(self.scope, self._receive, self._send)
        except Exception as error:
            self.raised = error
        finally:
            self.over.set()
            self._tell()

    def leave(self) -> None:
        """The client goes."""
        self._left.set()
        for callback in self._callbacks:
            callback()

    def _register(self, callback: Any) -> None:
        callback() if self._left.is_set() else self._callbacks.append(callback)

    def let(self) -> None:
        """Let every `send` through from now on."""
        self._slow = False
        self._tell()

    @property
    def status(self) -> int:
        return self.messages[0]["status"]

    @property
    def headers(self) -> dict[str, str]:
        return {name.decode(): value.decode() for name, value in self.messages[0]["headers"]}

    @property
    def body(self) -> bytes:
        return b"".join(message["body"] for message in self.messages[1:])

    @property
    def ended(self) -> bool:
        """Whether the response was ended, cleanly as far as HTTP is concerned."""
        return bool(self.messages) and self.messages[-1].get("more_body") is False

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        return self.json["error"]

    @property
    def frames(self) -> list[Any]:
        """The payloads of the stream so far; `[DONE]` as the string."""
        lines = [line for line in self.body.decode().split("\n\n") if line]
        payloads = [line.removeprefix("data: ") for line in lines]
        return [payload if payload == "[DONE]" else json.loads(payload) for payload in payloads]

    @property
    def text(self) -> str:
        """The streamed text so far."""
        choices = [choice for frame in self.frames if "choices" in frame for choice in frame["choices"]]
        return "".join(choice["delta"].get("content") or "" for choice in choices)

    async def until(self, text: str) -> None:
        """Wait until the streamed text ends so."""
        while not (len(self.messages) > 1 and self.text.endswith(text)):
            assert not self.over.is_set(), f"ended with {self.body!r}"
            self._news = anyio.Event()
            await self._news.wait()

    async def _receive(self) -> dict[str, Any]:
        if self._pieces:
            piece = self._pieces.pop(0)
            return {"type": "http.request", "body": piece, "more_body": bool(self._pieces)}
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: dict[str, Any]) -> None:
        await anyio.lowlevel.checkpoint()
        self.sending.set()
        while self._slow:
            self._news = anyio.Event()
            await self._news.wait()
        if self._left.is_set():
            raise OSError("the client has left")
        self.messages.append(message)
        self._tell()

    def _tell(self) -> None:
        self._news.set()


class Driver:
    """An application that runs, and requests to it."""

    def __init__(self, app: Any, tasks: Any, way: str) -> None:
        self.app = app
        self._tasks = tasks
        self.way = way

    async def directory(self) -> Any:
        """The application's actors in this loop."""
        return await self.app._runtime.directory()

    async def loaded(self) -> None:
        """Wait until the actors are ready."""
        directory = await self.directory()
        await directory.settled()

    def begin(self, path: str, **request: Any) -> Talk:
        """Start a request in the background."""
        talk = Talk(self.app, path, **{"way": self.way, **request})
        self._tasks.start_soon(talk.run)
        return talk

    async def ask(self, path: str, **request: Any) -> Talk:
        """Make a request and wait for the end of it."""
        talk = self.begin(path, **request)
        await talk.over.wait()
        assert talk.raised is None
        return talk

    async def get(self, path: str, **request: Any) -> Talk:
        return await self.ask(path, method="GET", **request)

    def begin_chat(self, prompt: str, /, **more: Any) -> Talk:
        return self.begin("/v1/chat/completions", **chat(prompt, **more))

    async def chat(self, prompt: str, /, **more: Any) -> Talk:
        talk = self.begin_chat(prompt, **more)
        await talk.over.wait()
        assert talk.raised is None
        return talk


REQUEST = ("headers", "way", "slow", "query", "root_path")


def chat(prompt: str, /, **more: Any) -> dict[str, Any]:
    """Return a chat request's body and headers; what `Talk` does not know goes into the body."""
    request = {name: more.pop(name) for name in REQUEST if name in more}
    body = {"messages": [{"role": "user", "content": prompt}], **more}
    headers = {"content-type": "application/json", **request.pop("headers", {})}
    return {"body": orjson.dumps(body), "headers": headers, **request}


@asynccontextmanager
async def driving(app: Any, way: str = "own", *, loaded: bool = True) -> AsyncIterator[Driver]:
    """Run an application's actors, and requests to it, while the block lasts."""
    async with app.running(), anyio.create_task_group() as tasks:
        driver = Driver(app, tasks, way)
        if loaded:
            await driver.loaded()
        yield driver
        tasks.cancel_scope.cancel()
