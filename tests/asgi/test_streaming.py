"""Answers as they are made: token by token, honest about failure, stopped when the client leaves."""

import anyio
import pytest

from asgi.driver import driving

pytestmark = pytest.mark.anyio


async def test_a_token_reaches_the_client_before_the_next_one_is_made(make_app, stage, way):
    async with driving(make_app(), way) as driver:
        talk = driver.begin_chat("drip a", stream=True)
        said = ""
        for number in range(5):
            said += f"{number} "
            await talk.until(said)  # the backend cannot go on: it waits for the step below
            assert talk.text == said
            stage.cases["a"].step()
        talk.leave()
        await talk.over.wait()


async def test_a_stream_has_its_headers_and_ends_with_done(make_app, way):
    async with driving(make_app(), way) as driver:
        talk = await driver.chat("echo hello you", stream=True, stream_options={"include_usage": True})
    assert talk.status == 200
    assert talk.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert talk.headers["cache-control"] == "no-cache"
    assert talk.headers["x-accel-buffering"] == "no"
    assert "content-length" not in talk.headers
    assert talk.text == "hello you"
    *_, finish, usage, done = talk.frames
    assert finish["choices"][0]["finish_reason"] == "stop"
    assert usage["choices"] == []
    assert usage["usage"]["total_tokens"] == 5
    assert done == "[DONE]"
    assert talk.ended


async def test_choices_are_told_apart(make_app, way):
    async with driving(make_app(), way) as driver:
        whole = await driver.chat("echo a b", n=3)
        streamed = await driver.chat("echo a b", n=3, stream=True)
    assert [choice["message"]["content"] for choice in whole.json["choices"]] == ["a b"] * 3
    assert {choice["index"] for frame in streamed.frames[:-1] for choice in frame["choices"]} == {0, 1, 2}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("prompt", "status", "type_"), [
    ("refuse", 502, "RemoteEndpointError"),
    ("crash", 500, "server_error"),
    ("die", 500, "server_error"),
])  # fmt: skip
async def test_failure_before_the_first_byte_has_a_status(make_app, way, prompt, status, type_, stream):
    async with driving(make_app(), way) as driver:
        talk = await driver.chat(prompt, stream=stream)
    assert talk.status == status
    assert talk.headers["content-type"] == "application/json"
    assert talk.error["type"] == type_
    assert talk.error["message"]
    assert talk.ended


@pytest.mark.parametrize("prompt", ["late-crash a", "late-refusal a", "late-death a"])
async def test_failure_after_the_first_byte_is_an_event_and_no_clean_finish(make_app, stage, way, prompt):
    async with driving(make_app(), way) as driver:
        talk = driver.begin_chat(prompt, stream=True)
        await talk.until("begun")
        stage.cases["a"].step()
        await talk.over.wait()
    *chunks, error, done = talk.frames
    assert error["error"]["message"]
    assert done == "[DONE]"
    assert all(choice["finish_reason"] is None for chunk in chunks for choice in chunk["choices"])
    assert talk.ended


@pytest.mark.parametrize("prompt", ["late-crash a", "late-refusal a", "late-death a", "unfinished"])
async def test_an_answer_that_is_not_streamed_is_whole_or_an_error(make_app, stage, way, prompt):
    stage.cases["a"].step()
    async with driving(make_app(), way) as driver:
        talk = await driver.chat(prompt)
    assert talk.status >= 500
    assert talk.error["code"] in ("internal_error", "bad_upstream", "backend_died")
    assert talk.error["code"] != "internal_error" or prompt == "late-crash a"


async def test_a_stream_whose_choices_never_finished_ends_with_an_error(make_app, way):
    async with driving(make_app(), way) as driver:
        talk = await driver.chat("unfinished", stream=True)
    assert "error" in talk.frames[-2]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_bug_before_the_first_byte_is_a_500_logged_once(make_app, way, stream, caplog):
    async with driving(make_app(), way) as driver:
        talk = await driver.chat("nonsense", stream=stream)
    assert talk.status == 500
    assert talk.error["code"] == "internal_error"
    assert len([record for record in caplog.records if record.exc_info]) == 1


async def test_a_bug_after_the_first_byte_leaves_the_response_unfinished(make_app, stage, way, caplog):
    async with driving(make_app(), way) as driver:
        talk = driver.begin_chat("late-nonsense a", stream=True)
        await talk.until("begun")
        stage.cases["a"].step()
        await talk.over.wait()
    assert talk.raised is None
    assert not talk.ended
    assert len([record for record in caplog.records if record.exc_info]) == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_an_exception_of_the_backend_is_logged_once_with_its_traceback(make_app, stage, way, stream, caplog):
    async with driving(make_app(), way) as driver:
        talk = driver.begin_chat("late-crash a", stream=stream, headers={"x-request-id": "r-1"})
        await stage.cases["a"].held.wait()
        if stream:
            await talk.until("begun")
        stage.cases["a"].step()
        await talk.over.wait()
    tracebacks = [record for record in caplog.records if record.exc_info]
    assert len(tracebacks) == 1
    assert tracebacks[0].exc_info[0] is ZeroDivisionError
    assert "r-1" in tracebacks[0].getMessage()
    assert b"crashed as told" not in talk.body


@pytest.mark.parametrize("stream", [False, True])
async def test_leaving_before_the_first_token_stops_the_work(make_app, stage, way, stream):
    async with driving(make_app(), way) as driver:
        talk = driver.begin_chat("hold a", stream=stream)
        await stage.cases["a"].held.wait()
        talk.leave()
        await talk.over.wait()
        await stage.cases["a"].gone.wait()
    assert talk.messages == []
    assert talk.raised is None


async def test_leaving_in_the_middle_stops_the_work(make_app, stage, way):
    async with driving(make_app(), way) as driver:
        talk = driver.begin_chat("drip a", stream=True)
        await talk.until("0 ")
        talk.leave()
        await talk.over.wait()
        await stage.cases["a"].gone.wait()
    assert not talk.ended


async def test_leaving_while_queued_frees_the_place(make_app, stage, way):
    async with driving(make_app(), way) as driver:
        ref = next(ref for ref in await driver.directory() if ref.model == "narrow")
        driver.begin_chat("hold first", model="narrow")
        await stage.cases["first"].held.wait()
        queued = [driver.begin_chat("echo", model="narrow") for _ in range(2)]
        await anyio.wait_all_tasks_blocked()
        assert ref.inbox.waiting == 2
        full = await driver.chat("echo", model="narrow")
        assert full.status == 429
        queued[0].leave()
        await queued[0].over.wait()
        assert ref.inbox.waiting == 1
        stage.cases["first"].step()
        await queued[1].over.wait()
        assert queued[1].status == 200
    assert queued[0].messages == []


async def test_a_client_that_is_gone_before_the_work_begins_costs_little(make_app, stage, way):
    async with driving(make_app(), way) as driver:
        talk = driver.begin_chat("hold a", stream=True)
        talk.leave()
        await talk.over.wait()
        if way == "foreign" and stage.cases["a"].held.is_set():  # it takes a turn of the loop to hear of it
            await stage.cases["a"].gone.wait()
        else:
            assert not stage.cases["a"].held.is_set()
    assert talk.messages == []


async def test_a_send_that_raises_ends_the_work_too(make_app, stage):
    """A host between us and the server may swallow the disconnect and only refuse what is sent."""
    async with driving(make_app(), "foreign") as driver:
        talk = driver.begin_chat("drip a", stream=True)
        await talk.until("0 ")
        talk._left = anyio.Event()  # `receive` goes on waiting for the old one
        talk._left.set()
        stage.cases["a"].step()
        await talk.over.wait()
        await stage.cases["a"].gone.wait()


async def test_a_host_that_repeats_the_empty_body_for_ever_does_not_hang_the_loop(make_app):
    async with driving(make_app(), "foreign") as driver:
        talk = driver.begin_chat("echo hi")

        async def receive():
            piece = talk._pieces.pop(0) if talk._pieces else b""
            return {"type": "http.request", "body": piece, "more_body": False}

        talk._receive = receive
        await talk.over.wait()
    assert talk.status == 200
