"""`POST /v1/chat/completions`: the request.  Its larger parts are in `messages` and `tools`."""

from typing import Annotated, Any

from msgspec import Meta

from illm.core.requests import Chat
from illm.dialects.openai.constraints import to_constraints
from illm.dialects.openai.json_body import check_depth, convert, load_object
from illm.dialects.openai.messages import WireMessage, to_message
from illm.dialects.openai.plain import MAX_MESSAGES, plain_chat
from illm.dialects.openai.sampling import GenerateWire, to_sampling, wants_usage
from illm.dialects.openai.tools import MAX_TOOLS, WireFormat, WireTool, WireToolChoice, to_format, to_tools


class ChatWire(GenerateWire, kw_only=True):
    """The JSON fields of a chat request."""

    messages: Annotated[list[WireMessage], Meta(min_length=1, max_length=MAX_MESSAGES)]
    tools: Annotated[list[WireTool], Meta(max_length=MAX_TOOLS)] | None = None
    tool_choice: WireToolChoice | None = None
    parallel_tool_calls: bool = True
    response_format: WireFormat | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int, Meta(ge=0, le=1024)] | None = None
    reasoning_effort: str | float | None = None


def read_chat(raw: bytes) -> Chat:
    """Read a chat request from its body's bytes.  Raises as `decode_body` and `parse_chat`."""
    body = load_object(raw)
    chat = plain_chat(body)
    if chat is None:
        check_depth(raw, body)
        chat = parse_long(body)
    return chat


def parse_chat(body: dict[str, Any]) -> Chat:
    """Parse a chat request.

    What only some backends honour (tools, log-probabilities, ...) is parsed for all of them; `unsupported` says, once
    the backend is known, whether it would be dropped.

    Args:
        body: the decoded JSON object; it stays with the request, so nobody should change it afterwards.

    Raises:
        GatewayError: a field is wrong; `param` names it (`messages[0].content[1].type`).
    """
    return plain_chat(body) or parse_long(body)


def parse_long(body: dict[str, Any]) -> Chat:
    """Parse any chat; see `parse_chat`, which takes the short way where there is one."""
    wire = convert(body, ChatWire)
    tools, choice = to_tools(wire.tools, wire.tool_choice)
    return Chat(
        messages=tuple(to_message(message, f"messages[{at}]") for at, message in enumerate(wire.messages)),
        sampling=to_sampling(wire, logprobs=(wire.top_logprobs or 0) if wire.logprobs else None),
        tools=tools,
        tool_choice=choice,
        parallel_tool_calls=wire.parallel_tool_calls,
        response_format=to_format(wire.response_format),
        constraints=to_constraints(wire, wire.response_format),
        reasoning_effort=None if wire.reasoning_effort is None else str(wire.reasoning_effort),
        model=wire.model,
        framework=wire.framework,
        stream=wire.stream,
        include_usage=wants_usage(wire),
        priority=wire.priority,
        body=body,
    )
