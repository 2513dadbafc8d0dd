"""ILLM in front of ILLM in OpenAI's dialect, over real sockets: what comes through two is what comes out of one."""

import gc
from contextlib import asynccontextmanager
from functools import partial

import anyio
import pytest

from backends.remote.ollama_server import running_ollama
from backends.remote.openai_gateway import HI, LEFT_BEHIND, NAMED, OTHER, TEXT, TOOL, choices, openai
from backends.remote.openai_server import Says
from backends.remote.serving import serving

pytestmark = [pytest.mark.anyio, LEFT_BEHIND]


@asynccontextmanager
async def two_gateways(server, **said):
    """Yield clients of the one in front and of the one behind, which is a vLLM to the other."""
    async with (
        serving(framework=server.kind, **{f"{server.kind}_base_url": (server.url,)}, **said) as behind,
        serving(framework="vllm", vllm_base_url=(behind,), vllm_api_key=said.get("api_key")) as front,
        openai.AsyncOpenAI(base_url=f"{front}/v1", api_key="any", max_retries=0) as far,
        openai.AsyncOpenAI(base_url=f"{behind}/v1", api_key="sesame", max_retries=0) as near,
    ):
        yield far, near
        gc.collect()


@pytest.fixture
async def clients(server):
    async with two_gateways(server) as clients:
        yield clients


def told(answer):
    """Return what clients make of an answer, less what is new each time."""
    return answer.model_dump(exclude={"id", "created", "system_fingerprint", "metadata"})


async def asked(client, **fields):
    return await client.chat.completions.create(**{"model": "m1", "messages": HI, **fields})


async def folded(client, **fields):
    """Ask for a stream, and fold its pieces together."""
    text, thought, reasons, calls, usage = {}, {}, {}, {}, []
    chunks = [chunk async for chunk in await asked(client, stream=True, **fields)]
    for choice in choices(chunks):
        at, delta = choice.index, choice.delta
        text[at] = text.get(at, "") + (delta.content or "")
        thought[at] = thought.get(at, "") + (getattr(delta, "reasoning_content", None) or "")
        reasons |= {at: choice.finish_reason} if choice.finish_reason else {}
        for call in delta.tool_calls or ():
            name, arguments = calls.get((at, call.index), ("", ""))
            function = call.function
            calls[at, call.index] = (name + (function.name or ""), arguments + (function.arguments or ""))
    usage = [chunk.usage.model_dump() for chunk in chunks if chunk.usage]
    return text, thought, reasons, calls, usage


COUNTED = {"stream_options": {"include_usage": True}}


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"stop": "re", "max_completion_tokens": 3},
        {"logprobs": True, "top_logprobs": 2},
        {"n": 2, "temperature": 0},
        {"tools": [TOOL, OTHER], "tool_choice": "none"},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}},
    ],
)
async def test_chats(clients, server, fields):
    server.says = Says(reasoning=("Hm", "..."))
    far, near = [told(await asked(client, **fields)) for client in clients]
    assert far == near
    far, near = [await folded(client, **fields, **COUNTED) for client in clients]
    assert far == near
    assert far[1][0] == "Hm..."
    assert len(far[4]) == 1
    assert (await folded(clients[0], **fields))[4] == []


async def test_tools(clients, server):
    server.says = Says(calls=[("f", ('{"a"', ":1}")), ("g", ())])
    for fields in ({}, {"tool_choice": NAMED}, {"tool_choice": "required"}, {"parallel_tool_calls": False}):
        answers = [(await asked(client, tools=[TOOL, OTHER], **fields)).choices[0] for client in clients]
        far, near = [
            ([call.function for call in answer.message.tool_calls], answer.finish_reason) for answer in answers
        ]
        assert far == near
        far, near = [await folded(client, tools=[TOOL, OTHER], **fields) for client in clients]
        assert far == near
        assert far[3][0, 0] == ("f", '{"a":1}')


async def test_completions_and_transcripts(clients):
    for fields in ({"prompt": ["a", "b"], "echo": True}, {"prompt": "a", "logprobs": 1}):
        far, near = [told(await client.completions.create(model="m1", **fields)) for client in clients]
        assert far == near
    for word in ("json", "text", "srt"):
        ask = {"model": "m1", "file": ("a.wav", b"RIFF"), "response_format": word}
        far, near = [await client.audio.transcriptions.create(**ask) for client in clients]
        assert far == near


async def test_models_are_the_same(clients):
    listed = [[model.id async for model in client.models.list()] for client in clients]
    assert listed[0] == listed[1]
    assert "m1" in listed[0]


@pytest.mark.parametrize(
    ("fields", "seen"),
    [
        ({"messages": [{"role": "user", "content": "a " * 300}]}, ("context_length_exceeded", "messages")),
        ({"temperature": -1}, (None, "temperature")),
        ({"extra_body": {"guided_json": {}}}, ("unsupported_parameter", "guided_json")),
    ],
)
async def test_refusals(clients, fields, seen):
    for stream in (False, True):
        for client in clients:
            with pytest.raises(openai.BadRequestError) as caught:
                await asked(client, stream=stream, **fields)
            assert (caught.value.code, caught.value.param) == seen


async def test_failures(clients, server):
    server.says = Says(error_after=2)
    for client in clients:
        with pytest.raises(openai.APIError):
            await folded(client)
    server.sees = server.hears = False
    for client in clients:
        with pytest.raises(openai.UnprocessableEntityError) as caught:
            await client.audio.transcriptions.create(model="m1", file=("a.wav", b"RIFF"))
        assert caught.value.type == "CapabilityNotSupported"
    server.busy = True
    for client in clients:
        with pytest.raises(openai.RateLimitError) as caught:
            await asked(client)
        assert caught.value.response.headers["retry-after"]


async def test_the_key_between_them(server):
    async with two_gateways(server, api_key="sesame") as clients:
        far, near = [told(await asked(client)) for client in clients]
        assert far == near


async def test_embeddings():
    """SGLang and vLLM embed where nothing else can be asked of them; an Ollama behind does both."""
    with running_ollama() as ollama:
        async with (
            serving(framework="ollama", ollama_base_url=(ollama.url,)) as behind,
            serving(framework="vllm", vllm_base_url=(behind,)) as front,
            openai.AsyncOpenAI(base_url=f"{front}/v1", api_key="any", max_retries=0) as far,
            openai.AsyncOpenAI(base_url=f"{behind}/v1", api_key="any", max_retries=0) as near,
        ):
            for fields in ({"input": ["a", "bb"]}, {"input": "a", "dimensions": 3, "encoding_format": "float"}):
                answers = [await client.embeddings.create(model="minilm", **fields) for client in (far, near)]
                assert [row.embedding for row in answers[0].data] == [row.embedding for row in answers[1].data]
                assert answers[0].usage == answers[1].usage
            with pytest.raises(openai.NotFoundError) as caught:
                await far.embeddings.create(model="nope", input="a", extra_body={"framework": "vllm"})
            assert caught.value.code == "model_not_found"


async def until(server, condition):
    with anyio.fail_after(10):
        await anyio.to_thread.run_sync(server.until, condition, abandon_on_cancel=True)


@pytest.mark.parametrize("stream", [True, False])
async def test_leaving_goes_through_both(clients, server, stream):
    server.says = Says(stall_after=0)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(partial(asked, clients[0], stream=stream))
        await until(server, lambda: server.running == 1)
        tasks.cancel_scope.cancel()
    await until(server, lambda: (server.left, server.running) == (1, 0))


async def test_leaving_in_the_middle_goes_through_both(clients, server):
    server.says = Says(tokens=("a",) * 9, stall_after=6)
    stream = await asked(clients[0], stream=True)
    seen = 0
    async for chunk in stream:
        seen += bool(chunk.choices[0].delta.content)
        if seen == 3:
            break
    assert (server.left, server.running) == (0, 1)
    await stream.close()
    del stream
    gc.collect()
    await until(server, lambda: (server.left, server.running) == (1, 0))


async def test_text_arrives_while_it_is_written(clients, server):
    server.says = Says(stall_after=3)
    async with await asked(clients[0], stream=True) as stream:
        text = ""
        async for chunk in stream:
            text += chunk.choices[0].delta.content or ""
            if text == TEXT[:10]:
                break
    del stream
    gc.collect()
    await until(server, lambda: (server.left, server.running) == (1, 0))
