"""`/v1/rerank`: Jina's and Cohere's request, and the answer as vLLM gives it."""

import math
from collections.abc import Sequence
from typing import Annotated, Any

import orjson
from msgspec import Meta, Struct

from illm.core.requests import Rerank
from illm.dialects.openai.json_body import convert, invalid
from illm.dialects.openai.prompts import CutTo, to_cut
from illm.dialects.openai.sampling import MAX_INT32, Name
from illm.errors import GatewayError, Kind

MAX_DOCUMENTS = 16384


class WireDocument(Struct):
    """A document as an object."""

    text: str


class RerankWire(Struct, kw_only=True):
    """The JSON fields of a rerank request."""

    query: Annotated[str, Meta(min_length=1)]
    documents: Annotated[list[str | WireDocument], Meta(min_length=1, max_length=MAX_DOCUMENTS)]
    top_n: Annotated[int, Meta(ge=0, le=MAX_INT32)] = 0
    return_documents: bool = True
    model: Name | None = None
    framework: Name | None = None
    truncate: bool = False
    truncate_prompt_tokens: CutTo | None = None


def parse_rerank(body: dict[str, Any]) -> Rerank:
    """Parse a rerank request.

    Args:
        body: the decoded JSON object; it stays with the request, so nobody should change it afterwards.

    Returns:
        The request.  `top_n` of 0 asks for all documents, as it does at vLLM.

    Raises:
        GatewayError: a field is wrong; `param` names it (`documents[3]`).
    """
    wire = convert(body, RerankWire)
    documents = tuple(document if isinstance(document, str) else document.text for document in wire.documents)
    empty = next((at for at, document in enumerate(documents) if not document), None)
    if empty is not None:
        raise invalid("must not be empty", param=f"documents[{empty}]")
    return Rerank(
        query=wire.query,
        documents=documents,
        most=wire.top_n or None,
        return_documents=wire.return_documents,
        cut=to_cut(wire.truncate, wire.truncate_prompt_tokens),
        model=wire.model,
        framework=wire.framework,
        body=body,
    )


def rerank_body(request: Rerank, *, id: str, model: str, scores: Sequence[float], prompt_tokens: int) -> bytes:  # noqa: A002 - OpenAI's word
    """Encode the answer: the best document first; of equals, the one that came first.

    Args:
        request: what was asked; its documents come back unless it does not want them.
        id: the answer's.
        model: the name to answer with.
        scores: one a document, in the order of the documents.
        prompt_tokens: tokens of everything that was read.

    Raises:
        GatewayError: `INTERNAL` where a score is NaN or infinite, which JSON has no words for.
    """
    if not math.isfinite(sum(scores)):
        raise GatewayError(Kind.INTERNAL, "The model returned a relevance that is not a number.")
    best = sorted(range(len(scores)), key=lambda at: -scores[at])[: request.most]
    results = [
        {"index": at}
        | ({"document": {"text": request.documents[at]}} if request.return_documents else {})
        | {"relevance_score": scores[at]}
        for at in best
    ]
    usage = {"prompt_tokens": prompt_tokens, "total_tokens": prompt_tokens}
    return orjson.dumps({"id": id, "model": model, "usage": usage, "results": results})
