"""The chat that asks for nothing special, read in one pass: text messages, and fields that mean the same everywhere.

Most chats are so.  What this structure accepts needs none of the checks, the copies and the explanations of the long
way (`chat.parse_chat`), and the body can go to a server of the same dialect as it is: nothing in it is null, unknown,
an alternative spelling or in need of translation.  What it does not accept is read the long way, which knows why.
"""

from functools import lru_cache
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from illm.core.requests import Chat, Message, Sampling, Text
from illm.dialects.openai.sampling import MAX_INT32, Name, Penalty, StopString

MAX_MESSAGES = 2048

_ABSENT: Any = None
"""A default and no value: a null in the body is not accepted."""

_Positive = Annotated[int, Meta(ge=1, le=MAX_INT32)]


class PlainMessage(Struct, forbid_unknown_fields=True):
    """A turn that is only text."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str


class PlainStreamOptions(Struct, forbid_unknown_fields=True):
    """What to send beside the text."""

    include_usage: bool = False


class PlainChat(Struct, kw_only=True, forbid_unknown_fields=True):
    """The JSON fields of such a chat; the ranges are those of `ChatWire`, less the values that would be rewritten."""

    messages: Annotated[list[PlainMessage], Meta(min_length=1, max_length=MAX_MESSAGES)]
    model: Name = _ABSENT
    max_tokens: _Positive | UnsetType = UNSET
    max_completion_tokens: _Positive | UnsetType = UNSET
    temperature: Annotated[float, Meta(ge=0, le=2)] = _ABSENT
    top_p: Annotated[float, Meta(gt=0, le=1)] = _ABSENT
    top_k: _Positive = _ABSENT
    min_p: Annotated[float, Meta(ge=0, le=1)] = _ABSENT
    repetition_penalty: Annotated[float, Meta(ge=0.01, le=100)] = _ABSENT
    presence_penalty: Penalty = _ABSENT
    frequency_penalty: Penalty = _ABSENT
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] = _ABSENT
    stop: StopString | Annotated[list[StopString], Meta(max_length=4)] = ""
    n: Literal[1] = 1
    ignore_eos: bool = False
    stream: bool = False
    stream_options: PlainStreamOptions = _ABSENT
    user: str = _ABSENT


def plain_chat(body: dict[str, Any]) -> Chat | None:
    """Read a chat that asks for nothing special.

    Args:
        body: the decoded JSON object; it stays with the request, so nobody should change it afterwards.

    Returns:
        What `parse_chat` would, with `plain` set; None where the long way has to be taken.
    """
    try:
        wire = msgspec.convert(body, PlainChat)
    except msgspec.ValidationError:
        return None
    options, stop = wire.stream_options, wire.stop
    limit = wire.max_tokens if wire.max_completion_tokens is UNSET else wire.max_completion_tokens
    if options is not None and not wire.stream:
        return None
    if wire.max_completion_tokens is not UNSET and wire.max_tokens is not UNSET:  # a server must not get both
        return None
    chat = Chat(
        messages=tuple([Message(message.role, (Text(message.content),)) for message in wire.messages]),
        sampling=_sampling(
            None if limit is UNSET else limit,
            wire.temperature,
            wire.top_p,
            wire.top_k,
            wire.min_p,
            wire.repetition_penalty,
            wire.presence_penalty,
            wire.frequency_penalty,
            wire.seed,
            ((stop,) if stop else ()) if isinstance(stop, str) else tuple(stop),
            wire.ignore_eos,
        ),
        model=wire.model,
        stream=wire.stream,
        include_usage=options is not None and options.include_usage,
        body=body,
    )
    object.__setattr__(chat, "plain", True)  # no argument, so that no changed copy inherits it
    return chat


@lru_cache(1024)
def _sampling(
    max_tokens: int | None,
    temperature: float | None,
    top_p: float | None,
    top_k: int | None,
    min_p: float | None,
    repetition_penalty: float | None,
    presence_penalty: float | None,
    frequency_penalty: float | None,
    seed: int | None,
    stop: tuple[str, ...],
    ignore_eos: bool,
) -> Sampling:
    # Clients repeat themselves, and nobody changes a `Sampling`: looking one up costs a quarter of making one.
    return Sampling(
        max_tokens=max_tokens,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        presence_penalty=presence_penalty,
        frequency_penalty=frequency_penalty,
        seed=seed,
        stop=stop,
        ignore_eos=ignore_eos,
    )
