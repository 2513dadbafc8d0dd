"""vLLM, and any server that speaks OpenAI's dialect: it is never refused for what it calls itself."""

from illm.backends.remote.openai_like import OpenAILike, Quirks
from illm.backends.remote.upstream import Dialect
from illm.config import Config

STRUCTURED = "vLLM ignores it since 'structured_outputs' took its place"

REFUSED = (
    dict.fromkeys(
        (
            "guided_json",
            "guided_regex",
            "guided_choice",
            "guided_grammar",
            "guided_decoding_backend",
            "guided_whitespace_pattern",
        ),
        STRUCTURED,
    )
    | dict.fromkeys(("regex", "ebnf"), "vLLM has 'structured_outputs' for it")
    | dict.fromkeys(("options", "think"), "that is Ollama's word for it")
)
"""An answer that should be constrained and is not looks like a success; better none."""


def dialect(config: Config) -> Dialect:
    """Return how vLLM is spoken to."""
    # `/v1/models`, unlike `/health`, is there whatever server it really is, and costs no generation either.
    return OpenAILike(
        framework="vllm",
        quirks=Quirks(refused=REFUSED, greedy_n=False, unheard_in_texts=("prompt_name",), translates=True),
        probe_path="/v1/models",
    )
