"""What each kind of local model can be asked for: its capabilities, and the request fields that it honours."""

from illm.backends.local.answers import detect
from illm.backends.local.parameters import SUPPORTED as SAMPLING
from illm.backends.local.sources import ModelKind, Source
from illm.backends.local.template import template_in
from illm.config import Config
from illm.core.capabilities import Capability

_WRITING = frozenset(
    {
        Capability.CHAT,
        Capability.COMPLETIONS,
        Capability.STREAMING,
        Capability.LOGPROBS,
        Capability.JSON_SCHEMA,
        Capability.TOKENS,
    }
)

CAPABILITIES = {
    "text": _WRITING,
    "vision": _WRITING | {Capability.IMAGES},
    "embedding": frozenset({Capability.EMBEDDINGS, Capability.RERANK, Capability.TOKENS}),
    "rerank": frozenset({Capability.RERANK, Capability.TOKENS}),
    "audio": frozenset({Capability.AUDIO}),
}

GENERATING = frozenset({"text", "vision"})

KINDS: dict[Capability, ModelKind] = {
    Capability.EMBEDDINGS: "embedding",
    Capability.RERANK: "rerank",
    Capability.AUDIO: "audio",
}
"""What a model is taken for that is asked for this, as long as its files are not here to say."""

_HONOURED = SAMPLING | {
    "ebnf",
    "grammar",
    "regex",
    "response_format",
    "structured_outputs",
    "chat_template_kwargs",
    "parallel_tool_calls",
    "priority",
    "reasoning_effort",
    "tool_choice",
    "tools",
}

_CUTTING = frozenset({"truncate", "truncate_prompt_tokens"})

SUPPORTED = {
    "text": _HONOURED,
    "vision": _HONOURED,
    "embedding": _CUTTING | {"prompt_name"},
    "rerank": _CUTTING,
    "audio": frozenset[str](),
}
"""Request fields beyond the plain ones; what one model cannot do among them its own chat template decides."""


def capabilities(kind: str, source: Source | None, config: Config) -> frozenset[Capability]:
    """Return what a model can do.

    Args:
        kind: of the model.
        source: where it is; None where it cannot be had now.
        config: what the operator wants of tools.
    """
    known = CAPABILITIES[kind]
    if kind not in GENERATING or source is None or source.directory is None:
        return known  # what has yet to be fetched says when it is there
    template = template_in(source.directory)
    calls = "tools" in template and config.tool_format != "none" and (config.tool_format != "auto" or detect(template))
    return known | {Capability.TOOLS} if calls else known
