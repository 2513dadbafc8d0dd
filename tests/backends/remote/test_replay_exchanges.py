"""Every recorded exchange with a real server, once more, through the whole gateway and over real sockets."""

import json

import pytest
from openai.types import Completion, CreateEmbeddingResponse
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from backends.remote.recordings import WIRE, cases, events, read, recorded
from backends.remote.replay_compare import answers_differ, asked_differ
from backends.remote.replay_gateway import replay_gateway
from backends.remote.replay_tables import (
    DIFFERS,
    FAILS,
    FRAMEWORKS,
    INCAPABLE,
    NOT_OFFERED,
    OFFERED,
    OLLAMA,
    PROBED,
    REFUSED,
    SHOWN,
    TOLD,
    UNRECORDED,
)

pytestmark = [pytest.mark.anyio, pytest.mark.exhaustive]

ALL = recorded()
ANSWERED = [(server, case) for server, case in cases(*FRAMEWORKS, paths=OFFERED) if case not in REFUSED]
TURNED_AWAY = [
    (server, case)
    for server, case in ALL
    if case in REFUSED or (server, case) in INCAPABLE or read(server, case).path in NOT_OFFERED
]
TYPES = {
    "/v1/chat/completions": (ChatCompletion, ChatCompletionChunk),
    "/v1/completions": (Completion, None),  # OpenAI's type wants a reason to end in every chunk; its service has none
    "/v1/embeddings": (CreateEmbeddingResponse, None),
}
"""The official client's types, of a whole answer and of a chunk."""
UNTYPED = {
    "completions_echo_logprobs": "the prompt's first token has no probability, null there too; its type wants a number",
    "embed_base64": "what it decodes before it looks at the type",
}
SECRETS = (b"/opt", b"/data", b"/project", b"site-packages", b"127.0.0.1")


def mechanisms(server, case):
    """Say by which tables a recording is accounted for."""
    exchange = read(server, case)
    post = exchange.method == "POST"
    offered = post and exchange.path in OFFERED
    probed = PROBED[FRAMEWORKS[server]] | (PROBED["ollama"] if server in OLLAMA else set())
    found = {
        "answered": offered and case not in REFUSED,
        "refused": case in REFUSED,
        "ollama": server in OLLAMA and case == "ollama_chat",
        "probed": not post and exchange.path in probed,
        "told": (server, case) in TOLD,
        "incapable": (server, case) in INCAPABLE,
        "shown": not post and exchange.path in SHOWN,
        "not offered": exchange.path in NOT_OFFERED and not (not post and exchange.path in probed),
    }
    return [name for name, holds in found.items() if holds]


async def replay(gateway, exchange):
    """Play an exchange; return the answer, and the body that the server was asked with."""
    gateway.upstream.play(exchange)
    answer = await gateway.ask(exchange.sent)
    assert answer.complete
    (seen,) = gateway.upstream.server.requests
    assert (seen.method, seen.target) == ("POST", exchange.path)
    assert seen.headers["content-type"] == "application/json"
    assert seen.headers["user-agent"] == "illm"
    return answer, seen.body


def check_failure(exchange, answer, expected):
    kind, param = expected
    assert answer.status == kind.value.status
    assert answer.headers["content-type"] == "application/json"
    assert (answer.error["type"], answer.error["param"]) == (kind.value.type, param)
    assert answer.error["message"]
    assert not any(secret in answer.body for secret in SECRETS)


def turned_away(exchange):
    return (NOT_OFFERED.get(exchange.case) or NOT_OFFERED[exchange.path])[0]


def check_types(exchange, answer):
    whole, chunk = TYPES[exchange.path]
    if exchange.streamed:
        for event in events(answer.body) if chunk is not None else ():
            chunk.model_validate(event, strict=True)
    else:
        whole.model_validate_json(answer.body, strict=True)


def test_every_recording_is_accounted_for_once():
    for server, case in ALL:
        assert len(mechanisms(server, case)) == 1, (server, case, mechanisms(server, case))
    paired = {WIRE / server / f"{case}{end}" for server, case in ALL for end in (".req", ".resp")}
    files = {file for file in WIRE.rglob("*") if file.is_file() and file != WIRE / "README.md"}
    assert files <= paired
    assert {(server, case) for server, case in ALL if not read(server, case).wire} == UNRECORDED.keys()
    assert {path.name for path in WIRE.iterdir() if path.is_dir()} == FRAMEWORKS.keys()


def test_no_table_names_what_is_not_recorded():
    names, paths = {case for _, case in ALL}, {read(*name).path for name in ALL}
    assert names >= REFUSED.keys()
    assert {name if isinstance(name, str) else name[1] for name in FAILS} <= names
    assert names | paths >= NOT_OFFERED.keys() | set(SHOWN)
    assert FAILS.keys() - {case for _, case in ANSWERED} <= set(ANSWERED)


@pytest.mark.parametrize(("server", "case"), TOLD)
async def test_tokens_and_ranks_have_one_shape(server, case):
    exchange, expected = read(server, case), TOLD[server, case]
    async with replay_gateway(server) as gateway:
        gateway.upstream.play(exchange)
        answer = await gateway.ask(exchange.sent)
        assert len(gateway.upstream.server.requests) == 1
    told = json.loads(answer.body)
    assert answer.status == 200, told
    assert {name: told[name] for name in expected} == expected


@pytest.mark.parametrize(("server", "case"), ANSWERED)
async def test_an_exchange(server, case):
    exchange = read(server, case)
    async with replay_gateway(server) as gateway:
        answer, asked = await replay(gateway, exchange)
        assert asked_differ(exchange, asked) <= DIFFERS.keys()
        await gateway.upstream.server.until(lambda: gateway.upstream.server.open == 0)
    if exchange.status != 200:
        check_failure(exchange, answer, FAILS.get((server, case), FAILS.get(case)))
        return
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/event-stream" if exchange.streamed else "application/json")
    assert answers_differ(exchange, answer.body) <= DIFFERS.keys()
    if case not in UNTYPED:
        check_types(exchange, answer)


@pytest.mark.parametrize(("server", "case"), TURNED_AWAY)
async def test_what_is_refused_or_not_offered_never_reaches_a_server(server, case):
    exchange = read(server, case)
    status, param = REFUSED.get(case) or INCAPABLE.get((server, case)) or (turned_away(exchange), None)
    async with replay_gateway(server) as gateway:
        gateway.upstream.play(exchange)
        answer = await gateway.ask(exchange.sent)
        assert gateway.upstream.server.requests == []
    assert (answer.status, answer.complete) == (status, True)
    if "error_type" not in json.loads(answer.body):  # TGI's routes have errors in TGI's shape
        assert answer.error["param"] == param


async def test_a_plain_stream_of_vllm_is_not_touched():
    exchange = read("vllm", "chat_stream")
    async with replay_gateway("vllm") as gateway:
        answer, _ = await replay(gateway, exchange)
    assert answer.body == exchange.body


async def test_every_difference_that_is_named_occurs():
    seen = set()
    for server in FRAMEWORKS:
        async with replay_gateway(server) as gateway:
            for exchange in (read(*name) for name in ANSWERED if name[0] == server):
                answer, asked = await replay(gateway, exchange)
                seen |= asked_differ(exchange, asked)
                if exchange.status == 200:
                    seen |= answers_differ(exchange, answer.body)
    assert seen == DIFFERS.keys()
