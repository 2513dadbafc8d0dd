"""SGLang."""

from illm.backends.remote.openai_like import EVERYTHING, OpenAILike, Quirks
from illm.backends.remote.upstream import Dialect
from illm.config import Config
from illm.core.capabilities import Capability

REFUSED = dict.fromkeys(
    ("guided_json", "guided_regex", "guided_choice", "guided_grammar", "grammar", "structured_outputs"),
    "SGLang has 'response_format', 'regex' and 'ebnf' for it",
) | dict.fromkeys(("options", "think"), "that is Ollama's word for it")

UNHEARD = ("prompt_name", "truncate", "truncate_prompt_tokens", "return_token_strs")

CAPABILITIES = EVERYTHING - {Capability.RERANK}
"""An embedding model's server ends when it is asked to rerank, and takes everybody's requests with it."""


def dialect(config: Config) -> Dialect:
    """Return how SGLang is spoken to."""
    # `/health` generates a token and takes a second; this one answers at once.
    quirks = Quirks(refused=REFUSED, unheard=("prompt",), unheard_in_texts=UNHEARD)
    return OpenAILike(framework="sglang", quirks=quirks, probe_path="/model_info", capabilities=CAPABILITIES)
