"""TEI, TGI's sibling for embeddings, through its OpenAI-like route: the native one has no counts.

Vectors travel as base64 whatever the client wants, for that is what they are packed as here.
"""

import struct
from binascii import Error, a2b_base64
from collections.abc import Sequence
from typing import Any

import msgspec
import orjson
from msgspec import Struct, field

from illm.backends.remote.rerank_and_tokens import ranked
from illm.backends.remote.tgi import info_model, post
from illm.backends.remote.tgi_body import Body, BodyDecoder, WholeBody
from illm.backends.remote.tgi_tokens import raise_error_in
from illm.backends.remote.tgi_wire import Counts, Fallible, decode
from illm.backends.remote.upstream import Decoder, Dialect, Outgoing
from illm.backends.remote.upstream_errors import nonsense
from illm.config import Config
from illm.core.capabilities import Capability
from illm.core.events import Done, Event, Usage, Vectors
from illm.core.requests import Embed, Request, Rerank
from illm.errors import GatewayError, Kind

DEFAULT_BATCH = 32


def dialect(config: Config) -> Dialect:
    """Return how a TEI server is spoken to."""
    return TEI()


class TEI:
    """See `illm.backends.remote.upstream.Dialect`; it answers for the framework `tgi`.

    It refuses more texts at once than it was started for, and says in `/info` how many that are.
    """

    framework = "tgi"
    capabilities = frozenset({Capability.EMBEDDINGS, Capability.RERANK})
    supported = frozenset({"dimensions"})
    fans_out = False
    probe_path = "/health"
    models_path = "/info"

    def __init__(self) -> None:
        self.most_inputs = DEFAULT_BATCH

    def outgoing(self, request: Request) -> Outgoing:
        """Translate a request.  Raises as `Dialect.outgoing`."""
        if isinstance(request, Rerank):
            texts = list(request.documents)
            return post("/rerank", {"query": request.query, "texts": texts, "truncate": False})
        if not isinstance(request, Embed):
            raise GatewayError(Kind.CAPABILITY, f"The embeddings server of 'tgi' does not support {request.needs}")
        body: dict[str, Any] = {"input": list(request.inputs), "encoding_format": "base64"}
        if request.dimensions is not None:
            body["dimensions"] = request.dimensions
        return post("/v1/embeddings", body)

    def decoder(self, request: Request) -> Decoder:
        """Return what will read the answer to `request`."""
        return BodyDecoder("tei", request, lambda headers: _body(request))

    def models(self, body: bytes) -> Sequence[str]:
        """Read `/info`."""
        self.most_inputs = _batch(body) or self.most_inputs
        return info_model(body)


class Embedding(Struct):
    """One vector: base64 of little-endian float32."""

    index: int
    embedding: str | list[float]


class Embeddings(Fallible, kw_only=True):
    """The answer."""

    data: list[Embedding] = field(default_factory=list)
    usage: Counts | None = None


class EmbeddingsBody(WholeBody):
    """The answer's body.

    Args:
        request: what was asked.
    """

    def __init__(self, request: Embed) -> None:
        super().__init__("tei")
        self._request = request

    def read(self, body: bytes) -> Sequence[Event]:
        """See `WholeBody.read`."""
        answer = decode(body, Embeddings, "tei")
        raise_error_in(answer, self._request, "tei")
        rows = sorted(answer.data, key=lambda row: row.index)
        if [row.index for row in rows] != list(range(len(self._request.inputs))):
            raise nonsense("tei", "did not send one embedding for each input")
        usage = answer.usage or Counts()
        return (Vectors(tuple(_packed(row.embedding) for row in rows)), Done(Usage(usage.prompt_tokens)))


class Rank(Struct):
    """One text's relevance."""

    index: int
    score: float


class RanksBody(WholeBody):
    """The answer's body where texts were ranked; TEI does not count what it read.

    Args:
        request: what was asked.
    """

    def __init__(self, request: Rerank) -> None:
        super().__init__("tei")
        self._count = len(request.documents)

    def read(self, body: bytes) -> Sequence[Event]:
        """See `WholeBody.read`."""
        try:
            ranks = msgspec.json.decode(body, type=list[Rank])
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise nonsense("tei", "answered something that is no ranking") from None
        return ranked("tei", {rank.index: rank.score for rank in ranks}, self._count, Usage())


def _batch(info: bytes) -> int | None:
    try:
        size = orjson.loads(info).get("max_client_batch_size")
    except (orjson.JSONDecodeError, AttributeError):
        return None
    return size if type(size) is int and size > 0 else None


def _body(request: Request) -> Body:
    if isinstance(request, Rerank):
        return RanksBody(request)
    assert isinstance(request, Embed)  # noqa: S101 - `outgoing` has seen to it
    return EmbeddingsBody(request)


def _packed(embedding: str | list[float]) -> bytes:
    try:
        if isinstance(embedding, str):
            row = a2b_base64(embedding, strict_mode=True)
        else:
            row = struct.pack(f"<{len(embedding)}f", *embedding)
    except (Error, ValueError, OverflowError, struct.error):
        row = b""
    if not row or len(row) % 4:
        raise nonsense("tei", "sent an embedding that is no vector")
    return row
