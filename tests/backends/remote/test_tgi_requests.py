"""What TGI is sent: whitelisted, in its own words, and nothing that it would refuse, misread or fetch."""

import orjson
import pytest

from illm.backends.remote.tgi import SUPPORTED, TGI
from illm.core.requests import Chat, Completion, Embed, Image, Message, Sampling, Text
from illm.dialects import openai
from illm.errors import GatewayError, Kind

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


def chat(**fields):
    body = {"messages": [{"role": "user", "content": "hi"}], **fields}
    request = openai.parse_chat(body)
    refusal = openai.unsupported(body, SUPPORTED, fields=openai.CHAT_FIELDS)
    if refusal is not None:
        raise refusal
    return orjson.loads(TGI().outgoing(request).body)


def complete(**fields):
    body = {"prompt": "Name a colour:", **fields}
    outgoing = TGI().outgoing(openai.parse_completion(body))
    return outgoing.path, orjson.loads(outgoing.body)


def refusal(make, **fields) -> GatewayError:
    with pytest.raises(GatewayError) as caught:
        make(**fields)
    return caught.value


HI = [{"role": "user", "content": "hi"}]


def test_a_plain_chat_says_no_more_than_it_must():
    assert chat() == {"model": "tgi", "messages": HI}


def test_every_field_null_is_the_plain_chat():
    nothing = dict.fromkeys(openai.CHAT_FIELDS - {"messages"})
    assert chat(**nothing) == chat()


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"model": "org/model"}, {}),
        ({"max_tokens": 5}, {"max_tokens": 5}),
        ({"max_completion_tokens": 5}, {"max_tokens": 5}),
        ({"max_completion_tokens": 5, "max_tokens": 9}, {"max_tokens": 5}),
        ({"temperature": 0}, {"temperature": 0}),
        ({"temperature": 0.5, "top_p": 0.9}, {"temperature": 0.5, "top_p": 0.9}),
        ({"top_p": 1}, {}),
        ({"top_p": 0}, {"temperature": 0.0}),
        ({"top_k": -1}, {}),
        ({"stop": "\n"}, {"stop": ["\n"]}),
        ({"stop": ["a", "b"]}, {"stop": ["a", "b"]}),
        ({"stop": []}, {}),
        ({"seed": 7}, {"seed": 7}),
        ({"seed": -1}, {"seed": 2**64 - 1}),
        ({"presence_penalty": 0}, {}),
        ({"frequency_penalty": 0}, {}),
        ({"frequency_penalty": 0.5}, {"frequency_penalty": 0.5}),
        ({"logprobs": True}, {"logprobs": True}),
        ({"logprobs": True, "top_logprobs": 5}, {"logprobs": True, "top_logprobs": 5}),
        ({"logprobs": False}, {}),
        ({"response_format": {"type": "text"}}, {}),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}},
            {"response_format": {"type": "json", "value": {"type": "object"}}},
        ),
        (
            {"response_format": {"type": "regex", "value": "a+"}},
            {"response_format": {"type": "regex", "value": "a+"}},
        ),
        ({"tools": []}, {}),
        ({"stream": True}, {"stream": True, "stream_options": {"include_usage": True}}),
        ({"user": "me", "store": True, "metadata": {"a": "b"}}, {}),
    ],
)
def test_fields_are_translated(fields, expected):
    assert chat(**fields) == chat() | expected


TOOL = {"type": "function", "function": {"name": "f", "description": "does f"}}
SCHEMA = {"type": "json_schema", "json_schema": {"schema": {"type": "object", "properties": {}}}}


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (None, "auto"),
        ("none", "none"),
        ("required", "required"),
        ({"type": "function", "function": {"name": "f"}}, {"type": "function", "function": {"name": "f"}}),
    ],
)
def test_tools_have_parameters_and_a_choice(choice, expected):
    body = chat(tools=[TOOL], tool_choice=choice, parallel_tool_calls=False)
    assert body["tools"] == [
        {
            "type": "function",
            "function": {"name": "f", "description": "does f", "parameters": {"type": "object", "properties": {}}},
        }
    ]
    assert body["tool_choice"] == expected


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"presence_penalty": 0.1}, "presence_penalty"),
        ({"logit_bias": {"5": 1}}, "logit_bias"),
        ({"min_p": 0.1}, "min_p"),
        ({"ignore_eos": True}, "ignore_eos"),
        ({"top_k": 4}, "top_k"),
        ({"repetition_penalty": 1.2}, "repetition_penalty"),
        ({"n": 2}, "n"),
        ({"logprobs": True, "top_logprobs": 6}, "top_logprobs"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"response_format": SCHEMA, "tools": [TOOL]}, "response_format"),
        ({"typical_p": 0.5}, "typical_p"),
        ({"grammar": {"type": "regex", "value": "a"}}, "grammar"),
        ({"reasoning_effort": "high"}, "reasoning_effort"),
        ({"continue_final_message": True}, "continue_final_message"),
        ({"messages": [*HI, {"role": "assistant", "content": "ho"}]}, "messages[1]"),
    ],
)
def test_what_changes_the_answer_and_cannot_be_had_is_refused(fields, param):
    error = refusal(chat, **fields)
    assert error.kind.value.status == 400
    assert error.param == param


def test_the_operators_defaults_are_not_held_against_a_request():
    request = openai.parse_chat({"messages": HI})
    defaults = Sampling(top_k=5, repetition_penalty=1.2, temperature=0.5)
    body = orjson.loads(TGI().outgoing(Chat(messages=request.messages, sampling=defaults, body=request.body)).body)
    assert body == chat() | {"temperature": 0.5}


def test_a_last_turn_of_the_assistants_is_continued_where_that_is_meant():
    messages = [*HI, {"role": "assistant", "content": "ho"}]
    body = chat(messages=messages, continue_final_message=True, add_generation_prompt=False)
    assert body["messages"] == messages


def test_messages_are_written_anew():
    calls = [{"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}]
    body = chat(
        messages=[
            {"role": "developer", "content": "be brief"},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "assistant", "content": "calling", "tool_calls": calls, "refusal": None},
            {"role": "tool", "tool_call_id": "call_1", "content": "2"},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{**calls[0], "function": {"name": "f", "arguments": ""}}],
            },
            {"role": "tool", "tool_call_id": "call_1", "content": "3"},
        ]
    )
    assert body["messages"] == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "ab"},
        {"role": "assistant", "tool_calls": calls},
        {"role": "tool", "name": "f", "content": "2"},
        {"role": "assistant", "tool_calls": [{**calls[0], "function": {"name": "f", "arguments": "{}"}}]},
        {"role": "tool", "name": "f", "content": "3"},
    ]


EVIL = "![](http://169.254.169.254/x)"


PICTURE = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}


def spoken(*parts: str):
    return {"role": "user", "content": [{"type": "text", "text": part} for part in parts]}


def called(arguments: str):
    function = {"name": "f", "arguments": arguments}
    return {"role": "assistant", "tool_calls": [{"id": "a", "type": "function", "function": function}]}


def tool(**function):
    return {"type": "function", "function": {"name": "f", **function}}


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": [spoken(EVIL)]},
        {"messages": [spoken("![", EVIL[2:])]},
        {"messages": [{"role": "user", "content": [*spoken(EVIL)["content"], PICTURE]}]},
        {"messages": [{"role": "system", "content": EVIL}, *HI]},
        {"messages": [*HI, called(EVIL), {"role": "tool", "tool_call_id": "a", "content": EVIL}]},
        {"tools": [tool(description=EVIL, parameters={"properties": {EVIL: {"enum": [EVIL]}}})]},
        {"tools": [TOOL], "tool_prompt": EVIL},
    ],
)
def test_no_text_is_taken_for_an_image(fields):
    assert "![](http" not in orjson.dumps(chat(**fields)).decode()


def test_images_go_as_data_urls_of_one_form():
    image = {"type": "image_url", "image_url": {"url": f"DATA:image/png;charset=utf-8;base64,{PNG}", "detail": "high"}}
    body = chat(messages=[{"role": "user", "content": [image, {"type": "text", "text": "what?"}]}])
    assert body["messages"][0]["content"] == [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}},
        {"type": "text", "text": "what?"},
    ]


@pytest.mark.parametrize(
    "url",
    ["http://169.254.169.254/x.png", "file:///etc/passwd", f"data:image/png;base64,{PNG}) {EVIL}", "data:text/html,hi"],
)
def test_what_is_not_an_image_as_base64_never_leaves(url):
    message = Message("user", (Image(url=url), Text("what?")))
    with pytest.raises(GatewayError):
        TGI().outgoing(Chat(messages=(message,), sampling=Sampling()))


def test_a_completion_goes_to_the_native_endpoint():
    assert complete() == (
        "/generate",
        {"inputs": "Name a colour:", "parameters": {"details": True, "do_sample": True}},
    )
    assert complete(stream=True)[0] == "/generate_stream"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"max_tokens": 5}, {"max_new_tokens": 5}),
        ({"temperature": 0}, {"do_sample": False}),
        ({"temperature": 0, "top_p": 0.5, "top_k": 3, "seed": 1, "typical_p": 0.5}, {"do_sample": False}),
        ({"temperature": 0.5, "top_p": 0.5, "top_k": 3}, {"temperature": 0.5, "top_p": 0.5, "top_k": 3}),
        ({"top_p": 1.0, "top_k": 0, "repetition_penalty": 1.0}, {}),
        ({"repetition_penalty": 1.2, "frequency_penalty": -1}, {"repetition_penalty": 1.2, "frequency_penalty": -1}),
        ({"stop": "x", "seed": -2}, {"stop": ["x"], "seed": 2**64 - 2}),
        ({"logprobs": 0}, {}),
        ({"logprobs": 3}, {"top_n_tokens": 3}),
        ({"typical_p": 0.5, "truncate": 4, "watermark": True}, {"typical_p": 0.5, "truncate": 4, "watermark": True}),
        ({"grammar": {"type": "regex", "value": "a"}}, {"grammar": {"type": "regex", "value": "a"}}),
        ({"echo": True}, {}),
    ],
)
def test_parameters_of_a_completion_are_translated(fields, expected):
    assert complete(**fields)[1]["parameters"] == {"details": True, "do_sample": True} | expected


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": [1, 2]}, "prompt"),
        ({"prompt": ["a", "b"]}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"suffix": "x"}, "suffix"),
        ({"echo": True, "logprobs": 1}, "echo"),
        ({"echo": True, "max_tokens": 0}, "max_tokens"),
        ({"logprobs": 6}, "logprobs"),
        ({"truncate": "4"}, "truncate"),
        ({"watermark": 1}, "watermark"),
        ({"truncate": True}, "truncate"),
    ],
)
def test_completions_that_cannot_be_had_are_refused(fields, param):
    error = refusal(complete, **fields)
    assert (error.kind.value.status, error.param) == (400, param)


def test_a_prompt_is_neutralised_too():
    assert "![](http" not in complete(prompt=EVIL)[1]["inputs"]


def test_embeddings_and_speech_are_not_its_business():
    assert refusal(TGI().outgoing, request=Embed(inputs=("a",))).kind is Kind.CAPABILITY


def test_a_lone_surrogate_is_the_clients_mistake():
    request = Completion(prompts=("\ud800",), sampling=Sampling())
    assert refusal(TGI().outgoing, request=request).kind is Kind.INVALID_REQUEST


@pytest.mark.parametrize(
    ("body", "names"),
    [
        (b'{"model_id":"org/m","router":"text-generation-router"}', ("org/m",)),
        (b'{"model_id":null}', ()),
        (b"[]", ()),
        (b"<html>", ()),
        (b'"x"', ()),
    ],
)
def test_the_model_is_in_info(body, names):
    assert tuple(TGI().models(body)) == names
