"""What recorded servers say unasked: the probe, the lists of models, and what Ollama's adapter makes of all of them."""

import json

import anyio
import pytest

from backends.remote.recordings import read, recorded
from backends.remote.replay_compare import asked_differ
from backends.remote.replay_gateway import replay_gateway
from backends.remote.replay_server import replay_server
from backends.remote.replay_tables import FRAMEWORKS, OLLAMA, OLLAMA_DIFFERS, PROBED, SHOWN
from backends.remote.test_replay_exchanges import check_failure
from illm.backends.remote.address import parse_address
from illm.backends.remote.connection import Connection
from illm.backends.remote.probe import Answer, fetch
from illm.backends.remote.server import Server

pytestmark = [pytest.mark.anyio, pytest.mark.exhaustive]

GETS = [(server, case) for server, case in recorded() if read(server, case).method == "GET" and read(server, case).wire]
LISTS = [(server, case) for server, case in GETS if read(server, case).path == "/v1/models"]


@pytest.mark.parametrize(("server", "case"), GETS)
async def test_a_probe_reads_every_recorded_get(server, case):
    exchange = read(server, case)
    with anyio.fail_after(10):
        async with replay_server(server) as replay:
            asked = Server("vllm", 0, parse_address(replay.server.url))
            connection = Connection()
            await connection.open(asked)
            assert await fetch(connection, asked, exchange.path) == Answer(exchange.status, exchange.body)
            connection.close()


@pytest.mark.parametrize(("server", "case"), LISTS)
async def test_the_models_of_a_server_are_listed_and_shown(server, case):
    exchange = read(server, case)
    theirs = {model["id"] for model in json.loads(exchange.body)["data"]}
    async with replay_gateway(server) as gateway:
        answer = await gateway.ask(exchange.sent)
        assert set(gateway.upstream.probed) == PROBED[FRAMEWORKS[server]]
        ours = {model["id"]: model for model in json.loads(answer.body)["data"]}
        assert {name for name, model in ours.items() if model["owned_by"] == FRAMEWORKS[server]} == theirs
        for path in SHOWN:
            shown = await gateway.ask(exchange.sent.replace(b" /v1/models ", f" {path} ".encode()))
            assert shown.status == (200 if path.removeprefix("/v1/models/") in theirs else 404)
        assert gateway.upstream.server.requests == []


@pytest.mark.parametrize("server", OLLAMA)
async def test_ollamas_adapter_and_servers_that_are_none_or_nearly(server):
    exchange = read(server, "ollama_chat")
    async with replay_gateway(server, "ollama") as gateway:
        assert set(gateway.upstream.probed) == PROBED["ollama"]
        listed = await gateway.ask(read(server, "get_v1_models").sent)
        names = {model["id"] for model in json.loads(listed.body)["data"] if model["owned_by"] == "ollama"}
        assert names == ({"gemma"} if server == "sglang" else {"ollama"})
        gateway.upstream.play(exchange)
        answer = await gateway.ask(exchange.sent.replace(b"/api/chat", b"/v1/chat/completions"))
        (seen,) = gateway.upstream.server.requests
        assert asked_differ(exchange, seen.body) == OLLAMA_DIFFERS.keys()
    check_failure(exchange, answer, OLLAMA[server])
