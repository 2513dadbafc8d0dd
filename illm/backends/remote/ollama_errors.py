"""What Ollama says when it refuses or fails: its words to the rows of our table, where the status would mislead."""

import re
from collections.abc import Mapping
from typing import NamedTuple

from illm.backends.remote.scrub import scrub
from illm.backends.remote.upstream_errors import Complaint, upstream_error
from illm.core.requests import Chat, Completion, Embed, Request
from illm.errors import GatewayError, Kind


class Saying(NamedTuple):
    """One row: whatever the status, `words` mean `kind`; `param` may hold `{0}`, the pattern's group, or `{input}`."""

    words: re.Pattern[str]
    kind: Kind
    param: str | None


def _row(words: str, kind: Kind, param: str | None) -> Saying:
    return Saying(re.compile(words, re.IGNORECASE), kind, param)


SAYINGS = (
    _row(
        r"exceed\w* .{0,40}context (?:length|size|window)|(?:prompt|input) (?:is )?too long",
        Kind.CONTEXT_LENGTH,
        "{input}",
    ),
    _row(r'option "([\w.]{1,64})" must be', Kind.INVALID_REQUEST, "options.{0}"),
    _row(r"does not support thinking", Kind.UNSUPPORTED_PARAMETER, "{think}"),
    _row(r"invalid think value|think value .* is not supported", Kind.INVALID_REQUEST, "{think}"),
    _row(r"does not support tools", Kind.CAPABILITY, "tools"),
    _row(r"does not support insert", Kind.CAPABILITY, "suffix"),
    _row(r"does not support (?:chat|generate|completion|embed\w*|vision|image\w*|audio)", Kind.CAPABILITY, "model"),
    _row(
        r"(?:image|audio|vision|multimodal)\w*(?: \w+)? (?:is |are )?(?:not supported|unsupported)"
        r"|(?:missing|no) \w*\s?projector|mmproj",
        Kind.CAPABILITY,
        "messages",
    ),
    _row(r"invalid model name|model is required", Kind.INVALID_REQUEST, "model"),
    _row(r"top_logprobs must be", Kind.INVALID_REQUEST, "top_logprobs"),
)
"""The first that fits counts; what fits none is judged by its status, like every backend's."""

_REGISTRY = re.compile(r"registry\.ollama\.ai/(?:library/)?")

_INPUTS: tuple[tuple[type, str], ...] = ((Chat, "messages"), (Completion, "prompt"), (Embed, "input"))


def ollama_error(
    request: Request, status: int, complaint: Complaint, headers: Mapping[bytes, bytes] | None = None
) -> GatewayError:
    """Make the error a client is told about.

    Args:
        request: what was asked.
        status: HTTP status, or 200 for an error in an answer that had begun well.
        complaint: what Ollama said.
        headers: of the response, names in lower case.
    """
    complaint = complaint._replace(message=_REGISTRY.sub("", complaint.message))
    if status not in (401, 403):  # there it speaks about the gateway's own key
        for saying in SAYINGS:
            if found := saying.words.search(complaint.message):
                words = f"The ollama server answered: {scrub(complaint.message)}"
                return GatewayError(saying.kind, words, param=_param(saying.param, found, request))
    return upstream_error("ollama", request, status, complaint, headers)


def _param(template: str | None, found: re.Match[str], request: Request) -> str | None:
    if template is None:
        return None
    body = getattr(request, "body", {})
    think = "reasoning_effort" if body.get("think") is None else "think"
    source = next((name for kind, name in _INPUTS if isinstance(request, kind)), "file")
    return template.format(*found.groups(), input=source, think=think)
