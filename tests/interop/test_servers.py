"""The application on other people's servers: streaming, and above all leaving, work on each of them."""

import json
import socket
from contextlib import suppress

import httpx
import pytest

from interop.servers import KINDS, running

pytestmark = pytest.mark.interop


@pytest.fixture(scope="module", params=KINDS)
def server(request):
    with running(request.param) as server:
        server.until_loaded()
        yield server


def test_a_chat(server):
    response = server.ask("echo hello you", headers={"x-request-id": "mine"})
    assert response.status_code == 200
    assert response.json()["choices"][0]["message"]["content"] == "hello you"
    assert response.headers["x-request-id"] == "mine"


def test_a_token_arrives_before_the_next_one_is_made(server):
    case = server.case()
    with server.stream(f"drip {case}") as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["cache-control"] == "no-cache"
        assert response.headers["x-accel-buffering"] == "no"
        arriving = contents(response)
        for number in range(4):
            assert next(arriving) == f"{number} "
            server.ask(f"step {case}")
    assert server.ask(f"gone {case}").status_code == 200


@pytest.mark.parametrize("stream", [False, True])
def test_leaving_before_the_first_token_stops_the_work(server, stream):
    case = server.case()
    with server.asking(f"hold {case}", stream=stream):
        server.ask(f"held {case}")
    assert server.ask(f"gone {case}").status_code == 200


def test_leaving_in_the_middle_stops_the_work(server):
    case = server.case()
    with server.asking(f"drip {case}", stream=True) as connection:
        received = b""
        while b'"0 "' not in received:
            received += connection.recv(65536)
    assert server.ask(f"gone {case}").status_code == 200


def test_leaving_while_queued_frees_the_place(server):
    first, second = server.case(), server.case()
    with server.asking(f"hold {first}", model="narrow"):
        server.ask(f"held {first}")
        with server.asking(f"hold {second}", model="narrow"):
            while server.models()["narrow"]["waiting"] == 0:
                pass
        while server.models()["narrow"]["waiting"]:
            pass
    server.ask(f"gone {first}")
    assert server.ask("echo a", model="narrow").status_code == 200


@pytest.mark.parametrize("stream", [False, True])
def test_failure_before_the_first_byte_has_a_status(server, stream):
    response = server.ask("refuse", stream=stream)
    assert response.status_code == 502
    assert response.json()["error"]["message"] == "refused as told"


def test_failure_in_the_middle_is_an_event(server):
    case = server.case()
    with server.stream(f"late-refusal {case}") as response:
        lines = response.iter_lines()
        while "begun" not in next(lines):
            pass
        server.ask(f"step {case}")
        *_, error, done = [line for line in lines if line]
    assert json.loads(error.removeprefix("data: "))["error"]["message"] == "refused as told"
    assert done == "data: [DONE]"


def test_a_bug_in_the_middle_is_no_clean_end(server):
    case = server.case()
    rest = ""
    with server.stream(f"late-nonsense {case}") as response:
        lines = response.iter_lines()
        while "begun" not in next(lines):
            pass
        server.ask(f"step {case}")
        with suppress(httpx.TransportError):
            rest = "".join(lines)
    assert "[DONE]" not in rest
    assert '"finish_reason":"' not in rest


def test_embeddings(server):
    response = server.client.post("/v1/embeddings", json={"input": ["a", "bcd"]})
    assert [row["embedding"][0] for row in response.json()["data"]] == [1.0, 3.0]


def test_a_large_body_is_a_413(server):
    body = b'{"messages": [], "user": "' + b"x" * (1 << 21) + b'"}'
    try:
        response = server.client.post(
            "/v1/chat/completions", content=body, headers={"content-type": "application/json"}
        )
    except httpx.WriteError:  # the server closed while it was still being sent to, which is allowed
        return
    assert response.status_code == 413


def test_methods_and_paths(server):
    assert server.client.get("/nothing").status_code == 404
    refused = server.client.get("/v1/chat/completions")
    assert (refused.status_code, refused.headers["allow"]) == (405, "POST")
    head = server.client.head("/v1/models")
    assert (head.status_code, head.content) == (200, b"")
    assert server.client.get("/v1/models/org%2Fnone").json()["error"]["message"].count("org/none") == 1


def test_a_websocket_is_refused(server):
    with socket.create_connection(server.address, timeout=30) as connection:
        connection.sendall(
            b"GET /v1/realtime HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
            b"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        status = connection.recv(65536).split(b" ")[1]
    assert status in (b"403", b"404")


def test_a_reader_that_stops_stalls_nobody_and_is_dropped(server):
    if server.kind == "hypercorn-trio":
        pytest.skip("hypercorn's trio worker shields its writes from cancellation, so it keeps a client that stalls")
    with server.asking("flood 60000 100000", stream=True) as connection:
        assert connection.recv(100)
        answered = 0
        while server.models()["script"]["active"]:  # until the application's patience is over
            assert server.ask("echo quick", model="narrow").status_code == 200
            answered += 1
        assert answered


def contents(response):
    for line in response.iter_lines():
        if line.startswith("data: {"):
            for choice in json.loads(line.removeprefix("data: "))["choices"]:
                if choice["delta"].get("content"):
                    yield choice["delta"]["content"]
