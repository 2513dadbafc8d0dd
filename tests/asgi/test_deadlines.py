"""Deadlines: of the first token, of the whole, and of a client that stalls.  Trio's clock jumps, so nobody waits."""

import logging

import anyio
import pytest
import trio

from asgi.driver import driving
from illm.asgi.relay import GRACE

pytestmark = pytest.mark.trio


@pytest.fixture
def clock(autojump_clock):
    return autojump_clock


@pytest.mark.parametrize("stream", [False, True])
async def test_no_first_token_in_time_is_a_504(make_app, stage, way, clock, stream):
    async with driving(make_app(first_token_timeout=7.0), way) as driver:
        began = trio.current_time()
        talk = await driver.chat("hold a", stream=stream)
        assert trio.current_time() - began == pytest.approx(7 + GRACE)
        assert stage.cases["a"].gone.is_set()
    assert (talk.status, talk.error["code"]) == (504, "timeout")


async def test_waiting_in_the_mailbox_counts(make_app, stage, way, clock):
    async with driving(make_app(first_token_timeout=7.0), way) as driver:
        driver.begin_chat("drip a", model="narrow", stream=True)
        await stage.cases["a"].held.wait()
        talk = await driver.chat("echo b", model="narrow")
    assert talk.status == 504


async def test_the_whole_takes_too_long_is_an_error_event(make_app, stage, way, clock):
    async with driving(make_app(first_token_timeout=7.0, request_timeout=60.0), way) as driver:
        began = trio.current_time()
        talk = await driver.chat("drip a", stream=True)
        assert trio.current_time() - began == pytest.approx(60 + GRACE)
        await stage.cases["a"].gone.wait()
    first, *_, error, done = talk.frames
    assert first["choices"]
    assert error["error"]["code"] == "timeout"
    assert done == "[DONE]"
    assert talk.ended


async def test_the_whole_takes_too_long_is_a_504_when_not_streamed(make_app, stage, way, clock):
    async with driving(make_app(first_token_timeout=7.0, request_timeout=60.0), way) as driver:
        talk = await driver.chat("drip a")
    assert (talk.status, talk.error["code"]) == (504, "timeout")


async def test_embeddings_have_a_deadline(make_app, stage, way, clock, monkeypatch):
    async def never(self, request, respond):
        await anyio.sleep_forever()

    monkeypatch.setattr("asgi.scripted.ScriptedActor.handle", never)
    async with driving(make_app(first_token_timeout=7.0), way) as driver:
        headers = {"content-type": "application/json"}
        talk = await driver.ask("/v1/embeddings", body=b'{"input": "a"}', headers=headers)
    assert talk.status == 504


async def test_a_stalled_reader_is_dropped_and_its_work_stops(make_app, stage, clock):
    """On another server's socket; ours has a deadline of its own."""
    async with driving(make_app(client_timeout=9.0), "foreign") as driver:
        talk = driver.begin_chat("drip a", stream=True, slow=True)
        await talk.sending.wait()
        began = trio.current_time()
        await talk.over.wait()
        assert trio.current_time() - began == pytest.approx(9)
        await stage.cases["a"].gone.wait()
    assert talk.messages == []
    assert talk.raised is None


async def test_a_message_that_the_deadline_cut_off_is_followed_by_nothing(make_app, stage, way, clock):
    """Half of it may be on the wire: an error event behind it would be read as its second half."""
    async with driving(make_app(request_timeout=5.0, client_timeout=60.0), way) as driver:
        talk = driver.begin_chat("drip a", stream=True)
        await talk.until("0 ")
        talk._slow = True
        stage.cases["a"].step()
        said = len(talk.messages)
        await talk.over.wait()
    assert len(talk.messages) == said
    assert not talk.ended


async def test_a_whole_answer_that_is_read_slowly_is_not_cut_by_the_deadline_of_the_backend(make_app, way, clock):
    async with driving(make_app(request_timeout=5.0, client_timeout=60.0), way) as driver:
        talk = driver.begin_chat("echo a", slow=True)
        await talk.sending.wait()
        await trio.sleep(20)
        talk.let()
        await talk.over.wait()
    assert talk.status == 200
    assert talk.ended


async def test_a_stalled_upload_is_given_up(make_app, clock, caplog):
    caplog.set_level(logging.INFO, "illm.access")
    async with driving(make_app(client_timeout=9.0), "foreign") as driver:
        talk = driver.begin("/v1/chat/completions", headers={"content-type": "application/json"})
        talk._pieces = []
        await talk.over.wait()
    assert talk.status == 408
    assert talk.error["code"] == "request_timeout"
