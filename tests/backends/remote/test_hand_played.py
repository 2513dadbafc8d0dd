"""Connections at moments that a real server cannot be made to hit: before it is asked, as it fills up, at the end."""

import socket
from contextlib import contextmanager

import anyio.lowlevel
import pytest

from backends.remote.echo import answer, ask, failure, running, text
from backends.remote.fake_server import chunk, fake_server, head, response
from backends.remote.wired import Hand, Hands
from illm.backends.remote.workers import UNREAD_BYTES
from illm.core.events import Delta, Done, Failed
from illm.errors import GatewayError, Kind

pytestmark = pytest.mark.anyio

OK = response(b"fine")


@pytest.fixture
def hands(monkeypatch: pytest.MonkeyPatch) -> Hands:
    hands = Hands()
    hands.install(monkeypatch)
    return hands


async def asked(hands: Hands, number: int = 0) -> Hand:
    """A connection, once its request has been written."""
    while len(hands.opened) <= number or not hands.opened[number].written:
        await anyio.lowlevel.checkpoint()
    return hands.opened[number]


@pytest.mark.parametrize(
    ("first", "closes"), [(b"", False), (b"", True), (b"SSH-2.0-OpenSSH\r\n", None), (b"SSH-2.0-OpenSSH\r\n", False)]
)
async def test_a_server_that_speaks_or_goes_before_it_is_asked_has_answered_badly(hands, first, closes):
    hands.first, hands.closes = first, closes
    with anyio.fail_after(10):
        async with fake_server() as server, running(server.url) as ref:
            assert (await failure(ref)).kind is Kind.UPSTREAM
            assert len(hands.opened) == 1  # a new connection: never again
            assert hands.opened[0].aborted


async def test_a_connection_that_comes_about_as_its_client_leaves_is_closed_unasked(hands):
    with anyio.fail_after(10):
        async with fake_server() as server, running(server.url) as ref:
            call = ref.call(ask())
            hands.meanwhile = call.leave
            while not hands.opened:
                await anyio.lowlevel.checkpoint()
            assert hands.opened[0].aborted
            assert hands.opened[0].written == []


async def test_what_the_loop_has_not_told_yet_is_seen_before_a_connection_is_used_again(hands):
    with anyio.fail_after(10), closing_pair() as (ours, theirs):
        async with fake_server() as server, running(server.url) as ref:
            hands.meanwhile = lambda: setattr(hands.opened[-1], "socket", ours)
            call = ref.call(ask())
            hand = await asked(hands)
            hand.say(OK)
            call.leave()
            with ref.call(ask("again")):
                assert hand.written[-1].endswith(b"again")
                hand.say(OK)
            theirs.send(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
            with ref.call(ask("once more")):
                assert hand.aborted
                assert not hand.written[-1].endswith(b"once more")
                assert (await asked(hands, 1)).written[-1].endswith(b"once more")


@contextmanager
def closing_pair():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


async def test_a_full_reply_stops_the_reading_and_taking_from_it_goes_on(hands):
    with anyio.fail_after(10):
        async with fake_server() as server, running(server.url) as ref:
            with ref.call(ask()) as call:
                hand = await asked(hands)
                hand.say(head(chunked=True))
                for _ in range(64):
                    assert not hand.paused
                    hand.say(chunk(b"x"))
                assert hand.paused
                assert call.reply.take_nowait() == [Delta(0, "x" * 64)]
                assert not hand.paused
                hand.say(chunk(b""))
                assert isinstance(call.reply.take_nowait()[-1], Done)
            assert not hand.aborted


async def test_large_pieces_stop_the_reading_sooner(hands):
    with anyio.fail_after(10):
        async with fake_server() as server, running(server.url) as ref:
            with ref.call(ask()) as call:
                hand = await asked(hands)
                hand.say(head(chunked=True))
                for _ in range(2):  # the count begins anew with what was taken
                    hand.say(chunk(b"x" * UNREAD_BYTES))
                    assert not hand.paused
                    hand.say(chunk(b"x"))
                    assert hand.paused
                    call.reply.take_nowait()
                    assert not hand.paused


async def test_a_connection_whose_last_reader_was_slow_is_read_again_for_the_next(hands):
    with anyio.fail_after(10):
        async with fake_server() as server, running(server.url) as ref:
            with ref.call(ask()):
                hand = await asked(hands)
                hand.say(head(chunked=True), *[chunk(b"x")] * 64)
                assert hand.paused
                hand.say(chunk(b""))  # had come already
            assert not hand.paused
            assert not hand.aborted
            with ref.call(ask()) as call:
                hand.say(OK)
                assert isinstance(call.reply.take_nowait()[-1], Done)


async def test_leaving_while_the_reply_is_full_closes_too(hands):
    with anyio.fail_after(10):
        async with fake_server() as server, running(server.url) as ref:
            with ref.call(ask()):
                hand = await asked(hands)
                hand.say(head(chunked=True), *[chunk(b"x")] * 64)
            assert hand.aborted
            hand.say(chunk(b"late"))  # what was on its way concerns nobody
            hand.receiver.ended(True)


async def test_what_an_idle_connection_says_or_its_end_retires_it(hands):
    with anyio.fail_after(10):
        async with fake_server() as server, running(server.url) as ref:
            for number, last_words in enumerate((lambda hand: hand.say(b"x"), lambda hand: hand.receiver.ended(False))):
                call = ref.call(ask())
                hand = await asked(hands, number)
                hand.say(OK)
                call.leave()
                last_words(hand)
                assert hand.aborted
                assert ref.served.details()["replicas"][0]["connections"] == 0


async def test_the_next_in_the_mailbox_is_asked_in_the_callback_that_ends_the_last(hands):
    with anyio.fail_after(10):
        async with fake_server() as server, running(server.url, connections=1) as ref:
            first, second, refused, third = [ref.call(ask(name)) for name in ("a", "b", "refuse", "c")]
            hand = await asked(hands)
            assert ref.inbox.waiting == 3
            hand.say(OK)
            assert isinstance(first.reply.take_nowait()[-1], Done)
            assert hand.written[-1].endswith(b"\r\n\r\nb")
            hand.say(OK)
            assert isinstance(second.reply.take_nowait()[-1], Done)
            (failed,) = refused.reply.take_nowait()
            assert isinstance(failed, Failed)
            assert hand.written[-1].endswith(b"\r\n\r\nc")
            hand.say(OK)
            assert isinstance(third.reply.take_nowait()[-1], Done)
            assert len(hands.opened) == 1


async def test_the_mailbox_is_served_on_a_new_connection_where_the_old_one_ends(hands):
    with anyio.fail_after(10):
        async with fake_server() as server, running(server.url, connections=1) as ref:
            with ref.call(ask("a")), ref.call(ask("b")) as second:
                hand = await asked(hands)
                hand.say(response(b"fine", connection="close"))
                assert hand.aborted
                other = await asked(hands, 1)
                other.say(OK)
                assert isinstance(second.reply.take_nowait()[-1], Done)


async def test_a_server_that_answers_before_it_has_read_all_is_asked_nothing_more_there(hands):
    with anyio.fail_after(10):
        async with fake_server() as server, running(server.url) as ref:
            with ref.call(ask()) as call:
                hand = await asked(hands)
                hand.unsent = True
                hand.say(OK)
                assert isinstance(call.reply.take_nowait()[-1], Done)
            assert hand.aborted


async def test_a_dying_actor_leaves_the_mailbox_to_the_next(hands):
    with anyio.fail_after(10):
        async with fake_server() as server, running(server.url, connections=1) as ref:
            with ref.call(ask("a")) as first, ref.call(ask("b")) as second:
                hand = await asked(hands)
                dying = ref.inbox.direct.__self__
                dying._tasks.cancel_scope.cancel()
                hand.say(OK)
                assert isinstance(first.reply.take_nowait()[-1], Done)
                assert second.taken_at is None
                assert hand.written[-1].endswith(b"a")


async def test_a_reply_that_another_closed_ends_the_exchange(hands, caplog):
    with anyio.fail_after(10):
        async with fake_server() as server, running(server.url) as ref:
            with ref.call(ask()) as call:
                hand = await asked(hands)
                hand.say(head(chunked=True))
                call.fail(GatewayError(Kind.SHUTTING_DOWN, "over"))
                hand.say(chunk(b"x"))
                assert hand.aborted
            assert "failed on our side" not in caplog.text


async def test_calls_say_that_their_deadlines_are_kept(hands):
    with anyio.fail_after(10):
        async with fake_server([OK]) as server, running(server.url, connections=1) as ref:
            with ref.call(ask()) as taken, ref.call(ask()) as waiting:
                assert taken.watched
                assert waiting.watched


async def test_real_connections_still_answer_beside_all_this():
    with anyio.fail_after(10):
        async with fake_server([OK]) as server, running(server.url) as ref:
            assert await text(ref) == "fine"
            assert isinstance((await answer(ref))[-1], Done)
