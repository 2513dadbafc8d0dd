"""What an OpenAI-like server is asked: the client's own fields, less what it would refuse or misread."""

import json
from dataclasses import replace

import pytest

from illm.backends.remote import sglang, vllm
from illm.config import Config
from illm.core.requests import Image, Sampling, Text
from illm.dialects.openai import parse_chat, parse_completion, parse_embeddings
from illm.errors import GatewayError, Kind

VLLM, SGLANG = vllm.dialect(Config()), sglang.dialect(Config())
HELLO = {"messages": [{"role": "user", "content": "hello"}]}
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
CLOCK = {"type": "function", "function": {"name": "clock"}}


def sent(dialect, request):
    outgoing = dialect.outgoing(request)
    assert outgoing.headers == ((b"content-type", b"application/json"),)
    return json.loads(outgoing.body)


def asked(fields, dialect=VLLM, defaults=None):
    request = parse_chat({**HELLO, **fields})
    body = sent(dialect, replace(request, sampling=request.sampling.over(defaults or Sampling())))
    assert body.pop("messages") == HELLO["messages"]
    return body


VENDOR = {
    "structured_outputs": {"regex": "[a-z]+"},
    "chat_template_kwargs": {"enable_thinking": False},
    "top_k": 5,
    "min_p": 0.1,
    "priority": 3,
    "logit_bias": {"5": 1.5},
    "user": "me",
    "store": True,
}


def test_the_clients_fields_go_through():
    assert asked({**VENDOR, "model": "m", "framework": "vllm", "stream": False}) == {
        **VENDOR,
        "model": "m",
        "stream": False,
    }
    assert asked({"regex": "x", "ebnf": "y"}, SGLANG) == {"regex": "x", "ebnf": "y"}


def test_nulls_do_not():
    nulls = dict.fromkeys(["stop", "n", "stream_options", "tools", "framework", "priority"])
    assert asked(nulls) == {}
    options = {"include_usage": True, "include_obfuscation": None}
    assert asked({"stream": True, "stream_options": options})["stream_options"] == {"include_usage": True}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"max_tokens": 3, "max_completion_tokens": 5}, {"max_completion_tokens": 5}),
        ({"max_tokens": 3}, {"max_tokens": 3}),
        ({"top_p": 0, "temperature": 1}, {"temperature": 0, "top_p": 1}),
        ({"top_k": 0}, {"top_k": -1}),
        ({"tools": [], "tool_choice": "auto"}, {}),
        ({"tools": [], "tool_choice": "none"}, {}),
        ({"tool_choice": "none", "tools": [CLOCK]}, {"tool_choice": "none", "tools": [CLOCK]}),
        ({"function_call": "auto", "functions": []}, {"function_call": "auto", "functions": []}),
        (
            {
                "tools": [CLOCK, WEATHER],
                "tool_choice": {
                    "type": "allowed_tools",
                    "allowed_tools": {
                        "mode": "required",
                        "tools": [{"type": "function", "function": {"name": "clock"}}],
                    },
                },
            },
            {"tools": [CLOCK], "tool_choice": "required"},
        ),
    ],
)
@pytest.mark.parametrize("dialect", [VLLM, SGLANG])
def test_one_spelling_that_both_understand(dialect, fields, expected):
    assert asked(fields, dialect) == expected


DEFAULTS = Sampling(max_tokens=9, temperature=0.3, top_p=0.8, top_k=7, repetition_penalty=1.2)


def test_the_operators_defaults_fill_what_the_client_left_open():
    everything = {"max_tokens": 9, "temperature": 0.3, "top_p": 0.8, "top_k": 7, "repetition_penalty": 1.2}
    assert asked({}, defaults=DEFAULTS) == everything
    theirs = {"max_completion_tokens": 1, "temperature": 0, "top_p": 1, "top_k": -1, "repetition_penalty": 1}
    assert asked(theirs, defaults=DEFAULTS) == theirs
    assert asked({"temperature": None, "max_tokens": None}, defaults=DEFAULTS) == everything


def test_completions_know_only_the_older_limit():
    assert sent(VLLM, parse_completion({"prompt": "x", "max_completion_tokens": 4})) == {"prompt": "x", "max_tokens": 4}
    assert sent(VLLM, parse_completion({"prompt": "x", "logprobs": False})) == {"prompt": "x"}
    assert sent(VLLM, parse_completion({"prompt": [1, 2], "logprobs": 0, "suffix": "y"})) == {
        "prompt": [1, 2],
        "logprobs": 0,
        "suffix": "y",
    }


def test_equal_choices_are_asked_for_once_where_the_server_refuses_several():
    assert asked({"n": 3, "temperature": 0})["n"] == 1
    assert asked({"n": 3}, defaults=Sampling(temperature=0.0))["n"] == 1
    assert asked({"n": 3, "temperature": 0.5})["n"] == 3
    assert asked({"n": 3, "temperature": 0}, SGLANG)["n"] == 3


@pytest.mark.parametrize(
    ("dialect", "fields", "param"),
    [
        (VLLM, {"guided_json": {"type": "object"}}, "guided_json"),
        (VLLM, {"guided_json": {}}, "guided_json"),
        (VLLM, {"web_search_options": {}}, "web_search_options"),
        (VLLM, {"guided_choice": ["a"]}, "guided_choice"),
        (SGLANG, {"guided_regex": "x"}, "guided_regex"),
        (SGLANG, {"structured_outputs": {"regex": "x"}}, "structured_outputs"),
        (VLLM, {"functions": [{"name": "f"}]}, "functions"),
        (VLLM, {"function_call": {"name": "f"}}, "function_call"),
        (VLLM, {"best_of": 2}, "best_of"),
        (VLLM, {"best_of": 3, "n": 2}, "best_of"),
        (VLLM, {"modalities": ["text", "audio"]}, "modalities"),
        (VLLM, {"audio": {"voice": "x", "format": "wav"}}, "audio"),
        (SGLANG, {"web_search_options": {"user_location": {}}}, "web_search_options"),
    ],
)
def test_what_would_be_dropped_silently_is_refused(dialect, fields, param):
    with pytest.raises(GatewayError) as caught:
        asked(fields, dialect)
    assert (caught.value.kind, caught.value.param) == (Kind.UNSUPPORTED_PARAMETER, param)


def messages(*wire, dialect=VLLM):
    return sent(dialect, parse_chat({"messages": list(wire)}))["messages"]


def test_a_replayed_answer_loses_what_only_looks_like_something():
    answer = {
        "role": "assistant",
        "content": "hi",
        "refusal": None,
        "annotations": [],
        "tool_calls": None,
        "audio": None,
    }
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    assert messages(
        {**answer, "reasoning": "hm"},
        {"role": "assistant", "content": None, "refusal": "no"},
        {"role": "assistant", "content": None, "tool_calls": []},
        {"role": "assistant", "content": None, "tool_calls": [call], "reasoning_content": "so"},
        {
            "role": "tool",
            "tool_call_id": "c",
            "content": [{"type": "text", "text": "4"}, {"type": "text", "text": "2"}],
        },
        {"role": "user", "content": "?", "name": "me"},
    ) == [
        {"role": "assistant", "content": "hi", "reasoning_content": "hm"},
        {"role": "assistant", "content": "no"},
        {"role": "assistant", "content": ""},
        {"role": "assistant", "tool_calls": [call], "reasoning_content": "so"},
        {"role": "tool", "tool_call_id": "c", "content": "42"},
        {"role": "user", "content": "?", "name": "me"},
    ]


PNG = "iVBORw0KGgoAAAANSUhEUg=="


@pytest.mark.parametrize(
    ("part", "url"),
    [
        ({"type": "image_url", "image_url": f"data:image/png;base64,{PNG}"}, f"data:image/png;base64,{PNG}"),
        ({"type": "image_url", "image_url": {"url": f"DATA:image/png;base64,{PNG}", "detail": "original"}}, None),
        ({"type": "image_base64", "image_base64": PNG}, f"data:image/png;base64,{PNG}"),
        ({"type": "image_base64", "image_base64": "/9j/4AAQ"}, "data:image/jpeg;base64,/9j/4AAQ"),
        ({"type": "image_base64", "image_base64": "UklGRgAA"}, "data:image/webp;base64,UklGRgAA"),
        ({"type": "image_base64", "image_base64": "R0lGODlh"}, "data:image/gif;base64,R0lGODlh"),
    ],
)
def test_an_image_has_one_spelling(part, url):
    (message,) = messages({"role": "user", "content": [{"type": "text", "text": "look"}, part]})
    expected = {"type": "image_url", "image_url": {"url": url or f"data:image/png;base64,{PNG}"}}
    assert message["content"] == [{"type": "text", "text": "look"}, expected]


def test_an_image_that_was_fetched_replaces_its_address():
    wire = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://10.0.0.1/x.png"}}]}
    request = parse_chat({"messages": [wire]})
    with pytest.raises(GatewayError):
        VLLM.outgoing(request)
    fetched = replace(request.messages[0], content=(Image(base64=PNG),))
    body = VLLM.outgoing(replace(request, messages=(fetched,))).body
    assert b"10.0.0.1" not in body
    assert PNG.encode() in body


def test_nothing_unseen_travels_inside_a_part():
    smuggled = {
        "type": "text",
        "text": "x",
        "image_url": "http://10.0.0.1/",
        "video_url": {"url": "file:///etc/passwd"},
    }
    picture = {"type": "image_base64", "image_base64": PNG, "url": "file:///etc/passwd"}
    body = VLLM.outgoing(parse_chat({"messages": [{"role": "user", "content": [smuggled, picture]}]})).body
    assert b"10.0.0.1" not in body
    assert b"passwd" not in body


def test_sound_goes_along():
    part = {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "mp3"}}
    assert messages({"role": "user", "content": [part]})[0]["content"] == [part]


def test_embeddings():
    request = parse_embeddings({"input": ["a"], "embedding_model": "e", "model": "m", "dimensions": None, "user": "me"})
    assert sent(VLLM, request) == {"input": ["a"], "model": "e", "user": "me"}
    assert VLLM.outgoing(request).path == "/v1/embeddings"


def test_the_request_itself_is_not_changed():
    body = {**HELLO, "max_completion_tokens": 3, "tools": [], "top_k": 0, "n": 2, "temperature": 0, "stop": None}
    before = json.dumps(body)
    VLLM.outgoing(parse_chat(body))
    assert json.dumps(body) == before


def test_models():
    assert VLLM.models(b'{"object":"list","data":[{"id":"a"},{"id":"b/c"}]}') == ["a", "b/c"]
    for nonsense in (b"", b"[]", b"{}", b'{"data":null}', b'{"data":[1]}', b"<html>"):
        assert list(VLLM.models(nonsense)) == []


def test_text_parts_are_text():
    request = parse_chat({"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}]})
    assert request.messages[0].content == (Text("a"),)
    assert sent(SGLANG, request)["messages"][0]["content"] == "a"
