"""Relevance and token ids from vLLM and its like: what is sent, and what the answers amount to.

The answers are small and are read whole, so that the gateway's own answer has one shape whoever ranked or tokenised.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from illm.backends.remote.bodies import Collected
from illm.backends.remote.repair import JSON, read_usage
from illm.backends.remote.upstream_errors import complaint_in, nonsense, upstream_error
from illm.core.events import Delta, Done, Event, Ranking, Tokens, Usage
from illm.core.requests import Detokenize, Embed, Rerank, Tokenize
from illm.errors import GatewayError, Kind

_OURS = frozenset({"top_n", "return_documents", "truncate"})
"""Of a request to rerank: what the gateway does itself, or says in the server's words."""


def rerank_fields(body: JSON, request: Rerank) -> JSON:
    """Return what is sent for a request to rerank: all documents are asked for, as the gateway sorts."""
    body = {name: value for name, value in body.items() if name not in _OURS}
    return cut_fields(body | {"documents": list(request.documents)}, request)


def cut_fields(body: JSON, request: Embed | Rerank) -> JSON:
    """Put `truncate` into the word that vLLM knows."""
    body = {name: value for name, value in body.items() if name != "truncate"}
    return body if request.cut is None else body | {"truncate_prompt_tokens": request.cut}


def refuse_unheard(body: Mapping[str, Any], unheard: Sequence[str], framework: str) -> None:
    """Raise for a field that the server would ignore although it changes the answer."""
    for name in unheard:
        if body.get(name) not in (None, False):
            message = f"The parameter '{name}' is not supported: {framework} ignores it."
            raise GatewayError(Kind.UNSUPPORTED_PARAMETER, message, param=name)


class _Result(Struct):
    index: int
    relevance_score: float


class _Ranked(Struct):
    results: list[_Result] = msgspec.field(default_factory=list)
    usage: Any = None
    error: Any = None
    message: Any = None


class _Tokenised(Struct):
    tokens: list[int]
    max_model_len: int | None = None
    token_strs: list[str] | None = None


class _Text(Struct):
    """vLLM calls it `prompt`, SGLang `text`."""

    prompt: str | None = None
    text: str | None = None
    content: str | None = None
    """llama.cpp's word."""


class RerankAnswer(Collected):
    """The body of an answer that ranks.

    Args:
        framework: who answers.
        request: what was asked.
    """

    def __init__(self, framework: str, request: Rerank) -> None:
        super().__init__(framework)
        self._request = request

    def read(self, body: bytes) -> Sequence[Event]:
        """Put the scores into the order of the documents."""
        answer = msgspec.json.decode(body, type=_Ranked)
        if answer.error:
            shape = {"error": answer.error, "message": answer.message}
            raise upstream_error(self.framework, self._request, 200, complaint_in(shape))
        scores = {result.index: result.relevance_score for result in answer.results}
        usage = read_usage(answer.usage) or Usage()
        return ranked(self.framework, scores, len(self._request.documents), usage)


def ranked(framework: str, scores: Mapping[int, float], count: int, usage: Usage) -> Sequence[Event]:
    """Return the events of a ranking.  Raises `GatewayError` where a document has no score."""
    if set(scores) != set(range(count)):
        raise nonsense(framework, "did not rank every document")
    return (Ranking(tuple(scores[at] for at in range(count))), Done(Usage(usage.prompt_tokens)))


class TokensAnswer(Collected):
    """The body of an answer that tokenises."""

    def read(self, body: bytes) -> Sequence[Event]:
        """Read it."""
        answer = msgspec.json.decode(body, type=_Tokenised)
        strings = None if answer.token_strs is None else tuple(answer.token_strs)
        return (Tokens(tuple(answer.tokens), answer.max_model_len, strings), Done(Usage(len(answer.tokens))))


class TextAnswer(Collected):
    """The body of an answer that spells tokens out."""

    def read(self, body: bytes) -> Sequence[Event]:
        """Read it."""
        answer = msgspec.json.decode(body, type=_Text)
        text = next((said for said in (answer.prompt, answer.text, answer.content) if said is not None), None)
        if text is None:
            raise nonsense(self.framework, "answered without a text")
        return (Delta(0, text), Done(Usage()))


PLACES: Mapping[type, str] = {Rerank: "/v1/rerank", Tokenize: "/tokenize", Detokenize: "/detokenize"}
