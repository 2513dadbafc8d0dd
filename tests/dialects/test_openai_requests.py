"""Chat, completion and embedding requests: what becomes of good ones, and which field bad ones are told about."""

import pytest

from illm.core.capabilities import Capability
from illm.core.requests import Audio, Image, Sampling, Text
from illm.dialects.openai import parse_chat, parse_completion, parse_embeddings, unsupported
from illm.errors import GatewayError, Kind

HELLO = {"messages": [{"role": "user", "content": "hello"}]}
PROMPT = {"prompt": "hello"}
INPUT = {"input": "hello"}
SAYING = [{"role": "system", "content": "be kind"}]

SAMPLING_FIELDS = {
    "max_tokens": 7,
    "temperature": 0.5,
    "top_p": 0.9,
    "top_k": 40,
    "repetition_penalty": 1.1,
    "stop": ["a", "b"],
    "seed": -5,
    "n": 3,
    "ignore_eos": True,
}


def user(*parts):
    return {"messages": [{"role": "user", "content": list(parts)}]}


def test_a_full_chat_becomes_plain_values():
    body = {**HELLO, **SAMPLING_FIELDS, "model": "m", "framework": "vllm", "stream": True}
    body["stream_options"] = {"include_usage": True}
    chat = parse_chat(body)
    assert (chat.messages[0].role, chat.messages[0].content) == ("user", (Text("hello"),))
    assert chat.sampling == Sampling(**{**SAMPLING_FIELDS, "stop": ("a", "b")})
    assert (chat.model, chat.framework, chat.stream, chat.include_usage) == ("m", "vllm", True, True)
    assert chat.body is body


def test_what_the_client_does_not_say_stays_open():
    assert parse_chat(HELLO).sampling == Sampling()
    assert parse_completion(PROMPT).sampling == Sampling()
    assert parse_chat(HELLO).model is None


def test_priority_is_carried():
    assert [parse_chat({**HELLO, **said}).priority for said in ({}, {"priority": -3})] == [0, -3]
    assert [parse_completion({**PROMPT, **said}).priority for said in ({}, {"priority": 3})] == [0, 3]


OPTIONAL = [
    *SAMPLING_FIELDS,
    "max_completion_tokens",
    "model",
    "framework",
    "stream",
    "stream_options",
    "tools",
    "user",
]


@pytest.mark.parametrize("name", OPTIONAL)
def test_null_is_the_same_as_absent(name):
    assert parse_chat({**HELLO, name: None}) == parse_chat(HELLO)
    assert parse_completion({**PROMPT, name: None, "echo": None}) == parse_completion(PROMPT)


@pytest.mark.parametrize("name", ["model", "embedding_model", "framework", "dimensions", "encoding_format", "user"])
def test_null_is_the_same_as_absent_for_embeddings(name):
    assert parse_embeddings({**INPUT, name: None}) == parse_embeddings(INPUT)


def test_everything_null_at_once():
    assert parse_chat({**dict.fromkeys(OPTIONAL), **HELLO}) == parse_chat(HELLO)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"max_tokens": 5, "max_completion_tokens": 9}, {"max_tokens": 9}),
        ({"max_completion_tokens": 9}, {"max_tokens": 9}),
        ({"stop": "x"}, {"stop": ("x",)}),
        ({"stop": []}, {"stop": ()}),
        ({"top_k": -1}, {"top_k": 0}),
        ({"top_k": 0}, {"top_k": 0}),
        ({"top_p": 0}, {"top_p": 1.0, "temperature": 0.0}),
        ({"top_p": 0, "temperature": 1.5}, {"top_p": 1.0, "temperature": 0.0}),
        ({"temperature": 0}, {"temperature": 0.0}),
        ({"temperature": 2}, {"temperature": 2.0}),
        ({"seed": 2**63 - 1}, {"seed": 2**63 - 1}),
        ({"seed": -(2**63)}, {"seed": -(2**63)}),
        ({"n": 128}, {"n": 128}),
    ],
)
def test_one_spelling_reaches_the_backend(fields, expected):
    assert parse_chat({**HELLO, **fields}).sampling == Sampling(**expected)
    assert parse_completion({**PROMPT, **fields}).sampling == Sampling(**expected)


BAD_SAMPLING = [
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_completion_tokens": 0, "max_tokens": 3}, "max_completion_tokens"),
    ({"max_tokens": -1}, "max_tokens"),
    ({"max_tokens": 5.0}, "max_tokens"),
    ({"max_tokens": True}, "max_tokens"),
    ({"max_tokens": "5"}, "max_tokens"),
    ({"max_tokens": 2**31}, "max_tokens"),
    ({"max_tokens": 10**40}, "max_tokens"),
    ({"temperature": 2.01}, "temperature"),
    ({"temperature": -0.1}, "temperature"),
    ({"temperature": False}, "temperature"),
    ({"temperature": "hot"}, "temperature"),
    ({"top_p": 1.01}, "top_p"),
    ({"top_p": -1}, "top_p"),
    ({"top_k": -2}, "top_k"),
    ({"top_k": 1.5}, "top_k"),
    ({"repetition_penalty": 0}, "repetition_penalty"),
    ({"repetition_penalty": -1}, "repetition_penalty"),
    ({"repetition_penalty": 1e300}, "repetition_penalty"),
    ({"stop": ""}, "stop"),
    ({"stop": ["a"] * 5}, "stop"),
    ({"stop": ["a", ""]}, "stop[1]"),
    ({"stop": ["a", 3]}, "stop[1]"),
    ({"stop": ["a", None]}, "stop[1]"),
    ({"stop": {}}, "stop"),
    ({"seed": 2**63}, "seed"),
    ({"seed": 1.0}, "seed"),
    ({"seed": True}, "seed"),
    ({"n": 0}, "n"),
    ({"n": 129}, "n"),
    ({"ignore_eos": 1}, "ignore_eos"),
    ({"stream": "true"}, "stream"),
    ({"stream_options": {"include_usage": True}}, "stream_options"),
    ({"stream": True, "stream_options": []}, "stream_options"),
    ({"stream": True, "stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
    ({"model": 3}, "model"),
    ({"model": ""}, "model"),
    ({"framework": ["vllm"]}, "framework"),
]


@pytest.mark.parametrize(("fields", "param"), BAD_SAMPLING)
@pytest.mark.parametrize(("parse", "good"), [(parse_chat, HELLO), (parse_completion, PROMPT)])
def test_a_bad_field_is_named(parse, good, fields, param):
    refused(parse, {**good, **fields}, param)


BAD_CHATS = [
    ({}, "messages"),
    ({"messages": None}, "messages"),
    ({"messages": []}, "messages"),
    ({"messages": "hello"}, "messages"),
    ({"messages": {}}, "messages"),
    ({"messages": ["hello"]}, "messages[0]"),
    ({"messages": [{"content": "x"}]}, "messages[0].role"),
    ({"messages": [*SAYING, {"role": "boss", "content": "x"}]}, "messages[1].role"),
    ({"messages": [{"role": "user"}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": None}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": []}]}, "messages[0].content"),
    ({"messages": SAYING * 2049}, "messages"),
    (user(*[{"type": "text", "text": "x"}] * 257), "messages[0].content"),
    (user("x"), "messages[0].content[0]"),
    (user({"text": "x"}), "messages[0].content[0].type"),
    (user({"type": "text"}), "messages[0].content[0].text"),
    (user({"type": "text", "text": None}), "messages[0].content[0].text"),
    (user({"type": "text", "text": "x"}, {"type": "video", "video": "x"}), "messages[0].content[1].type"),
    (user({"type": "refusal", "refusal": "no"}), "messages[0].content[0].type"),
    (user({"type": "image_url"}), "messages[0].content[0].image_url"),
    (user({"type": "image_url", "image_url": {"url": 3}}), "messages[0].content[0].image_url.url"),
    (user({"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}), "messages[0].content[0].image_url.url"),
    (user({"type": "image_url", "image_url": "/etc/passwd"}), "messages[0].content[0].image_url"),
    (user({"type": "image_url", "image_url": ""}), "messages[0].content[0].image_url"),
    (
        user({"type": "image_url", "image_url": {"url": "https://x", "detail": "huge"}}),
        "messages[0].content[0].image_url.detail",
    ),
    (user({"type": "image_base64", "image_base64": ""}), "messages[0].content[0].image_base64"),
    (
        {"messages": [{"role": "system", "content": [{"type": "image_url", "image_url": "https://x"}]}]},
        "messages[0].content[0].type",
    ),
]


@pytest.mark.parametrize(("body", "param"), BAD_CHATS)
def test_a_bad_message_is_named(body, param):
    refused(parse_chat, body, param)


CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "tool", "tool_call_id": "c", "content": "42"}, "messages[1]"),
        ({"role": "function", "name": "f", "content": "42"}, "messages[1]"),
        ({"role": "assistant", "tool_calls": [CALL]}, "messages[1].tool_calls"),
        ({"role": "assistant", "function_call": CALL["function"]}, "messages[1].function_call"),
    ],
)
def test_tool_calls_of_the_past_are_refused_by_name_where_there_are_no_tools(message, param):
    body = {"messages": [*SAYING, message]}
    parse_chat(body)
    error = unsupported(body)
    assert (error.kind, error.param) == (Kind.UNSUPPORTED_PARAMETER, param)
    assert unsupported(body, frozenset({"tools"})) is None


def test_spoken_answers_cannot_be_referred_to():
    message = {"role": "assistant", "audio": {"id": "a"}}
    refused(parse_chat, {"messages": [message]}, "messages[0].audio", Kind.UNSUPPORTED_PARAMETER)


def test_files_are_a_capability_error():
    part = {"type": "file", "file": {"file_id": "f"}}
    assert "file" in refused(parse_chat, user(part), "messages[0].content[0].type", Kind.CAPABILITY).message


def test_sound_needs_a_backend_that_listens():
    chat = parse_chat(user({"type": "input_audio", "input_audio": {"data": "AAAA", "format": "mp3"}}))
    assert chat.messages[0].content == (Audio("AAAA", "mp3"),)
    assert chat.needs is Capability.AUDIO


@pytest.mark.parametrize(
    ("part", "image"),
    [
        ({"type": "image_url", "image_url": "https://h/x.png"}, Image(url="https://h/x.png")),
        ({"type": "image_url", "image_url": {"url": "HTTP://h/x.png"}}, Image(url="HTTP://h/x.png")),
        ({"type": "image_url", "image_url": {"url": "data:,x", "detail": None}}, Image(url="data:,x")),
        ({"type": "image_url", "image_url": {"url": "DATA:image/png;base64,AA==", "detail": "low"}}, None),
        ({"type": "image_base64", "image_base64": "AAAA"}, Image(base64="AAAA")),
        ({"type": "image_base64", "image_base64": "data:image/png;base64,AA=="}, None),
    ],
)
def test_an_image_comes_in_four_spellings(part, image):
    chat = parse_chat(user({"type": "text", "text": "look"}, part))
    assert chat.messages[0].content == (Text("look"), image or Image(url=chat.messages[0].content[1].url))
    assert chat.needs is Capability.IMAGES


def test_text_parts_keep_their_order_and_their_cache_marks_are_ignored():
    mark = {"prompt_cache_breakpoint": {"mode": "explicit", "ttl": "30m"}}
    chat = parse_chat(user({"type": "text", "text": "a", **mark}, {"type": "text", "text": "b"}))
    assert chat.messages[0].text == "ab"
    assert chat.needs is Capability.CHAT


def test_an_answer_may_be_replayed_with_all_its_nulls():
    answer = {"role": "assistant", "content": "hi", "refusal": None, "annotations": [], "audio": None}
    answer |= {"function_call": None, "tool_calls": None, "reasoning_content": "hm", "name": None}
    refusal = {"role": "assistant", "content": None, "refusal": "no"}
    empty = {"role": "assistant", "content": None, "tool_calls": []}
    parts = {"role": "assistant", "content": [{"type": "refusal", "refusal": "never"}]}
    messages = parse_chat({"messages": [answer, refusal, empty, parts]}).messages
    assert [message.text for message in messages] == ["hi", "no", "", "never"]


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ("", ("",)),
        ("hi", ("hi",)),
        (["a", "b"], ("a", "b")),
        ([1, 2, 3], ((1, 2, 3),)),
        ([[1, 2], [3]], ((1, 2), (3,))),
        (list(range(1000)), (tuple(range(1000)),)),
    ],
)
def test_a_flat_list_of_token_ids_is_one_prompt(prompt, prompts):
    assert parse_completion({"prompt": prompt}).prompts == prompts


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": 3}, "prompt"),
        ({"prompt": ["a", 1]}, "prompt"),
        ({"prompt": [1, [2]]}, "prompt"),
        ({"prompt": [[1], []]}, "prompt[1]"),
        ({"prompt": [[]]}, "prompt[0]"),
        ({"prompt": [[1, "a"]]}, "prompt[0][1]"),
        ({"prompt": [1, True]}, "prompt[1]"),
        ({"prompt": [1, -1]}, "prompt[1]"),
        ({"prompt": [1, 2**31]}, "prompt[1]"),
        ({"prompt": [1, None]}, "prompt[1]"),
        ({"prompt": ["a"] * 129}, "prompt"),
        ({"prompt": ["a"] * 3, "n": 128}, "n"),
        ({"prompt": "a", "echo": "yes"}, "echo"),
    ],
)
def test_a_bad_prompt_is_named(body, param):
    refused(parse_completion, body, param)


def test_an_echo_may_ask_for_no_token():
    assert parse_completion({"prompt": "a", "echo": True, "max_tokens": 0}).sampling.max_tokens == 0


@pytest.mark.parametrize(
    ("value", "inputs"),
    [("a", ("a",)), (["a", "b"], ("a", "b")), ([1, 2], ((1, 2),)), ([[1], [2, 3]], ((1,), (2, 3)))],
)
def test_embedding_inputs(value, inputs):
    assert parse_embeddings({"input": value}).inputs == inputs


def test_the_embedding_model_wins_over_the_model():
    assert not parse_embeddings({**INPUT, "model": "m"}).explicit
    request = parse_embeddings({**INPUT, "model": "m", "embedding_model": "e", "framework": "f"})
    assert (request.model, request.explicit, request.framework) == ("e", True, "f")


def test_embedding_options():
    request = parse_embeddings({**INPUT, "encoding_format": "base64", "dimensions": 8})
    assert (request.base64, request.dimensions) == (True, 8)
    assert not parse_embeddings({**INPUT, "encoding_format": "float"}).base64


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "input"),
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": ""}, "input"),
        ({"input": ["a", ""]}, "input[1]"),
        ({"input": [[]]}, "input[0]"),
        ({"input": ["a", [1]]}, "input"),
        ({"input": ["a"] * 16385}, "input"),
        ({"input": {"text": "a"}}, "input"),
        ({**INPUT, "dimensions": 0}, "dimensions"),
        ({**INPUT, "dimensions": 1.0}, "dimensions"),
        ({**INPUT, "encoding_format": "int8"}, "encoding_format"),
        ({**INPUT, "embedding_model": 1}, "embedding_model"),
    ],
)
def test_a_bad_embedding_request_is_named(body, param):
    refused(parse_embeddings, body, param)


def test_messages_speak_of_json_and_stay_short():
    assert refused(parse_chat, {**HELLO, "n": "x"}, "n").message == "n: expected integer, got string."
    assert refused(parse_chat, {**HELLO, "temperature": 3}, "temperature").message == (
        "temperature: expected number <= 2.0."
    )
    assert refused(parse_chat, {}, "messages").message == "messages: this field is required."
    long = refused(parse_chat, {"messages": [{"role": "x" * 10_000}]}, "messages[0].role")
    assert len(long.message) < 500


def refused(parse, body, param, kind=Kind.INVALID_REQUEST):
    with pytest.raises(GatewayError) as caught:
        parse(body)
    assert caught.value.param == param
    assert caught.value.kind is kind
    assert caught.value.message
    return caught.value
