"""Our test vLLM and SGLang satisfy the official client, so that they do not merely agree with our own code."""

import json
from base64 import b64encode
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from media.pictures import data_url, part, png

from backends.remote.openai_server import Says, running_server

openai = pytest.importorskip("openai", reason="the official client is in the extra `test`")

pytestmark = pytest.mark.parametrize("kind", ["vllm", "sglang"])

HI = [{"role": "user", "content": "hi"}]
TEXT = " Hello there!"
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
TOOL = {"type": "function", "function": {"name": "f", "parameters": SCHEMA}}
NAMED = {"type": "function", "function": {"name": "f"}}
JSON_SCHEMA = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
WAV = b"RIFF\x24\x00\x00\x00WAVEfmt "
CHAT, TEXTS = "/v1/chat/completions", "/v1/completions"


@pytest.fixture
def server(kind):
    with running_server(kind) as server:
        yield server


@pytest.fixture
def client(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0) as client:
        yield client


def chat(client, **fields):
    return client.chat.completions.create(**{"model": "m1", "messages": HI, **fields})


def test_it_lists_its_model(client):
    assert [model.id for model in client.models.list()] == ["m1"]


def test_it_chats(client, kind):
    answer = chat(client, n=2, stop=["re"], temperature=1)
    assert [choice.message.content for choice in answer.choices] == [" Hello the"] * 2
    assert {choice.finish_reason for choice in answer.choices} == {"stop"}
    assert answer.id.startswith("chatcmpl-") == (kind == "vllm")
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 4
    assert chat(client, max_completion_tokens=2).choices[0].finish_reason == "length"


def test_it_streams(client, kind):
    chunks = list(chat(client, stream=True, stream_options={"include_usage": True}))
    deltas = [chunk.choices[0].delta for chunk in chunks[:-1]]
    assert "".join(delta.content or "" for delta in deltas) == TEXT
    assert [delta.role for delta in deltas if delta.role] == ["assistant"]
    assert (chunks[-1].choices, chunks[-1].usage.completion_tokens) == ([], 4)
    *_, last = (chunk.choices[0] for chunk in chunks[:-1])
    assert (last.finish_reason, last.delta.content) == ("stop", "!" if kind == "vllm" else None)
    assert not any(chunk.usage for chunk in chat(client, stream=True))


def test_the_clients_own_helper_folds_its_streams(client, server):
    server.says = Says(calls=[("f", ('{"a"', ":1}"))])
    with client.chat.completions.stream(model="m1", messages=HI, tools=[TOOL]) as stream:
        stream.until_done()
        [call] = stream.get_final_completion().choices[0].message.tool_calls
    assert (call.function.name, call.function.arguments) == ("f", '{"a":1}')


def test_it_calls_tools(client, server, kind):
    server.says = Says(calls=[("f", ('{"a"', ":1}")), ("f", ("{}",))])
    choice = chat(client, tools=[TOOL]).choices[0]
    assert [call.function.arguments for call in choice.message.tool_calls] == ['{"a":1}', "{}"]
    assert len({call.id for call in choice.message.tool_calls}) == 2
    assert choice.finish_reason == "tool_calls"
    assert len(chat(client, tools=[TOOL], parallel_tool_calls=False).choices[0].message.tool_calls) == 1
    named = chat(client, tools=[TOOL], tool_choice=NAMED).choices[0]
    assert named.finish_reason == ("stop" if kind == "vllm" else "tool_calls")
    assert chat(client, tools=[TOOL], tool_choice="none").choices[0].message.content == TEXT


def test_it_tells_what_it_thought(client, server, kind):
    server.says = Says(reasoning=("Hm", "..."))
    name = "reasoning" if kind == "vllm" else "reasoning_content"
    answer = chat(client)
    assert getattr(answer.choices[0].message, name) == "Hm..."
    assert answer.choices[0].message.content == TEXT
    deltas = [chunk.choices[0].delta for chunk in chat(client, stream=True)]
    assert "".join(getattr(delta, name, None) or "" for delta in deltas) == "Hm..."
    assert hasattr(deltas[-1], "reasoning_content") == (kind == "sglang")  # always there; a null says nothing


def test_it_keeps_to_a_schema(client):
    assert json.loads(chat(client, response_format=JSON_SCHEMA).choices[0].message.content) == {"a": 1}


def test_it_gives_logprobs(client, kind):
    choice = chat(client, logprobs=True, top_logprobs=2).choices[0]
    assert [one.token for one in choice.logprobs.content] == [" Hello", " the", "re", "!"]
    assert [other.token for other in choice.logprobs.content[0].top_logprobs] == [" Hello", " other1"]
    told = client.completions.create(model="m1", prompt="a", logprobs=1).choices[0].logprobs
    assert told.text_offset == ([0, 6, 10, 12] if kind == "vllm" else [-1] * 4)
    assert len(told.top_logprobs[0]) == (2 if kind == "vllm" else 1)


def test_it_continues_prompts(client):
    answer = client.completions.create(model="m1", prompt=["a", "b"], n=2, echo=True, max_tokens=1, temperature=1)
    assert [choice.text for choice in answer.choices] == ["a Hello", "a Hello", "b Hello", "b Hello"]
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    chunks = client.completions.create(model="m1", prompt=[1, 2], stream=True)
    assert "".join(chunk.choices[0].text for chunk in chunks) == TEXT


def test_it_sees_and_hears(client, server):
    sound = {"type": "input_audio", "input_audio": {"data": b64encode(WAV).decode(), "format": "wav"}}
    chat(client, messages=[{"role": "user", "content": [part({"url": data_url(png())}), sound]}])
    assert (server.noticed.images, server.noticed.sounds) == ([png()], [WAV])


def test_it_opens_what_it_is_pointed_at(client, server):
    for url in ("http://169.254.169.254/x", "file:///etc/passwd"):
        with pytest.raises(openai.APIStatusError):
            chat(client, messages=[{"role": "user", "content": [part({"url": url})]}])
    assert server.noticed.opened == ["http://169.254.169.254/x", "file:///etc/passwd"]


def transcribe(client, **fields):
    return client.audio.transcriptions.create(**{"model": "m1", "file": ("a.wav", WAV), **fields})


def test_it_writes_down_what_it_hears(client, server, kind):
    assert transcribe(client, temperature=0, language="en").text == TEXT
    assert server.noticed.sounds == [WAV]
    assert transcribe(client, response_format="verbose_json").segments[0].end == 3.5
    plain = transcribe(client, response_format="text")
    assert (TEXT in plain, plain == TEXT) == (True, kind == "sglang")
    events = list(transcribe(client, stream=True))
    assert {event.object for event in events} == {"transcription.chunk"}
    for word in ("srt", "vtt"):
        with pytest.raises(openai.BadRequestError):
            transcribe(client, response_format=word)
    server.hears = False
    with pytest.raises(openai.BadRequestError):
        transcribe(client)


def test_errors_in_its_streams_reach_the_client(client, server):
    server.says = Says(error_after=2)
    chunks = chat(client, stream=True)
    assert next(chunks).choices
    with pytest.raises(openai.APIError, match="CUDA error"):
        list(chunks)


def test_it_wants_its_key(client, server):
    server.key = "sesame"
    with pytest.raises(openai.AuthenticationError):
        chat(client)
    assert chat(client.with_options(api_key="sesame")).choices


def test_it_counts_who_left(client, server):
    server.says = Says(stall_after=2)
    stream = chat(client, stream=True)
    assert next(stream).choices
    assert (server.running, server.left) == (1, 0)
    stream.close()
    server.until(lambda: (server.running, server.left, server.open) == (0, 1, 0))


def post(server, path, body, kind="application/json"):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    try:
        with urlopen(Request(server.url + path, data, {"content-type": kind})) as answer:
            return answer.status, json.loads(answer.read())
    except HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


def image(**fields):
    return {"messages": [{"role": "user", "content": [{"type": "image_url", **fields}]}]}


PNG = data_url(png())

STRICT = [
    # path, body, status of vLLM, status of SGLang
    (CHAT, b"{", 400, 400),
    (CHAT, {}, 400, 400),
    (CHAT, {"messages": []}, 400, 400),
    (CHAT, {"messages": HI, "model": "nope"}, 404, 200),
    (CHAT, {"messages": HI, "model": "m1:latest"}, 404, 400),
    (CHAT, {"messages": HI, "model": ""}, 200, 200),
    (CHAT, {"messages": [{"role": "alien", "content": "x"}]}, 200, 400),
    (CHAT, {"messages": HI, "temperature": "hot"}, 400, 400),
    (CHAT, {"messages": HI, "temperature": -1}, 400, 400),
    (CHAT, {"messages": HI, "temperature": 2.5}, 400, 200),
    (CHAT, {"messages": HI, "temperature": 0, "n": 2}, 400, 200),
    (CHAT, {"messages": HI, "top_p": 0}, 400, 400),
    (CHAT, {"messages": HI, "top_k": 0}, 200, 400),
    (CHAT, {"messages": HI, "n": None}, 200, 400),
    (CHAT, {"messages": HI, "logprobs": None}, 200, 400),
    (CHAT, {"messages": HI, "temperature": None, "tools": None}, 200, 200),
    (CHAT, {"messages": HI, "stop": ["a", "b", "c", "d", "e"]}, 400, 200),
    (CHAT, {"messages": HI, "top_logprobs": 2}, 400, 200),
    (CHAT, {"messages": HI, "logprobs": True, "top_logprobs": 21}, 400, 200),
    (CHAT, {"messages": HI, "stream_options": {"include_usage": True}}, 400, 200),
    (CHAT, {"messages": HI, "tools": []}, 400, 200),
    (CHAT, {"messages": HI, "tool_choice": "auto"}, 400, 200),
    (CHAT, {"messages": HI, "tool_choice": "required"}, 400, 400),
    (CHAT, {"messages": HI, "tools": [TOOL], "tool_choice": {"type": "allowed_tools"}}, 400, 400),
    (CHAT, {"messages": HI, "tools": [TOOL], "tool_choice": "required", "response_format": JSON_SCHEMA}, 200, 400),
    (CHAT, {"messages": HI, "response_format": {"type": "json_schema"}}, 400, 400),
    (CHAT, {"messages": HI, "response_format": {"type": "nonsense"}}, 400, 400),
    (CHAT, {"messages": HI, "structured_outputs": {"regex": "a", "choice": ["a"]}}, 400, 200),
    (CHAT, {"messages": HI, "structured_outputs": {"regex": "a"}, "response_format": JSON_SCHEMA}, 400, 200),
    (CHAT, {"messages": HI, "regex": "a", "ebnf": "root ::= a"}, 200, 400),
    (CHAT, {"messages": HI, "guided_json": {}}, 200, 200),  # and unconstrained
    (CHAT, {"messages": HI, "reasoning_effort": 0.5}, 400, 200),
    (CHAT, {"messages": HI, "max_tokens": 500}, 400, 400),
    (CHAT, {"messages": HI, "max_tokens": 199}, 200, 400),
    (CHAT, {"messages": [{"role": "user", "content": "a " * 198}], "max_tokens": 9}, 200, 400),
    (CHAT, {"messages": [{"role": "user", "content": "a " * 300}]}, 400, 400),
    (CHAT, image(image_url={"url": PNG}), 200, 200),
    (CHAT, image(image_url=PNG), 200, 400),
    (CHAT, image(image_url={"url": PNG, "detail": "original"}), 200, 400),
    (CHAT, image(image_url={"url": PNG.partition(",")[2]}), 400, 200),
    (CHAT, image(image_url={"url": "data:image/png;base64,AAAA"}), 422, 400),
    (CHAT, {"messages": [{"role": "user", "content": [{"type": "file", "file": {}}]}]}, 400, 400),
    (TEXTS, {}, 400, 400),
    (TEXTS, {"prompt": "a", "suffix": "b"}, 400, 200),
    (TEXTS, {"prompt": "a", "temperature": None}, 200, 400),
    (TEXTS, {"prompt": "a", "max_tokens": 0}, 400, 400),
    (TEXTS, {"prompt": "a", "logprobs": 30}, 400, 200),
    ("/v1/embeddings", {"input": "a"}, 404, 400),
    ("/v1/nothing", {}, 404, 404),
]


@pytest.mark.parametrize(("path", "body", "vllm", "sglang"), STRICT)
def test_it_is_as_strict_as_the_document_says(server, kind, path, body, vllm, sglang):
    status, answer = post(server, path, body)
    assert status == {"vllm": vllm, "sglang": sglang}[kind], answer
    if status != 200 and "detail" not in answer:
        complaint = answer["error"] if kind == "vllm" else answer
        assert complaint["code"] == status
        assert complaint["message"]


def test_it_wants_to_be_told_that_it_is_json(server):
    assert post(server, CHAT, {"messages": HI}, "text/plain")[0] == 400


def test_it_notices_what_it_ignores(server, kind):
    assert post(server, CHAT, {"messages": HI, "guided_json": {}, "max_token": 5, "regex": "a"})[0] == 200
    assert server.noticed.ignored == {"guided_json", "max_token"} | ({"regex"} if kind == "vllm" else set())


def test_it_has_no_tools_without_a_parser(server, kind):
    server.parses_tools = False
    status, answer = post(server, CHAT, {"messages": HI, "tools": [TOOL]})
    if kind == "vllm":
        assert status == 400
        assert "requires --enable-auto-tool-choice" in answer["error"]["message"]
    else:
        assert answer["choices"][0]["message"]["content"] == TEXT
