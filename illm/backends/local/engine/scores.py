"""How likely the model found the tokens that were chosen, for those sequences that want to know.

These are the model's own probabilities: of its logits as they are, before temperature, penalties and the rest.
"""

from collections.abc import Sequence

import torch

from illm.backends.local.engine.sampler import top
from illm.backends.local.engine.sequence import NO_TOKEN, LiveSequence, Score


def score(logits: torch.Tensor, sequences: Sequence[LiveSequence], chosen: Sequence[int]) -> list[Score | None]:
    """Score the chosen tokens.

    Args:
        logits: `(len(sequences), vocabulary)`, any floating type.
        sequences: whose they are.
        chosen: one token id for each, or `NO_TOKEN`.

    Returns:
        one score for each; None for those that did not ask, or have no token.
    """
    with torch.inference_mode():
        return [
            None
            if sequence.request.logprobs is None or token == NO_TOKEN
            else _score(row, token, sequence.request.logprobs)
            for row, sequence, token in zip(logits, sequences, chosen, strict=True)
        ]


def score_prompt(logits: torch.Tensor, sequence: LiveSequence) -> None:
    """Score the next tokens of a prompt that have not been scored, and keep the scores with it.

    Args:
        logits: `(tokens, vocabulary)`, of the positions before these tokens, without a gap.
        sequence: whose prompt it is.
    """
    first, wanted = sequence.unscored.start + 1, sequence.request.logprobs or 0
    with torch.inference_mode():
        for row, token in zip(logits, sequence.tokens[first:], strict=False):
            sequence.prompt_scores.append(_score(row, token, wanted))


def _score(row: torch.Tensor, token: int, wanted: int) -> Score:
    # One pass for the sum and one for the likeliest: subtracting from all of them would be a third.
    row = row.float()
    whole = row.logsumexp(0)
    alternatives: tuple[tuple[int, float], ...] = ()
    if wanted:
        values, ids = top(row.unsqueeze(0), min(wanted, len(row)))
        alternatives = tuple(zip(ids[0].tolist(), (values[0] - whole).tolist(), strict=True))
    return Score(token, float(row[token] - whole), alternatives)
