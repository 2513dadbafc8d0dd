"""TGI's routes: its shapes, its errors, its headers, over a backend that says what a test wants."""

import json

import anyio
import pytest

from asgi.tgi_scripted import BLUE, Script, gateway, serving, token
from illm.core.events import Delta, Done, Finish, Usage
from illm.errors import GatewayError, Kind

pytestmark = pytest.mark.anyio


def events(body: str) -> list:
    frames = body.split("\n\n")
    assert frames.pop() == ""
    assert all(frame.startswith("data:{") for frame in frames)
    return [json.loads(frame.removeprefix("data:")) for frame in frames]


TOKENS = [
    {"id": 1, "text": " Bl", "logprob": -0.25, "special": False},
    {"id": 2, "text": "ué", "logprob": -0.5, "special": False},
    {"id": 3, "text": "</s>", "logprob": -0.75, "special": True},
]


async def test_an_answer_in_one_piece():
    async with serving(gateway(script := Script())) as client:
        answer = await client.post("/generate", json={"inputs": "Say:"})
        assert answer.json() == {"generated_text": " Blué"}
        assert (answer.headers["x-prompt-tokens"], answer.headers["x-generated-tokens"]) == ("5", "3")
        assert answer.headers["x-request-id"]
    [request] = script.requests
    assert request.prompts == ("Say:",)
    assert request.sampling.temperature == 1
    assert request.sampling.logprobs is None


async def test_details():
    async with serving(gateway(Script())) as client:
        body = {"inputs": "Say:", "parameters": {"details": True, "return_full_text": True, "seed": 7, "top_k": 5}}
        answer = (await client.post("/generate", json=body)).json()
    assert answer == {
        "generated_text": "Say: Blué",
        "details": {
            "finish_reason": "eos_token",
            "generated_tokens": 3,
            "seed": 7,
            "prefill": [],
            "tokens": TOKENS,
        },
    }


async def test_a_stream():
    async with serving(gateway(Script())) as client:
        answer = await client.post("/generate_stream", json={"inputs": "Say:", "parameters": {"details": True}})
    assert answer.headers["content-type"] == "text/event-stream"
    details = {"finish_reason": "eos_token", "generated_tokens": 3, "seed": None, "input_length": 5}
    assert events(answer.text) == [
        {"index": 1, "token": TOKENS[0], "generated_text": None, "details": None},
        {"index": 2, "token": TOKENS[1], "generated_text": None, "details": None},
        {"index": 3, "token": TOKENS[2], "generated_text": " Blué", "details": details},
    ]


async def test_a_stream_without_details_still_ends_with_the_text():
    async with serving(gateway(Script())) as client:
        answer = await client.post("/generate_stream", json={"inputs": "Say:"})
    assert [event["details"] for event in events(answer.text)] == [None] * 3
    assert events(answer.text)[-1]["generated_text"] == " Blué"


async def test_tokens_leave_as_they_come():
    script = Script(gates={1: anyio.Event(), 2: anyio.Event()})
    async with (
        serving(gateway(script)) as client,
        client.stream("POST", "/generate_stream", json={"inputs": "Say:"}) as answer,
    ):
        pieces = answer.aiter_text()
        assert [event["token"]["id"] for event in events(await anext(pieces))] == [1]
        script.gates[1].set()
        assert [event["token"]["id"] for event in events(await anext(pieces))] == [2]
        script.gates[2].set()
        assert [event["token"]["id"] for event in events("".join([piece async for piece in pieces]))] == [3]


async def test_leaving_a_stream_stops_the_backend():
    script = Script(gates={1: anyio.Event()})
    async with serving(gateway(script)) as client:
        body = b'{"inputs":"Say:"}'
        head = b"POST /generate_stream HTTP/1.1\r\nhost: here\r\ncontent-length: %d\r\n\r\n" % len(body)
        async with await anyio.connect_tcp(client.base_url.host, client.base_url.port) as stream:
            await stream.send(head + body)
            said = b""
            while b"data:" not in said:
                said += await stream.receive()
        with anyio.fail_after(5):
            await script.left.wait()


@pytest.mark.parametrize("stream", [True, False])
async def test_the_compatible_route_does_both(stream):
    async with serving(gateway(Script())) as client:
        answer = await client.post("/", json={"inputs": "Say:", "stream": stream})
    if stream:
        assert events(answer.text)[-1]["generated_text"] == " Blué"
    else:
        assert answer.json() == [{"generated_text": " Blué"}]


STOPPED = (
    (token(1, "Blue"),),
    # As the engine does it: what may be a stop string is held back from the text, not from the tokens.
    (Delta(0, "", 1, token(2, " E").logprobs),),
    (Delta(0, "", 1, token(3, "ND and").logprobs), Finish(0, "stop", " END"), Done(Usage(5, 3))),
)


async def test_the_stop_string_stays_in_the_text():
    parameters = {"details": True, "stop": [" END"]}
    async with serving(gateway(script := Script(STOPPED))) as client:
        whole = (await client.post("/generate", json={"inputs": "Say:", "parameters": parameters})).json()
        streamed = await client.post("/generate_stream", json={"inputs": "Say:", "parameters": parameters})
    assert script.requests[0].sampling.stop == (" END",)
    assert whole["generated_text"] == "Blue END"
    assert whole["details"]["finish_reason"] == "stop_sequence"
    seen = events(streamed.text)
    assert "".join(event["token"]["text"] for event in seen) == "Blue END"
    assert seen[-1]["generated_text"] == "Blue END"
    assert seen[-1]["details"]["finish_reason"] == "stop_sequence"


async def test_a_backend_that_tells_no_tokens_apart():
    """Whatever answers for tgi may not know its tokens: there is an end all the same."""
    script = Script(((Delta(0, "Bl", 1),), (Delta(0, "ue", 1),), (Finish(0, "length"), Done(Usage(5, 2)))))
    async with serving(gateway(script)) as client:
        answer = await client.post("/generate_stream", json={"inputs": "Say:", "parameters": {"details": True}})
    seen = events(answer.text)
    assert "".join(event["token"]["text"] for event in seen) == "Blue"
    assert seen[-1]["generated_text"] == "Blue"
    assert seen[-1]["details"]["finish_reason"] == "length"


async def test_alternatives():
    script = Script(((token(1, "Blue", top=["Red", "Tan"]), Finish(0, "length"), Done(Usage(5, 1))),))
    parameters = {"details": True, "top_n_tokens": 2}
    async with serving(gateway(script)) as client:
        whole = (await client.post("/generate", json={"inputs": "Say:", "parameters": parameters})).json()
        streamed = await client.post("/generate_stream", json={"inputs": "Say:", "parameters": parameters})
    top = [
        {"id": 90, "text": "Red", "logprob": -2.0, "special": False},
        {"id": 91, "text": "Tan", "logprob": -2.0, "special": False},
    ]
    assert whole["details"]["top_tokens"] == [top]
    assert events(streamed.text)[0]["top_tokens"] == top
    assert [request.sampling.logprobs for request in script.requests] == [2, 2]


async def test_the_best_of_two_comes_first():
    worse = (token(3, "worse", index=0), Finish(0, "length"))
    better = (token(1, "better", index=1), Finish(1, "length"))
    script = Script(((*worse, *better, Done(Usage(5, 2))),))
    parameters = {"details": True, "best_of": 2, "do_sample": True}
    async with serving(gateway(script)) as client:
        answer = (await client.post("/generate", json={"inputs": "Say:", "parameters": parameters})).json()
    assert script.requests[0].sampling.n == 2
    assert answer["generated_text"] == "better"
    assert answer["details"]["generated_tokens"] == 1
    [other] = answer["details"]["best_of_sequences"]
    assert (other["generated_text"], other["generated_tokens"]) == ("worse", 1)


async def test_what_only_some_backends_honour_is_passed_on_or_refused():
    body = {"inputs": "Say:", "parameters": {"truncate": 5}}
    async with serving(gateway(script := Script())) as client:
        answer = await client.post("/generate", json=body)
        assert answer.status_code == 422
        assert answer.json()["error_type"] == "validation"
        assert "`truncate`" in answer.json()["error"]
    assert script.requests == []
    async with serving(gateway(script := Script(supported=frozenset({"truncate"})))) as client:
        assert (await client.post("/generate", json=body)).status_code == 200
    assert script.requests[0].body == {"truncate": 5}


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (GatewayError(Kind.OVERLOADED, "too many"), 429, "overloaded"),
        (GatewayError(Kind.UPSTREAM, "boom"), 424, "generation"),
        (GatewayError(Kind.INTERNAL, "boom"), 500, "generation"),
        (GatewayError(Kind.BACKEND_DIED, "boom"), 500, "incomplete_generation"),
        (GatewayError(Kind.CONTEXT_LENGTH, "too long"), 422, "validation"),
        (GatewayError(Kind.UNREACHABLE, "gone"), 503, "healthcheck"),
    ],
)
@pytest.mark.parametrize("path", ["/generate", "/generate_stream"])
async def test_failures_have_their_status(error, status, kind, path):
    async with serving(gateway(Script((error,)))) as client:
        answer = await client.post(path, json={"inputs": "Say:"})
    assert answer.status_code == status
    assert answer.json()["error_type"] == kind
    assert error.message in answer.json()["error"]
    assert ("retry-after" in answer.headers) == (error.retry_after is not None)


async def test_a_failure_in_the_middle_is_the_last_event():
    gate = anyio.Event()
    script = Script((BLUE[0], GatewayError(Kind.UPSTREAM, "boom")), gates={1: gate})
    async with (
        serving(gateway(script)) as client,
        client.stream("POST", "/generate_stream", json={"inputs": "Say:"}) as answer,
    ):
        pieces = answer.aiter_text()
        first = await anext(pieces)
        gate.set()
        seen = events(first + "".join([piece async for piece in pieces]))
    assert seen[1:] == [{"error": "Request failed during generation: boom", "error_type": "generation"}]


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/generate"), ("POST", "/generate_stream"), ("POST", "/"), ("GET", "/info"), ("GET", "/health")],
)
async def test_nobody_is_there(method, path):
    async with serving(gateway(None)) as client:
        answer = await client.request(method, path, json={"inputs": "Say:"})
    assert answer.status_code == 503
    assert answer.json() == {"error": "TGI base_url is not configured", "error_type": "RemoteEndpointError"}
    assert answer.headers["x-should-retry"] == "false"


async def test_info_and_health():
    async with serving(gateway(Script())) as client:
        info = (await client.get("/info")).json()
        health = await client.get("/health")
    assert info["model_id"] == "org/model"
    assert (info["max_total_tokens"], info["max_input_tokens"], info["max_stop_sequences"]) == (96, 95, 4)
    assert (health.status_code, health.content) == (200, b"")


async def test_other_paths_and_methods_are_as_ever():
    async with serving(gateway(Script())) as client:
        assert (await client.get("/generate")).status_code == 405
        assert (await client.get("/")).headers["allow"] == "POST"
        assert (await client.post("/nothing")).status_code == 404


async def test_the_key_is_asked_for_here_too():
    async with serving(gateway(Script(), api_key="sesame")) as client:
        assert (await client.post("/generate", json={"inputs": "Say:"})).status_code == 401
        headers = {"authorization": "Bearer sesame"}
        assert (await client.post("/generate", json={"inputs": "Say:"}, headers=headers)).status_code == 200


async def test_the_operators_limit_holds_where_the_client_names_none():
    async with serving(gateway(script := Script(), max_tokens=9)) as client:
        await client.post("/generate", json={"inputs": "Say:"})
        await client.post("/generate", json={"inputs": "Say:", "parameters": {"max_new_tokens": 4}})
    assert [request.sampling.max_tokens for request in script.requests] == [9, 4]
