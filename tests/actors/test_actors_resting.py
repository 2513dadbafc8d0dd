"""Who is unloaded: after a time of rest, and for want of memory; and that it comes back for who asks."""

from contextlib import asynccontextmanager
from dataclasses import replace

import anyio
import pytest
from acting import DONE, EAGER, Shelf, answer, chat, echo, running, served, until

from illm.actors.directory import Directory
from illm.actors.ref import Ref, State
from illm.actors.resting import shown, to_go
from illm.core.events import Delta
from illm.errors import GatewayError, Kind


def model(name: str, size: int = 0, *, named: bool = True, behaviour=echo):
    return replace(served(name, behaviour, named=named), unloads=True, memory=lambda: size)


def directory_of(*named, others=(), **options) -> Directory:
    return Directory([Shelf(named=named, others=others)], default="fake", policy=EAGER, max_loaded=4, **options)


def find(directory: Directory, name: str) -> Ref:
    return directory.find(chat(model=name))


def states(directory: Directory) -> dict[str, State]:
    return {ref.model: ref.state for ref in directory}


def said(text: str):
    return [Delta(0, text, 1), DONE]


async def ask(directory: Directory, name: str):
    return await answer(find(directory, name).call(chat("hi", model=name)))


@asynccontextmanager
async def opened(directory: Directory):
    """As `running`, without a limit in time: here it jumps."""
    async with anyio.create_task_group() as tasks:
        directory.open(tasks)
        await directory.settled()
        yield directory
        directory.close()
        tasks.cancel_scope.cancel()


@pytest.mark.trio
async def test_what_nobody_asks_for_is_unloaded_after_its_time_and_comes_back(autojump_clock):
    directory = directory_of(model("a"), served("remote"), others=[model("b", named=False)], keep_alive=100.0)
    async with opened(directory):
        assert directory.status == "ok"
        assert await ask(directory, "b") == said("hi")
        old = find(directory, "a")
        await anyio.sleep(99)
        assert states(directory) == {"a": State.READY, "remote": State.READY, "b": State.READY}
        assert await ask(directory, "a") == said("hi")
        await anyio.sleep(60)
        assert states(directory) == {"a": State.READY, "remote": State.READY}
        await anyio.sleep(90)
        assert states(directory) == {"a": State.IDLE, "remote": State.READY}
        assert directory.status == "ok"
        await directory.settled()
        assert old.state is State.STOPPED
        with pytest.raises(GatewayError, match="unloaded; ask again"):
            old.call(chat("late"))
        assert await ask(directory, "a") == said("hi")
        assert await ask(directory, "b") == said("hi")
        assert states(directory) == {"a": State.READY, "remote": State.READY, "b": State.READY}


@pytest.mark.trio
async def test_who_is_answering_is_not_idle_however_long_it_takes(autojump_clock):
    async def slow(inbox, ready):
        ready()
        while True:
            call = await inbox.take()
            await anyio.sleep(1000)
            call.finish(DONE)

    directory = directory_of(model("slow", behaviour=slow), keep_alive=10.0)
    async with opened(directory):
        assert await ask(directory, "slow") == [DONE]
        assert states(directory) == {"slow": State.READY}
        await anyio.sleep(20)
        assert states(directory) == {"slow": State.IDLE}


@pytest.mark.anyio
async def test_a_model_that_needs_room_takes_it_from_the_longest_unused():
    directory = directory_of(
        model("a", 4), model("b", 4), others=[model("c", 3, named=False), model("d", 20, named=False)], memory_budget=10
    )
    async with running(directory):
        await until(lambda: directory.status == "ok")
        assert await ask(directory, "a") == said("hi")
        assert await ask(directory, "c") == said("hi")
        assert states(directory) == {"a": State.READY, "b": State.IDLE, "c": State.READY}
        assert directory.status == "ok"
        assert await ask(directory, "b") == said("hi")
        assert states(directory) == {"a": State.IDLE, "b": State.READY, "c": State.READY}
        with pytest.raises(GatewayError) as refused:
            await ask(directory, "d")
        assert refused.value.kind is Kind.MODEL_LOAD_FAILED
        assert "needs about 0.0 MB" in refused.value.message


@pytest.mark.anyio
async def test_the_busy_are_not_unloaded():
    async def silent(inbox, ready):
        ready()
        await inbox.take()
        await anyio.sleep_forever()

    directory = directory_of(model("a", 6, behaviour=silent), others=[model("b", 6, named=False)], memory_budget=10)
    async with running(directory):
        await until(lambda: directory.status == "ok")
        with find(directory, "a").call(chat()):
            with pytest.raises(GatewayError) as refused:
                await ask(directory, "b")
            assert refused.value.kind is Kind.OVERLOADED


@pytest.mark.anyio
async def test_named_models_that_do_not_fit_together_take_turns_and_one_that_never_fits_has_failed():
    directory = directory_of(model("a", 6), model("b", 6), model("huge", 60), memory_budget=10)
    async with running(directory):
        await until(lambda: find(directory, "a").state is State.READY)
        assert states(directory) == {"a": State.READY, "b": State.IDLE, "huge": State.FAILED}
        assert directory.status == "degraded"
        assert await ask(directory, "b") == said("hi")
        assert states(directory) == {"a": State.IDLE, "b": State.READY, "huge": State.FAILED}
        with pytest.raises(GatewayError, match="needs about"):
            await ask(directory, "huge")


def test_as_few_as_will_do():
    def ref(name: str, size: int, used: float) -> Ref:
        made = Ref(model(name, size), lambda ref: None)
        made.state, made.used_at = State.READY, used
        return made

    old, new, remote = ref("old", 2, 1.0), ref("new", 5, 2.0), ref("remote", 0, 0.0)
    remote.served = replace(remote.served, unloads=False)
    wanted = ref("wanted", 4, 3.0)
    assert to_go(wanted, [old, new, remote], 11) == []
    assert to_go(wanted, [old, new, remote], 10) == [old]
    assert to_go(wanted, [new, old, remote], 8) == [old, new]


def test_sizes_as_people_read_them():
    assert [shown(size) for size in (0, 1_500_000, 150_000_000, 8 * 10**9)] == ["0.0 MB", "1.5 MB", "0.1 GB", "8.0 GB"]
