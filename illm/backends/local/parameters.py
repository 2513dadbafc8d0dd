"""Which parameters a local model honours, and which values of them it refuses, by name."""

from illm.core.requests import Chat, Generate, Sampling
from illm.errors import GatewayError, Kind

SUPPORTED = frozenset(
    {
        "best_of",
        "echo",
        "frequency_penalty",
        "logit_bias",
        "logprobs",
        "min_p",
        "min_tokens",
        "presence_penalty",
        "stop_token_ids",
        "top_logprobs",
        "typical_p",
    }
)
"""The request fields beyond the plain ones."""

MOST_ALTERNATIVES = 20
"""OpenAI's limit: each alternative is spelled out for every token, in the engine's own time."""

MOST_SEQUENCES = 256


def refuse_impossible(request: Generate, sampling: Sampling, vocabulary: int) -> None:
    """Raise for what makes no sense together, or not with this model.

    Args:
        request: what was asked.
        sampling: its sampling, gaps filled.
        vocabulary: how many token ids the model knows.

    Raises:
        GatewayError: 400 with `param`.
    """
    chat = isinstance(request, Chat)
    told = request.body.get
    best_of, limit = sampling.best_of or sampling.n, sampling.max_tokens
    # What the client may make smaller: of the three the first that it has sent.
    many = "best_of" if sampling.best_of is not None else "n" if sampling.n > 1 else "prompt"
    prompts = 1 if isinstance(request, Chat) else len(request.prompts)
    unknown = max((*sampling.stop_token_ids, *map(int, sampling.logit_bias or ())), default=-1)
    # In this order: of several mistakes the first is complained about.
    rules = (
        (chat and told("echo"), "echo", "it belongs to completions"),
        (not chat and told("top_logprobs"), "top_logprobs", "it belongs to chats; completions have 'logprobs'"),
        (chat and told("top_logprobs") and sampling.logprobs is None, "top_logprobs", "needs 'logprobs' to be true"),
        (
            (sampling.logprobs or 0) > MOST_ALTERNATIVES,
            "top_logprobs" if chat else "logprobs",
            f"expected at most {MOST_ALTERNATIVES}",
        ),
        (best_of < sampling.n, "best_of", f"expected at least n, which is {sampling.n}"),
        (best_of > sampling.n and request.stream, "best_of", "more than n cannot be streamed: the best is known last"),
        (best_of * prompts > MOST_SEQUENCES, many, f"at most {MOST_SEQUENCES} answers to all prompts are possible"),
        (limit is not None and sampling.min_tokens > limit, "min_tokens", f"expected at most max_tokens ({limit})"),
        (
            unknown >= vocabulary,
            "stop_token_ids" if unknown in sampling.stop_token_ids else "logit_bias",
            f"token id {unknown} is outside the vocabulary of {vocabulary}",
        ),
    )
    for broken, param, message in rules:
        if broken:
            raise GatewayError(Kind.INVALID_REQUEST, f"{param}: {message}.", param=param)
