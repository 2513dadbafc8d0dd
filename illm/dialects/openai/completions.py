"""`POST /v1/completions`: the request."""

from typing import Annotated, Any

from msgspec import Meta

from illm.core.requests import Completion
from illm.dialects.openai.constraints import to_constraints
from illm.dialects.openai.json_body import convert, invalid
from illm.dialects.openai.prompts import WirePrompts, to_prompts
from illm.dialects.openai.sampling import GenerateWire, to_sampling, wants_usage
from illm.dialects.openai.tools import WireFormat

MAX_PROMPTS = 128
MAX_CHOICES = 256
"""Prompts times `n`."""

DEFAULT_MAX_TOKENS = 16
"""OpenAI's limit for a completion that names none."""


class CompletionWire(GenerateWire, kw_only=True):
    """The JSON fields of a completion request."""

    prompt: WirePrompts
    echo: bool = False
    suffix: str | None = None
    response_format: WireFormat | None = None
    # `false` is no number, and is what a client of the chat endpoint sends.
    logprobs: bool | Annotated[int, Meta(ge=0, le=1024)] | None = None


def parse_completion(body: dict[str, Any]) -> Completion:
    """Parse a completion request.

    Args:
        body: the decoded JSON object; it stays with the request, so nobody should change it afterwards.

    Returns:
        The request.  `sampling.max_tokens` stays `None` where the client gave none: OpenAI's default of
        `DEFAULT_MAX_TOKENS` comes after the configured one.

    Raises:
        GatewayError: a field is wrong; `param` names it.
    """
    wire = convert(body, CompletionWire)
    if wire.logprobs is True:
        raise invalid("expected integer, got boolean", param="logprobs")
    logprobs = None if wire.logprobs is None or wire.logprobs is False else wire.logprobs
    prompts = to_prompts(wire.prompt, name="prompt", most=MAX_PROMPTS)
    if len(prompts) * wire.n > MAX_CHOICES:
        raise invalid(f"prompts times n must be at most {MAX_CHOICES}", param="n")
    return Completion(
        prompts=prompts,
        sampling=to_sampling(wire, may_be_empty=wire.echo, logprobs=logprobs),
        echo=wire.echo,
        suffix=wire.suffix or None,
        constraints=to_constraints(wire, wire.response_format),
        model=wire.model,
        framework=wire.framework,
        stream=wire.stream,
        include_usage=wants_usage(wire),
        priority=wire.priority,
        body=body,
    )
