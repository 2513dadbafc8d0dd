"""What must not creep back into the path of a request: counted, not timed, so it is the same on every machine.

The backend answers at once, as a connection worker does: synchronously, within `Ref.call` or a callback, through the
decoder of its dialect.
"""

import sys
import uuid

import anyio
import msgspec
import orjson
import pytest

from asgi.driver import Talk, chat, driving
from illm.actors.directory import Directory
from illm.actors.ref import Served
from illm.asgi.app import Gateway
from illm.backends.remote import vllm
from illm.config import Config

pytestmark = pytest.mark.anyio

DIALECT = vllm.dialect(Config())
ANSWER = orjson.dumps({
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1_700_000_000,
    "model": "m",
    "choices": [
        {"index": 0, "message": {"role": "assistant", "content": "Paris."}, "logprobs": None, "finish_reason": "stop"}
    ],
    "usage": {"prompt_tokens": 12, "completion_tokens": 3, "total_tokens": 15},
})  # fmt: skip
CHUNKS = 50


def frame(delta, finish=None):
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    chunk = {"id": "c-1", "object": "chat.completion.chunk", "created": 5, "model": "m", "choices": [choice]}
    return b"data: %s\n\n" % orjson.dumps(chunk)


FIRST, TOKEN, LAST = frame({"role": "assistant", "content": ""}), frame({"content": " a"}), frame({}, "stop")


class Instant:
    """An actor that answers within `Ref.call`; a stream goes on each time the client has taken what there was."""

    def __init__(self):
        self.streams = []

    async def run(self, inbox, ready):
        inbox.direct = self.answer
        ready()
        await anyio.sleep_forever()

    def answer(self, call):
        call.watched = True
        DIALECT.outgoing(call.request)
        decoder = DIALECT.decoder(call.request)
        if call.request.stream:
            decoder.start(200, {b"content-type": b"text/event-stream"})
            self.streams.append(self.pieces(call, decoder))
            self.next()
        else:
            decoder.start(200, {b"content-type": b"application/json"})
            call.finish(*decoder.feed(ANSWER), *decoder.close())
        return True

    def pieces(self, call, decoder):
        for piece in (FIRST, *[TOKEN] * CHUNKS, LAST + b"data: [DONE]\n\n"):
            call.reply.put_nowait(*decoder.feed(piece))
            yield
        call.finish(*decoder.close())
        yield

    def next(self):
        if self.streams:
            next(self.streams[-1], None)


class InstantBackend:
    framework = "vllm"

    def __init__(self, actor):
        self._served = Served(
            framework="vllm",
            model="vllm",
            capabilities=DIALECT.capabilities,
            make_actor=lambda: actor,
            supported=DIALECT.supported,
            lists=lambda: ("m",),
        )

    def named(self):
        return [self._served]

    def on_demand(self, model, need):
        return self._served

    def default(self, need):
        return "vllm"


class Quick(Talk):
    """A request whose `send` never waits, and has the backend say its next piece."""

    actor = None

    async def _send(self, message):
        self.messages.append(message)
        if message["type"] == "http.response.body":
            self.actor.next()


class Counted:
    """How often some functions run while the block lasts."""

    def __init__(self, monkeypatch):
        self.counts = {}
        self._patch = monkeypatch

    def watch(self, module, name):
        inner = getattr(module, name)
        self.counts[name] = 0

        def counting(*args, **kwargs):
            self.counts[name] += 1
            return inner(*args, **kwargs)

        self._patch.setattr(module, name, counting)


@pytest.fixture
def counted(monkeypatch):
    counted = Counted(monkeypatch)
    for module, name in [
        (orjson, "loads"),
        (orjson, "dumps"),
        (msgspec, "convert"),
        (uuid, "uuid4"),
        (anyio, "CancelScope"),
        (anyio, "Event"),
        (anyio, "current_time"),
        (anyio, "create_task_group"),
    ]:
        counted.watch(module, name)
    return counted


async def serve(prompt="What is the capital of France?", *, calls=None, settled=None, **more):
    """Make a request of a warm gateway; count the Python calls of the second one."""
    actor = Instant()
    app = Gateway(Config(framework="vllm"), lambda: Directory([InstantBackend(actor)], default="vllm"))
    async with driving(app) as driver:
        for lap in range(2):
            request = chat(prompt, model="m", max_tokens=64, temperature=0.7, **more)
            talk = Quick(driver.app, "/v1/chat/completions", way="own", **request)
            talk.actor = actor
            if lap:
                if settled is not None:
                    settled.update(dict.fromkeys(settled, 0))
                profiled = _profile(calls) if calls is not None else None
            await talk.run()
            if lap and calls is not None:
                sys.setprofile(profiled)
        counts = dict(settled) if settled is not None else {}
    assert talk.raised is None
    assert talk.status == 200
    return talk, counts


def _profile(calls):
    before = sys.getprofile()

    def note(frame, event, what):
        if event == "call" and "/illm/" in frame.f_code.co_filename:
            calls.append(frame.f_code.co_qualname)

    sys.setprofile(note)
    return before


async def test_a_chat_is_parsed_once_and_its_answer_once(counted):
    talk, counts = await serve(settled=counted.counts)
    assert talk.body == ANSWER
    assert counts == {
        "loads": 2,
        "dumps": 1,
        "convert": 1,
        "uuid4": 0,
        "CancelScope": 0,
        "Event": 0,
        "current_time": 0,
        "create_task_group": 0,
    }


async def test_a_stream_is_not_parsed_token_by_token(counted):
    talk, counts = await serve(stream=True, settled=counted.counts)
    assert talk.body.count(TOKEN) == CHUNKS
    # The request, the stream's first frame and its last one.
    assert counts["loads"] == 3
    assert counts["dumps"] <= 5
    assert counts["CancelScope"] == counts["Event"] == counts["create_task_group"] == 0


async def test_a_chat_takes_so_many_calls():
    calls = []
    await serve(calls=calls)
    assert len(calls) <= 90, "\n".join(calls)


async def test_a_token_takes_so_many_calls():
    calls = []
    talk, _ = await serve(stream=True, calls=calls)
    assert len(talk.messages) >= CHUNKS
    assert len(calls) / CHUNKS <= 13, "\n".join(calls[-100:])
