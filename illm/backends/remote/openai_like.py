"""Servers that speak OpenAI's dialect, more or less: what all of them have in common.

The client's own fields go through, the vendor's among them, less what routes inside the gateway, explicit nulls, and
what a server would refuse or, worse, silently misread.  What differs from server to server is data (`Quirks`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from illm.backends.remote.bodies import AnswerDecoder, Body
from illm.backends.remote.embedding_answer import EmbeddingAnswer
from illm.backends.remote.outgoing_messages import outgoing_messages
from illm.backends.remote.relay import answer_body
from illm.backends.remote.repair import JSON, Asked
from illm.backends.remote.rerank_and_tokens import (
    PLACES,
    RerankAnswer,
    TextAnswer,
    TokensAnswer,
    cut_fields,
    refuse_unheard,
    rerank_fields,
)
from illm.backends.remote.transcription import no_translations, transcription_body, transcription_form
from illm.backends.remote.upstream import Decoder, Outgoing
from illm.core.capabilities import Capability
from illm.core.requests import Chat, Completion, Detokenize, Embed, Generate, Request, Rerank, Tokenize, Transcribe
from illm.errors import GatewayError, Kind

ROUTING = frozenset({"framework", "embedding_model"})

DEFAULTS = ("max_tokens", "temperature", "top_p", "top_k", "repetition_penalty")
"""What the operator may set for requests that leave it open."""

REFUSED: Mapping[str, str] = {
    "functions": "use 'tools'",
    "function_call": "use 'tool_choice'",
    "audio": "no backend answers with sound",
    "web_search_options": "no backend searches",
}
"""Fields that these servers would ignore although they change the answer, and what to do instead."""

EVERYTHING = frozenset(Capability)

_JSON = ((b"content-type", b"application/json"),)

Adjust = Callable[[JSON, Request], None]
"""Changes an outgoing body in place.  Raises `GatewayError`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quirks:
    """How a server differs.

    Args:
        refused: fields to answer 400 for, with the reason.
        adjust: what else has to change in the body of a chat or completion; then no chat is sent on as it came.
        greedy_n: whether it takes several choices at temperature 0; otherwise one is asked for, and repeated.
        unheard: fields of a transcription that it ignores although they change the answer.
        translates: whether it turns speech into English text, too.
        unheard_in_texts: the same of texts that are embedded, ranked or tokenised.
    """

    refused: Mapping[str, str] = field(default_factory=dict)
    adjust: Adjust | None = None
    greedy_n: bool = True
    unheard: Sequence[str] = ()
    translates: bool = False
    unheard_in_texts: Sequence[str] = ()


@dataclass(kw_only=True)
class OpenAILike:
    """A `Dialect` for such a server; the arguments are that protocol's."""

    framework: str
    quirks: Quirks
    probe_path: str
    capabilities: frozenset[Capability] = EVERYTHING
    supported: frozenset[str] = frozenset({"*"})
    fans_out: bool = False
    models_path: str = "/v1/models"

    def outgoing(self, request: Request) -> Outgoing:
        """Translate a request.

        Raises:
            GatewayError: a field would be silently ignored (400), or an image was not fetched.
        """
        match request:
            case Chat(plain=True) if self.quirks.adjust is None:
                # Written anew from what was validated: cheaper than to prove that two parsers would read the client's
                # own bytes alike (a key that comes twice).
                return _post("/v1/chat/completions", request.body)
            case Chat():
                body = self._generate(request)
                body["messages"] = outgoing_messages(request)
                return _post("/v1/chat/completions", body)
            case Completion():
                return _post("/v1/completions", self._generate(request))
            case Embed():
                refuse_unheard(request.body, self.quirks.unheard_in_texts, self.framework)
                return _post("/v1/embeddings", cut_fields(_plain(request.body, request.model), request))
            case Rerank():
                refuse_unheard(request.body, self.quirks.unheard_in_texts, self.framework)
                return _post(PLACES[Rerank], rerank_fields(_plain(request.body, request.model), request))
            case Tokenize() | Detokenize():
                refuse_unheard(request.body, self.quirks.unheard_in_texts, self.framework)
                return _post(PLACES[type(request)], _plain(request.body, request.model))
            case Transcribe():
                if request.translate and not self.quirks.translates:
                    raise no_translations(self.framework)
                path = "/v1/audio/translations" if request.translate else "/v1/audio/transcriptions"
                content_type, form = transcription_form(request, self.quirks.unheard)
                return Outgoing("POST", path, ((b"content-type", content_type),), form)

    def decoder(self, request: Request) -> Decoder:
        """Return what will read the answer to `request`."""
        return AnswerDecoder(self.framework, request, lambda headers: self._body(request, headers))

    def models(self, body: bytes) -> Sequence[str]:
        """Read a list of models."""
        try:
            listed = orjson.loads(body)["data"]
            return [model["id"] for model in listed if isinstance(model["id"], str)]
        except (orjson.JSONDecodeError, KeyError, TypeError):
            return ()

    def _body(self, request: Request, headers: Mapping[bytes, bytes]) -> Body:
        match request:
            case Chat() | Completion():
                copies = request.sampling.n if self._repeats(request) else 1
                # Not every server writes a completion's log-probabilities in the shape that belongs to it.
                believed = request.sampling.logprobs is None or isinstance(request, Chat)
                return answer_body(Asked(self.framework, request, copies), headers, relayable=believed)
            case Embed():
                return EmbeddingAnswer(self.framework, request)
            case Rerank():
                return RerankAnswer(self.framework, request)
            case Tokenize():
                return TokensAnswer(self.framework)
            case Detokenize():
                return TextAnswer(self.framework)
            case Transcribe():
                return transcription_body(self.framework, request, headers)

    def _repeats(self, request: Generate) -> bool:
        sampling = request.sampling
        if sampling.n == 1 or self.quirks.greedy_n:
            return False
        return sampling.temperature is not None and sampling.temperature < 1e-5

    def _generate(self, request: Generate) -> JSON:
        body = _plain(request.body, request.model)
        self._refuse(body)
        _set_sampling(body, request)
        if self._repeats(request):
            body["n"] = 1
        if isinstance(request, Chat):
            _set_tools(body, request)
        if self.quirks.adjust is not None:
            self.quirks.adjust(body, request)
        return body

    def _refuse(self, body: Mapping[str, Any]) -> None:
        for name, why in {**REFUSED, **self.quirks.refused}.items():
            # An empty schema still asks for JSON; an empty list of functions asks for nothing.
            if name in body and body[name] not in ([], "none", "auto"):
                raise _not_possible(name, why)
        best_of = body.get("best_of")
        if best_of is not None and best_of != body.get("n", 1):
            raise _not_possible("best_of", "no backend chooses among more continuations than it returns")
        if "audio" in (body.get("modalities") or ()):
            raise _not_possible("modalities", REFUSED["audio"])


def _plain(body: Mapping[str, Any], model: str | None) -> JSON:
    plain = {name: value for name, value in body.items() if value is not None and name not in ROUTING}
    if model is not None:
        plain["model"] = model
    return plain


def _set_sampling(body: JSON, request: Generate) -> None:
    sampling = request.sampling
    limit = body.pop("max_completion_tokens", None)
    if limit is not None:
        # Chat knows both names and must not get both; completions know only the older, and ignore the newer.
        body["max_tokens"] = limit
        if isinstance(request, Chat):
            body["max_completion_tokens"] = body.pop("max_tokens")
    for name in DEFAULTS:
        said = name in body or (name == "max_tokens" and limit is not None)
        default = getattr(sampling, name)
        if not said and default is not None:
            body[name] = default
    if body.get("top_p") == 0:  # greedy, which these servers know only as a temperature
        body |= {"temperature": 0, "top_p": 1}
    if body.get("top_k") == 0:  # off, which SGLang knows only so, and the others too
        body["top_k"] = -1
    if isinstance(request, Completion) and body.get("logprobs") is False:
        del body["logprobs"]  # a number there: they would take it for 0, which asks for the chosen token's
    options = body.get("stream_options")
    if isinstance(options, dict):
        body["stream_options"] = {name: value for name, value in options.items() if value is not None}


def _set_tools(body: JSON, request: Chat) -> None:
    choice = body.get("tool_choice")
    if isinstance(choice, dict) and "allowed_tools" in choice and request.tool_choice is not None:
        allowed = {tool.name for tool in request.tools}
        body["tools"] = [tool for tool in body["tools"] if tool["function"]["name"] in allowed]
        body["tool_choice"] = request.tool_choice.mode
    if not body.get("tools"):  # an empty list is refused, and so is a choice among none
        body.pop("tools", None)
        if body.get("tool_choice") in ("auto", "none"):
            del body["tool_choice"]


def _post(path: str, body: Mapping[str, Any]) -> Outgoing:
    return Outgoing("POST", path, _JSON, orjson.dumps(body))


def _not_possible(name: str, why: str) -> GatewayError:
    return GatewayError(Kind.UNSUPPORTED_PARAMETER, f"The parameter '{name}' is not supported: {why}.", param=name)
