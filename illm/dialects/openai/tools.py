"""Tools, the choice among them, and the format of the answer: the parts of a chat request that constrain it."""

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from illm.core.requests import ResponseFormat, Tool, ToolChoice
from illm.dialects.openai.json_body import invalid
from illm.errors import GatewayError, Kind

MAX_TOOLS = 512

FunctionName = Annotated[str, Meta(min_length=1, max_length=512)]


class WireFunction(Struct):
    """A function's description; `parameters` is a JSON schema."""

    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class WireTool(Struct):
    """A tool; only functions are known to any backend."""

    type: str = "function"
    function: WireFunction | None = None


class NamedFunction(Struct):
    """A function by its name."""

    name: FunctionName


class NamedTool(Struct):
    """A tool by its name."""

    function: NamedFunction
    type: Literal["function"] = "function"


class AllowedTools(Struct):
    """Some of the tools, and whether one of them has to be called."""

    tools: list[NamedTool]
    mode: Literal["auto", "required"] = "auto"


class WireChoice(Struct):
    """One tool by its name, or OpenAI's `allowed_tools`."""

    type: str
    function: NamedFunction | None = None
    allowed_tools: AllowedTools | None = None


class JSONSchema(Struct):
    """A schema for the whole answer."""

    name: str | None = None
    description: str | None = None
    schema: dict[str, Any] | None = None
    strict: bool | None = None


class WireFormat(Struct):
    """The answer's format."""

    type: Annotated[str, Meta(min_length=1, max_length=64)]
    json_schema: JSONSchema | None = None


WireToolChoice = Literal["none", "auto", "required"] | WireChoice


def to_tools(wire: list[WireTool] | None, choice: WireToolChoice | None) -> tuple[tuple[Tool, ...], ToolChoice | None]:
    """Make the tools and the choice among them.

    Returns:
        `allowed_tools`, which no backend knows, has become what it means: only those tools, and its mode.

    Raises:
        GatewayError: a tool that is no function, or a choice of a tool that is not there.
    """
    tools = tuple(_tool(tool, f"tools[{at}]") for at, tool in enumerate(wire or ()))
    if choice is None or isinstance(choice, str):
        return tools, None if choice is None else ToolChoice(choice)
    names = {tool.name for tool in tools}
    if choice.allowed_tools is not None:
        allowed = {tool.function.name for tool in choice.allowed_tools.tools}
        _known(allowed, names, "tool_choice.allowed_tools.tools")
        return tuple(tool for tool in tools if tool.name in allowed), ToolChoice(choice.allowed_tools.mode)
    if choice.function is None:
        raise _no_function(choice.type, "tool_choice.type")
    _known({choice.function.name}, names, "tool_choice.function.name")
    return tools, ToolChoice("named", choice.function.name)


def to_format(wire: WireFormat | None) -> ResponseFormat | None:
    """Make the answer's format.

    Raises:
        GatewayError: a schema is announced and missing.
    """
    if wire is None:
        return None
    described = wire.json_schema
    if described is None:
        if wire.type == "json_schema":
            raise invalid("this field is required", param="response_format.json_schema")
        return ResponseFormat(wire.type)
    return ResponseFormat(wire.type, described.schema, described.name, bool(described.strict))


def _tool(wire: WireTool, path: str) -> Tool:
    if wire.type != "function":
        raise _no_function(wire.type, f"{path}.type")
    if wire.function is None:
        raise invalid("this field is required", param=f"{path}.function")
    function = wire.function
    return Tool(function.name, function.description, function.parameters, bool(function.strict))


def _no_function(kind: str, param: str) -> GatewayError:
    return GatewayError(Kind.UNSUPPORTED_PARAMETER, f"Tools of type '{kind[:64]}' are not supported.", param=param)


def _known(asked: set[str], names: set[str], param: str) -> None:
    if not asked <= names:
        raise invalid(f"there is no tool '{min(asked - names)[:64]}'", param=param)
