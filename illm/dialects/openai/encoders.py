"""Which encoder an answer gets: the request decides.

`id` shadows a builtin here because it is the wire's word for it.
"""

from illm.core.requests import Chat, Completion
from illm.dialects.openai.answer import AnswerEncoder, chat_choice, completion_choice
from illm.dialects.openai.encoder import Encoder, Head
from illm.dialects.openai.stream import CHAT_CHUNK, COMPLETION_CHUNK, StreamEncoder


def chat_encoder(request: Chat, *, id: str, created: int, model: str) -> Encoder:  # noqa: A002
    """Return the encoder for a chat's answer.

    Args:
        request: what was asked; decides whether to stream, how many choices, and the usage chunk.
        id: the answer's name (`chatcmpl-...`).
        created: seconds since 1970.
        model: the name to answer with.
    """
    choices = request.sampling.n
    if request.stream:
        head: Head = {"id": id, "object": "chat.completion.chunk", "created": created, "model": model}
        return StreamEncoder(head, CHAT_CHUNK, choices=choices, include_usage=request.include_usage)
    head = {"id": id, "object": "chat.completion", "created": created, "model": model}
    return AnswerEncoder(head, chat_choice, choices=choices)


def completion_encoder(request: Completion, *, id: str, created: int, model: str) -> Encoder:  # noqa: A002
    """Return the encoder for a completion's answer; choice `p * n + i` continues prompt p.

    Args:
        request: what was asked; decides whether to stream, how many choices, and the usage chunk.
        id: the answer's name (`cmpl-...`).
        created: seconds since 1970.
        model: the name to answer with.
    """
    choices = len(request.prompts) * request.sampling.n
    # Chunks and whole answers share their name here; the legacy endpoint has no `.chunk`.
    head: Head = {"id": id, "object": "text_completion", "created": created, "model": model}
    if request.stream:
        return StreamEncoder(head, COMPLETION_CHUNK, choices=choices, include_usage=request.include_usage)
    return AnswerEncoder(head, completion_choice, choices=choices)
