"""What goes out to Ollama for what a client asks: translated, refused by name, or left to the model's own file."""

from base64 import b64decode, b64encode

import orjson
import pytest

from illm.backends.remote.ollama import OllamaDialect, full_name
from illm.core.requests import Embed, Transcribe
from illm.dialects.openai import parse_chat, parse_completion, parse_embeddings, unsupported
from illm.errors import GatewayError, Kind

PNG = b"\x89PNG\r\n\x1a\n\xfb\xff"
PLAIN = {"model": "m", "stream": False, "truncate": False, "shift": False}
TOOL = {"type": "function", "function": {"name": "f"}}


def chat(messages="hi", **fields):
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    return parse_chat({"model": "m", "messages": messages, **fields})


def complete(prompt="Once", **fields):
    return parse_completion({"model": "m", "prompt": prompt, **fields})


def sent(request):
    outgoing = OllamaDialect().outgoing(request)
    assert outgoing.method == "POST"
    return outgoing.path, orjson.loads(outgoing.body)


def refusal(request):
    with pytest.raises(GatewayError) as caught:
        OllamaDialect().outgoing(request)
    return caught.value


def test_a_plain_chat_says_what_ollama_would_otherwise_decide():
    assert sent(chat()) == ("/api/chat", PLAIN | {"messages": [{"role": "user", "content": "hi"}], "think": False})


def test_a_completion_is_raw():
    assert sent(complete()) == ("/api/generate", PLAIN | {"prompt": "Once", "raw": True, "think": False})


def test_a_stream_is_asked_for_where_one_is_wanted():
    # Left out, it would mean yes.
    assert sent(chat(stream=True))[1]["stream"] is True
    assert sent(complete())[1]["stream"] is False


def test_every_sampling_field_has_its_option():
    fields = {
        "max_completion_tokens": 9,
        "temperature": 0,
        "top_p": 0.9,
        "top_k": -1,
        "min_p": 0.1,
        "repetition_penalty": 1.1,
        "presence_penalty": -1,
        "frequency_penalty": 1,
        "stop": "x",
        "seed": 7,
    }
    assert sent(chat(**fields))[1]["options"] == {
        "num_predict": 9,
        "temperature": 0,
        "top_p": 0.9,
        "top_k": 0,
        "min_p": 0.1,
        "repeat_penalty": 1.1,
        "presence_penalty": -1,
        "frequency_penalty": 1,
        "stop": ["x"],
        "seed": 7,
    }


@pytest.mark.parametrize("seed", [-1, -(2**63), 2**32 - 1, 2**63 - 1])
def test_no_seed_becomes_the_one_that_means_random(seed):
    there = sent(chat(seed=seed))[1]["options"]["seed"]
    assert 0 <= there < 2**31 - 1


def test_vendor_fields_pass_and_win():
    fields = {"options": {"num_ctx": 8192, "temperature": 0.5}, "temperature": 1, "keep_alive": "10m", "shift": True}
    body = sent(chat(**fields, truncate=True))[1]
    assert body["options"] == {"temperature": 0.5, "num_ctx": 8192}
    assert (body["keep_alive"], body["shift"], body["truncate"]) == ("10m", True, True)


@pytest.mark.parametrize(
    ("fields", "think"),
    [
        ({}, False),
        ({"reasoning_effort": "none"}, False),
        ({"reasoning_effort": "minimal"}, "low"),
        ({"reasoning_effort": "medium"}, "medium"),
        ({"reasoning_effort": "xhigh"}, "max"),
        ({"think": True}, True),
        ({"think": "high", "reasoning_effort": "low"}, "high"),
        ({"think": False, "reasoning_effort": "high"}, False),
    ],
)
def test_thinking_is_off_unless_asked_for(fields, think):
    assert sent(chat(**fields))[1]["think"] == think


@pytest.mark.parametrize(
    ("fields", "form"),
    [
        ({"type": "text"}, None),
        ({"type": "json_object"}, "json"),
        ({"type": "json_schema", "json_schema": {"name": "n"}}, "json"),
        ({"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}}, {"type": "object"}),
    ],
)
def test_formats(fields, form):
    assert sent(chat(response_format=fields))[1].get("format") == form


def test_logprobs():
    body = sent(chat(logprobs=True, top_logprobs=20))[1]
    assert (body["logprobs"], body["top_logprobs"]) == (True, 20)
    assert sent(complete(logprobs=0))[1]["top_logprobs"] == 0


def test_tools_and_their_history():
    tool = {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}
    messages = [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {
            "role": "assistant",
            "content": None,
            "reasoning_content": "hm",
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}},
                {"id": "c2", "type": "function", "function": {"name": "g", "arguments": "{not json"}},
                {"id": "c3", "type": "function", "function": {"name": "h", "arguments": ""}},
            ],
        },
        {"role": "tool", "tool_call_id": "c2", "content": "two"},
        {"role": "tool", "tool_call_id": "gone", "content": "?"},
        {"role": "function", "name": "h", "content": "three"},
    ]
    body = sent(chat(messages, tools=[tool, TOOL], tool_choice="auto"))[1]
    assert body["tools"] == [
        {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}},
        {
            "type": "function",
            "function": {"name": "f", "description": "", "parameters": {"type": "object", "properties": {}}},
        },
    ]
    assert body["messages"] == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "ab"},
        {
            "role": "assistant",
            "content": "",
            "thinking": "hm",
            "tool_calls": [
                {"id": "c1", "function": {"index": 0, "name": "f", "arguments": {"a": 1}}},
                {"id": "c2", "function": {"index": 1, "name": "g", "arguments": {"_raw": "{not json"}}},
                {"id": "c3", "function": {"index": 2, "name": "h", "arguments": {}}},
            ],
        },
        {"role": "tool", "content": "two", "tool_call_id": "c2", "tool_name": "g"},
        {"role": "tool", "content": "?", "tool_call_id": "gone"},
        {"role": "tool", "content": "three", "tool_name": "h"},
    ]


def test_an_id_that_turns_use_again_means_the_call_before_it():
    def turn(name):
        call = {"id": "0", "type": "function", "function": {"name": name, "arguments": "{}"}}
        return [{"role": "assistant", "tool_calls": [call]}, {"role": "tool", "tool_call_id": "0", "content": name}]

    messages = sent(chat([*turn("f"), *turn("g")]))[1]["messages"]
    assert [message.get("tool_name") for message in messages] == [None, "f", None, "g"]


def test_no_tools_where_the_client_wants_none():
    assert "tools" not in sent(chat(tools=[TOOL], tool_choice="none"))[1]


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_base64", "image_base64": b64encode(PNG).decode()},
        {"type": "image_base64", "image_base64": b64encode(PNG, altchars=b"-_").decode().rstrip("=")},
        {"type": "image_url", "image_url": {"url": "DATA:image/png;charset=x;BASE64," + b64encode(PNG).decode()}},
        {"type": "image_url", "image_url": "data:image/png;base64,\n" + b64encode(PNG).decode()},
        {"type": "image_url", "image_url": "data:image/png,%89PNG%0D%0A%1A%0A%FB%FF"},
    ],
)
def test_an_image_becomes_plain_base64_beside_the_text(part):
    message = {"role": "user", "content": [part, {"type": "text", "text": "what?"}]}
    written = sent(chat([message]))[1]["messages"][0]
    assert written["content"] == "what?"
    assert [b64decode(image, validate=True) for image in written["images"]] == [PNG]


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest",
        "https://example.com/a.png",
        "data:image/png;base64,?",
        "data:image/png;base64,é",
        "data:image/png;base64,",
        "data:image/png;base64," + b64encode(b"<svg/>").decode(),
        "data:image/png",
    ],
)
def test_what_is_no_image_is_refused_and_never_sent(url):
    message = {"role": "user", "content": [{"type": "text", "text": "x"}, {"type": "image_url", "image_url": url}]}
    error = refusal(chat([message]))
    assert (error.kind, error.param) == (Kind.INVALID_REQUEST, "messages[0].content[1]")


REQUIRED = {"type": "function", "function": {"name": "f"}}


@pytest.mark.parametrize(
    ("request_", "param"),
    [
        (chat(tools=[TOOL], tool_choice="required"), "tool_choice"),
        (chat(tools=[TOOL], tool_choice=REQUIRED), "tool_choice"),
        (chat(tools=[{"type": "function", "function": {"name": "f", "strict": True}}]), "tools[0].function.strict"),
        (chat(logit_bias={"1": 5}), "logit_bias"),
        (chat(ignore_eos=True), "ignore_eos"),
        (chat(logprobs=True, top_logprobs=21), "top_logprobs"),
        (chat(n=2), "n"),
        (chat(response_format={"type": "structural_tag"}), "response_format.type"),
        (chat(suffix="x"), "suffix"),
        (complete(logprobs=21), "logprobs"),
        (complete([1, 2]), "prompt"),
        (complete(""), "prompt"),
        (complete(echo=True, logprobs=1), "echo"),
        (complete(echo=True, max_tokens=0), "max_tokens"),
        (complete(think=True), "think"),
        (complete(reasoning_effort="low"), "reasoning_effort"),
        (complete(tools=[TOOL]), "tools"),
        (complete(response_format={"type": "json_object"}), "response_format"),
        (parse_embeddings({"model": "m", "input": [[1, 2]]}), "input[0]"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(request_, param):
    error = refusal(request_)
    assert (error.kind, error.param) == (Kind.UNSUPPORTED_PARAMETER, param)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"think": "a lot"}, "think"),
        ({"think": 1}, "think"),
        ({"think": [1]}, "think"),
        ({"reasoning_effort": "extreme"}, "reasoning_effort"),
        ({"options": []}, "options"),
        ({"keep_alive": True}, "keep_alive"),
        ({"truncate": "no"}, "truncate"),
    ],
)
def test_what_ollama_would_choke_on_is_refused_here(fields, param):
    error = refusal(chat(**fields))
    assert (error.kind, error.param) == (Kind.INVALID_REQUEST, param)


def test_a_suffix_needs_the_model_s_template():
    body = sent(complete(suffix="end"))[1]
    assert body["suffix"] == "end"
    assert "raw" not in body


def test_embeddings():
    body = parse_embeddings({"model": "m", "input": ["a", "b"], "dimensions": 3, "keep_alive": 0, "user": "me"})
    assert sent(body) == (
        "/api/embed",
        {"model": "m", "input": ["a", "b"], "dimensions": 3, "keep_alive": 0, "truncate": False},
    )


def test_a_transcription_goes_to_the_openai_layer():
    outgoing = OllamaDialect().outgoing(Transcribe(audio=b"RIFF", model="gemma", fields={"language": "en"}))
    assert outgoing.path == "/v1/audio/transcriptions"
    assert b"RIFF" in outgoing.body
    for fields in ({"response_format": "srt"}, {"stream": True}, {"timestamp_granularities": ["word"]}):
        error = refusal(Transcribe(audio=b"RIFF", model="gemma", fields=fields))
        assert (error.kind, error.param) == (Kind.CAPABILITY, next(iter(fields)))


def test_without_a_model_there_is_nothing_to_ask():
    error = refusal(Embed(inputs=("a",)))
    assert (error.kind, error.param) == (Kind.MODEL_NOT_FOUND, "model")


def test_what_no_utf8_can_carry_is_the_client_s_fault():
    assert refusal(chat("\ud800")).kind is Kind.INVALID_REQUEST


def test_the_fields_named_as_supported_are():
    body = {"tools": [], "think": True, "options": {}, "min_p": 0.5, "top_logprobs": 3, "reasoning_effort": "low"}
    assert unsupported(body, OllamaDialect.supported) is None
    assert unsupported({"logit_bias": {"1": 1}}, OllamaDialect.supported).param == "logit_bias"


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("llama3", "llama3:latest"),
        ("Llama3:8B", "llama3:8b"),
        ("host:5000/ns/m", "host:5000/ns/m:latest"),
        ("hf.co/a/b:Q4", "hf.co/a/b:q4"),
    ],
)
def test_full_names(name, full):
    assert full_name(name) == full
