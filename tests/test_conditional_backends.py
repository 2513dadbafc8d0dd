"""Against real servers, where there are any: through ILLM, over a socket, with the official client.

Whichever `ILLM_*_BASE_URL` are set are used, and an Ollama on this machine:

    ILLM_VLLM_BASE_URL=http://gpu:8001 pytest tests/test_conditional_backends.py -rs

What a server does not offer is skipped, with its own words.  `tox -e vllm` (and `sglang`, `llamacpp`) starts the server
itself and knows what it offers, so nothing is skipped there but what `LACKS` names.
"""

import json
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import pytest

from illm.config import environment_name

openai = pytest.importorskip("openai", reason="the official client is in the extra `test`")

from real.gateway import served  # noqa: E402
from real.load import await_running, requests_running  # noqa: E402

# The first request for log-probabilities or a schema may compile for a minute on a CPU.
pytestmark = pytest.mark.timeout(400)

OLLAMA = "http://127.0.0.1:11434"
SERVER = os.environ.get("REAL_SERVER")
KIND = os.environ.get("REAL_KIND")

LACKS = {
    ("llamacpp", "forced tools"): "llama.cpp takes 'required' for a wish where the template alone describes the tools",
    ("llamacpp", "unknown model"): "llama.cpp serves its one model under any name",
    ("sglang", "unknown model"): "SGLang serves its one model under any name",
}
CHOICE = {
    "vllm": {"structured_outputs": {"choice": ["red", "blue"]}},
    "sglang": {"regex": "(red|blue)"},
    "llamacpp": {"grammar": 'root ::= "red" | "blue"'},
}
"""What each server calls a constraint that OpenAI has no name for."""

QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
STOP = ["\nUser:"]
PLAIN = {"messages": QUESTION, "max_tokens": 24, "temperature": 0, "stop": STOP}
ENDLESS = {"messages": QUESTION, "max_tokens": 1500, "temperature": 0, "extra_body": {"ignore_eos": True}}
SCHEMA = {
    "type": "object",
    "properties": {"city": {"enum": ["Paris", "Rome"]}, "capital": {"type": "boolean"}},
    "required": ["city", "capital"],
    "additionalProperties": False,
}
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
            "required": ["city"],
        },
    },
}
# A base model calls a function only if it has just seen that done.
CONVERSATION = [
    {"role": "user", "content": "What is the weather in Rome?"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"id": "call_a", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Rome"}'}}
        ],
    },
    {"role": "tool", "tool_call_id": "call_a", "content": "Sunny."},
    {"role": "assistant", "content": "It is sunny in Rome."},
    {"role": "user", "content": "What is the weather in Paris?"},
]


def configured(framework: str) -> str:
    """Return the address of a framework's server, or skip and say why."""
    variable = environment_name(f"{framework}_base_url")
    address = os.environ.get(variable)
    if address:
        return address
    if framework == "ollama":
        try:
            httpx.get(f"{OLLAMA}/api/version", timeout=2).raise_for_status()
        except httpx.HTTPError as error:
            pytest.skip(f"{variable} is not set and no Ollama answers at {OLLAMA} ({type(error).__name__})")
        return OLLAMA
    pytest.skip(f"{variable} is not set")


def needs(what: str) -> None:
    """Skip what this server is known to lack."""
    if (SERVER, what) in LACKS:
        pytest.skip(LACKS[SERVER, what])


@contextmanager
def offered():
    """Skip if the server says that it does not do this; one that we started ourselves has no such excuse."""
    try:
        yield
    except openai.APIStatusError as error:
        if SERVER is not None or error.status_code not in (400, 422):
            raise
        pytest.skip(f"not offered: {error}")


@pytest.fixture(
    scope="module", params=[os.environ["REAL_FRAMEWORK"]] if SERVER else ["vllm", "sglang", "tgi", "ollama"]
)
def framework(request) -> str:
    """Each framework whose server can be reached."""
    configured(request.param)
    return request.param


@pytest.fixture(scope="module", params=["asyncio", "trio"])
def client(request, framework):
    """The official client, with ILLM between it and the server."""
    environment = {
        **os.environ,
        "ILLM_FRAMEWORK": framework,
        environment_name(f"{framework}_base_url"): configured(framework),
    }
    with (
        served(environment, request.param) as url,
        openai.OpenAI(base_url=url, api_key="any", max_retries=0, timeout=300) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def model(client) -> str:
    """The first model of the server."""
    listed = client.models.list().data
    assert listed, "the server lists no model"
    return listed[0].id


@pytest.fixture
def text(client, model):
    """Skip where the server only embeds."""
    if KIND == "embeddings":
        pytest.skip("the server embeds texts")
    return client, model


def test_a_chat_is_answered(text):
    client, model = text
    answer = client.chat.completions.create(model=model, **PLAIN)
    (choice,) = answer.choices
    assert choice.message.role == "assistant"
    assert choice.message.content
    assert "\nUser:" not in choice.message.content
    assert choice.finish_reason in ("stop", "length")
    assert 0 < answer.usage.completion_tokens <= 24
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.model == model
    if SERVER:
        assert choice.message.content == " The capital of France is Paris."


def test_a_chat_is_streamed(text):
    client, model = text
    whole = client.chat.completions.create(model=model, **PLAIN)
    chunks = list(
        client.chat.completions.create(model=model, **PLAIN, stream=True, stream_options={"include_usage": True})
    )
    deltas = [choice for chunk in chunks for choice in chunk.choices]
    assert "".join(choice.delta.content or "" for choice in deltas) == whole.choices[0].message.content
    assert [choice.delta.role for choice in deltas if choice.delta.role] == ["assistant"]
    assert [choice.finish_reason for choice in deltas if choice.finish_reason] == [whole.choices[0].finish_reason]
    (usage,) = [chunk.usage for chunk in chunks if chunk.usage]
    assert chunks[-1].usage == usage
    assert usage.completion_tokens == whole.usage.completion_tokens
    assert len({chunk.id for chunk in chunks}) == 1


def test_usage_is_streamed_only_if_asked_for(text):
    client, model = text
    chunks = list(client.chat.completions.create(model=model, **PLAIN, stream=True))
    assert [chunk.usage for chunk in chunks if chunk.usage] == []
    assert all(chunk.choices for chunk in chunks)


def test_completions(text):
    client, model = text
    asked = {"model": model, "max_tokens": 8, "temperature": 0}
    answer = client.completions.create(**asked, prompt=["Paris is the capital of", "One, two, three,"])
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert all(choice.text for choice in answer.choices)
    if SERVER:
        assert "France" in answer.choices[0].text
        assert "four" in answer.choices[1].text
    pieces = list(client.completions.create(**asked, prompt="Paris is the capital of", stream=True))
    streamed = "".join(choice.text for piece in pieces for choice in piece.choices)
    # Not the same text: rounding depends on what else is computed at the time, and greedy choices on rounding.
    assert streamed.startswith(" France" if SERVER else "")
    assert [choice.finish_reason for choice in pieces[-1].choices] in (["length"], ["stop"])


def test_several_choices(text):
    client, model = text
    asked = {**PLAIN, "temperature": 1, "n": 2}
    answer = client.chat.completions.create(model=model, **asked)
    assert [choice.index for choice in answer.choices] == [0, 1]
    ended = {}
    for chunk in client.chat.completions.create(model=model, **asked, stream=True):
        for choice in chunk.choices:
            assert choice.index not in ended
            if choice.finish_reason:
                ended[choice.index] = choice.finish_reason
    assert set(ended) == {0, 1}


def test_several_choices_at_temperature_zero(text):
    client, model = text
    answer = client.chat.completions.create(model=model, **PLAIN, n=2)
    first, second = answer.choices
    assert first.message.content == second.message.content


def test_json_schema(text):
    client, model = text
    asked = {**PLAIN, "max_tokens": 60, "response_format": {"type": "json_schema", "json_schema": {"name": "c"}}}
    asked["response_format"]["json_schema"]["schema"] = SCHEMA
    with offered():
        answer = client.chat.completions.create(model=model, **asked)
    value = json.loads(answer.choices[0].message.content)
    assert value.keys() == {"city", "capital"}
    assert value["city"] in ("Paris", "Rome")
    chunks = client.chat.completions.create(model=model, **asked, stream=True)
    streamed = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert json.loads(streamed) == value


def test_the_servers_own_constraints_pass_through(text):
    client, model = text
    if SERVER not in CHOICE:
        pytest.skip("what this server calls a constraint is not known")
    answer = client.chat.completions.create(model=model, **PLAIN, extra_body=CHOICE[SERVER])
    assert answer.choices[0].message.content in ("red", "blue")


def test_logprobs_of_a_chat(text):
    client, model = text
    asked = {**PLAIN, "max_tokens": 4, "logprobs": True, "top_logprobs": 3}
    with offered():
        answer = client.chat.completions.create(model=model, **asked)
    tokens = answer.choices[0].logprobs.content
    assert len(tokens) == answer.usage.completion_tokens
    assert "".join(token.token for token in tokens) == answer.choices[0].message.content
    for token in tokens:
        assert token.logprob <= 0
        assert [top.logprob for top in token.top_logprobs] == sorted(
            (top.logprob for top in token.top_logprobs), reverse=True
        )
        assert token.top_logprobs[0].token == token.token  # greedy
    streamed = [
        token.token
        for chunk in client.chat.completions.create(model=model, **asked, stream=True)
        for choice in chunk.choices
        if choice.logprobs
        for token in choice.logprobs.content or []
    ]
    assert streamed == [token.token for token in tokens]


def test_logprobs_of_a_completion(text):
    client, model = text
    with offered():
        answer = client.completions.create(
            model=model, prompt="The capital of France is", max_tokens=4, temperature=0, logprobs=2
        )
    logprobs = answer.choices[0].logprobs
    assert "".join(logprobs.tokens) == answer.choices[0].text
    assert len(logprobs.token_logprobs) == len(logprobs.top_logprobs) == len(logprobs.text_offset)
    assert logprobs.text_offset[0] == 0


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_weather"}}, "auto"])
def test_tools(text, choice):
    client, model = text
    if choice != "auto":
        needs("forced tools")
    elif SERVER is None:
        pytest.skip("whether a model calls a function of its own accord depends on the model")
    asked = {**PLAIN, "messages": CONVERSATION, "max_tokens": 60, "tools": [TOOL], "tool_choice": choice}
    asked["parallel_tool_calls"] = False
    with offered():
        answer = client.chat.completions.create(model=model, **asked)
    (chosen,) = answer.choices
    (call,) = chosen.message.tool_calls
    assert call.id
    assert call.function.name == "get_weather"
    assert json.loads(call.function.arguments)["city"] in ("Paris", "Rome")
    # OpenAI says `stop` where the client itself named the function.  A base model does not stop after its call.
    assert chosen.finish_reason == ("stop" if isinstance(choice, dict) else "tool_calls") or choice == "auto"
    deltas = [
        delta
        for chunk in client.chat.completions.create(model=model, **asked, stream=True)
        for one in chunk.choices
        for delta in one.delta.tool_calls or []
    ]
    assert {delta.index for delta in deltas} == {0}
    assert [delta.function.name for delta in deltas if delta.function.name] == ["get_weather"]
    assert len([delta.id for delta in deltas if delta.id]) == 1
    assert "".join(delta.function.arguments or "" for delta in deltas) == call.function.arguments


def test_an_unknown_model_is_not_found(text):
    client, _ = text
    needs("unknown model")
    with pytest.raises(openai.NotFoundError) as raised:
        client.chat.completions.create(model="no-such-model", **PLAIN)
    assert raised.value.code == "model_not_found"


def test_a_prompt_that_is_too_long_says_so(text, framework):
    client, model = text
    if SERVER is None:
        pytest.skip("how long is too long is not known")
    with pytest.raises(openai.BadRequestError) as raised:
        client.chat.completions.create(
            model=model, **{**PLAIN, "messages": [{"role": "user", "content": "word " * 5000}]}
        )
    assert raised.value.code == "context_length_exceeded"
    assert configured(framework) not in raised.value.message
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(
            model=model, **{**PLAIN, "messages": [{"role": "user", "content": "word " * 5000}]}, stream=True
        )


def test_a_schema_that_is_none_is_refused(text):
    client, model = text
    broken = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "no such type"}}}
    with pytest.raises(openai.APIStatusError) as raised:
        client.chat.completions.create(model=model, **PLAIN, response_format=broken)
    assert raised.value.status_code in (400, 422)


def test_many_at_once(text):
    client, model = text
    whole = client.chat.completions.create(model=model, **PLAIN)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: client.chat.completions.create(model=model, **PLAIN), range(8)))
    if SERVER:
        assert {answer.choices[0].message.content for answer in answers} == {whole.choices[0].message.content}


def _counting(framework):
    address = configured(framework)
    if requests_running(address) is None:
        assert SERVER is None, "the server should count its requests"
        pytest.skip("the server does not say how many requests it is working on")
    assert await_running(address, range(1), 60) is not None
    return address


def _await_idle(client, framework, address):
    """Wait until nothing is asked of the server any more, then until it has noticed; return how long that took."""
    health = str(client.base_url).removesuffix("/v1/") + "/healthz"
    start, pause = time.monotonic(), threading.Event()
    active = None
    while active != 0 and time.monotonic() < start + 2:
        pause.wait(0.02)
        providers = httpx.get(health, timeout=30, trust_env=False).json()["providers"]
        (models,) = (provider["models"] for provider in providers if provider["framework"] == framework)
        active = sum(replica["active"] for model in models for replica in model["replicas"])
    assert active == 0, "the gateway still asks for a client that left"
    # llama.cpp has been seen to look at its connection only after more than ten seconds.
    assert await_running(address, range(1), 40) is not None, "the server still works for a client that left"
    return time.monotonic() - start


def test_a_stream_that_is_left_stops_the_server(text, framework):
    client, model = text
    address = _counting(framework)
    stream = client.chat.completions.create(model=model, **ENDLESS, stream=True)
    seen = [next(stream) for _ in range(3)]
    assert not any(choice.finish_reason for chunk in seen for choice in chunk.choices)
    assert await_running(address, range(1, 2), 10) is not None
    stream.close()
    took = _await_idle(client, framework, address)
    print(f"\nthe server was idle {took:.2f} s after the client of a stream left")  # noqa: T201 - for the record


def test_a_request_that_is_left_before_its_first_byte_stops_the_server(text, framework):
    client, model = text
    address = _counting(framework)
    impatient = client.with_options(timeout=openai.Timeout(60, read=4))
    failed = []

    def ask():
        try:
            impatient.chat.completions.create(model=model, **ENDLESS)
        except openai.APITimeoutError as error:
            failed.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    assert await_running(address, range(1, 2), 10) is not None
    thread.join()
    assert failed, "the server was too fast for this test"
    took = _await_idle(client, framework, address)
    print(f"\nthe server was idle {took:.2f} s after the client of a whole answer left")  # noqa: T201 - for the record


def test_embeddings(client, model):
    if KIND == "text":
        pytest.skip("the server writes texts")
    texts = ["A cat sits on the mat.", "A kitten rests on a rug.", "Interest rates rose again."]
    with offered():
        answer = client.embeddings.create(model=model, input=texts, encoding_format="float")
    assert [item.index for item in answer.data] == [0, 1, 2]
    cat, kitten, rates = (item.embedding for item in answer.data)
    assert len(cat) == len(kitten) == len(rates) > 1
    assert answer.usage.prompt_tokens > 0
    alone = client.embeddings.create(model=model, input=texts[0], encoding_format="float").data[0].embedding
    packed = client.embeddings.create(model=model, input=texts[0])  # the client asks for base64 by itself
    assert packed.data[0].embedding == pytest.approx(alone, abs=1e-4)
    if SERVER in ("vllm", "sglang"):  # sentence embedders; what llama.cpp makes of a text depends on its company
        assert len(cat) == 384
        assert cat == pytest.approx(alone, abs=2e-3)
        assert _dot(cat, kitten) > _dot(cat, rates) + 0.2


def _dot(left, right):
    return sum(a * b for a, b in zip(left, right, strict=True))


def test_a_chat_with_an_embedder_is_refused(client, model):
    if KIND != "embeddings":
        pytest.skip("the server writes texts")
    if SERVER == "llamacpp":
        pytest.skip("llama.cpp embeds with a model that can also write")
    with pytest.raises(openai.APIStatusError) as raised:
        client.chat.completions.create(model=model, **PLAIN)
    assert raised.value.status_code in (400, 404, 422)


@pytest.mark.parametrize("loop", ["asyncio", "trio"])
def test_the_ollama_dialect_against_the_api_that_sglang_copies(loop):
    if (SERVER, KIND) != ("sglang", "text"):
        pytest.skip("a second implementation of Ollama's protocol is in SGLang")
    environment = {**os.environ, "ILLM_FRAMEWORK": "ollama", "ILLM_OLLAMA_BASE_URL": configured("sglang")}
    with (
        served(environment, loop) as url,
        openai.OpenAI(base_url=url, api_key="any", max_retries=0, timeout=300) as client,
    ):
        asked = {"model": "gemma", **PLAIN, "extra_body": {"framework": "ollama"}}
        answer = client.chat.completions.create(**asked)
        assert answer.choices[0].message.content.lstrip() == "The capital of France is Paris."
        assert answer.usage.completion_tokens > 0
        chunks = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
        streamed = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
        assert streamed == answer.choices[0].message.content
        assert [chunk.usage for chunk in chunks if chunk.usage] == [chunks[-1].usage]
        assert "gemma" in [model.id for model in client.models.list(extra_query={"framework": "ollama"})]
