"""A chat as TGI's Messages API takes it: written anew from what was parsed, never copied, nulls left out.

That API is OpenAI's by name only: a bare stop string, a `top_p` of 1, OpenAI's own `json_schema`, a null, all of these
are refused; `presence_penalty` is misread, and half of the rest is ignored.
"""

import re
from collections.abc import Mapping
from typing import Any

from illm.backends.remote.outgoing_messages import data_url
from illm.backends.remote.tgi_parameters import invalid, refusal, refuse_impossible, seed
from illm.backends.remote.tgi_text import all_neutralised, neutralised
from illm.core.requests import Audio, Chat, Image, Message, ResponseFormat, Text, Tool, ToolChoice
from illm.errors import GatewayError, Kind

JSON = dict[str, Any]

MODEL = "tgi"
"""Any other name is taken for a LoRA adapter's."""

ROLES: Mapping[str, str] = {"developer": "system", "function": "tool"}
"""Roles that templates behind TGI do not know, and what they do know."""

UNCHATTY = ("echo", "grammar", "suffix", "truncate", "typical_p", "watermark")
"""Fields that only the native endpoint has a place for."""

FORMATS = ("json", "regex", "json_schema", "json_object")

NO_PARAMETERS: JSON = {"type": "object", "properties": {}}

# One `;` is all that TGI's own reader allows; and a bracket in the data would end the image early.
_DATA_URL = re.compile(
    r"data:(?P<kind>image/[\w.+-]+)(?:;[\w.+-]+=[^;,]*)*;base64,(?P<data>[A-Za-z0-9+/]+={0,2})", re.IGNORECASE
)


def chat_body(request: Chat) -> JSON:
    """Write the body for `/v1/chat/completions`.

    Raises:
        GatewayError: it asks for what TGI would ignore, misread or refuse.
    """
    refuse_impossible(request)
    sampling, given = request.sampling, request.body
    for name in UNCHATTY:
        if given.get(name):
            raise refusal(name, "only completions have it")
    for name, off in (("top_k", (None, 0)), ("repetition_penalty", (None, 1, 1.0))):
        # What the operator set for everybody is not held against a request that did not ask for it.
        if getattr(sampling, name) not in off and (not given or given.get(name) is not None):
            raise refusal(name, "its chat endpoint ignores it; completions have it")
    body: JSON = {
        "model": MODEL,
        "messages": _messages(request),
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p if sampling.top_p is not None and 0 < sampling.top_p < 1 else None,
        "frequency_penalty": sampling.frequency_penalty or None,
        "stop": list(sampling.stop) or None,
        "seed": seed(sampling.seed),
        "logprobs": True if sampling.logprobs is not None else None,
        "top_logprobs": sampling.logprobs or None,
        "stream": True if request.stream else None,
        # Always asked for, whether or not the client did: it is the only place that has the counts.
        "stream_options": {"include_usage": True} if request.stream else None,
    }
    grammar = _grammar(request.response_format, given)
    if request.tools:
        if grammar is not None:
            raise refusal("response_format", "not together with tools")
        body["tools"] = [_tool(tool) for tool in request.tools]
        body["tool_choice"] = _choice(request.tool_choice)
        body["tool_prompt"] = _text_field(given, "tool_prompt")
    body["response_format"] = grammar
    return {name: value for name, value in body.items() if value is not None}


def _messages(request: Chat) -> list[JSON]:
    names = {call.id: call.name for message in request.messages for call in message.tool_calls if call.id}
    continues = request.body.get("continue_final_message") is True
    if (request.messages[-1].role == "assistant") != continues:
        where = f"messages[{len(request.messages) - 1}]"
        why = "tgi continues a last message of the assistant's; say 'continue_final_message' if that is meant"
        raise invalid(where, why) if not continues else invalid("continue_final_message", "the last message is not one")
    return [_message(message, names, f"messages[{at}]") for at, message in enumerate(request.messages)]


def _message(message: Message, names: Mapping[str, str], where: str) -> JSON:
    role = ROLES.get(message.role, message.role)
    # Its own field for the call that is answered is dropped on the way in; the function's name is not.
    name = names.get(message.tool_call_id or "") if role == "tool" and message.name is None else message.name
    wire: JSON = {"role": role} | ({"name": neutralised(name)} if name else {})
    if message.tool_calls:
        # With text beside them the calls would be lost, and they say more than what introduced them.
        return wire | {
            "tool_calls": [_call(at, call.name, call.arguments, call.id) for at, call in enumerate(message.tool_calls)]
        }
    if all(isinstance(part, Text) for part in message.content):
        return wire | {"content": neutralised(message.text)}  # never null, which is refused
    return wire | {"content": _parts(message, where)}


def _call(at: int, name: str, arguments: str, id_: str | None) -> JSON:
    function = {"name": neutralised(name), "arguments": neutralised(arguments) or "{}"}
    return {"id": id_ or f"call_{at}", "type": "function", "function": function}


def _parts(message: Message, where: str) -> list[JSON]:
    parts: list[JSON] = []
    run = ""  # TGI puts parts together with nothing between, so a mark could be spread over two of them
    for at, part in enumerate(message.content):
        match part:
            case Text(text):
                run += text
                continue
            case Image():
                if run:
                    parts.append(_text_part(run))
                    run = ""
                parts.append({"type": "image_url", "image_url": {"url": _image(part, f"{where}.content[{at}]")}})
            case Audio():
                raise GatewayError(Kind.CAPABILITY, "The backend 'tgi' does not support audio", param="messages")
    return [*parts, _text_part(run)] if run else parts


def _text_part(text: str) -> JSON:
    return {"type": "text", "text": neutralised(text)}


def _image(image: Image, where: str) -> str:
    found = _DATA_URL.fullmatch(data_url(image))
    if found is None:
        raise invalid(where, "expected an image as base64")
    return f"data:{found['kind'].lower()};base64,{found['data']}"


def _tool(tool: Tool) -> JSON:
    function: JSON = {"name": tool.name, "parameters": tool.parameters or NO_PARAMETERS}
    if tool.description is not None:
        function["description"] = tool.description
    neutral: JSON = all_neutralised(function)
    return {"type": "function", "function": neutral}


def _choice(choice: ToolChoice | None) -> str | JSON:
    if choice is None:
        return "auto"
    if choice.mode == "named":
        return {"type": "function", "function": {"name": choice.name}}
    return choice.mode


def _grammar(asked: ResponseFormat | None, given: Mapping[str, Any]) -> JSON | None:
    """Return the format in TGI's words; a client that speaks them already is understood too."""
    if asked is None or asked.type == "text":
        return None
    if asked.schema is not None:
        return {"type": "json", "value": dict(asked.schema)}
    theirs = given.get("response_format")
    value = theirs.get("value") if isinstance(theirs, Mapping) else None
    if value is not None and asked.type in FORMATS:
        return {"type": asked.type, "value": value}
    why = "give a 'json_schema': it knows no JSON without one" if asked.type == "json_object" else "it needs a schema"
    raise refusal("response_format", why)


def _text_field(given: Mapping[str, Any], name: str) -> str | None:
    value = given.get(name)
    if value is not None and not isinstance(value, str):
        raise invalid(name, "expected string")
    return None if value is None else neutralised(value)
