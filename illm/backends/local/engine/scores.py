"""How likely the model found the tokens that were chosen, for those sequences that want to know.

These are the model's own probabilities: of its logits as they are, before temperature, penalties and the rest.
"""

from collections.abc import Sequence

import torch

from illm.backends.local.engine.sequence import LiveSequence, Score


def score(logits: torch.Tensor, sequences: Sequence[LiveSequence], chosen: Sequence[int]) -> list[Score | None]:
    """Score the chosen tokens.

    Args:
        logits: `(len(sequences), vocabulary)`, any floating type.
        sequences: whose they are.
        chosen: one token id for each.

    Returns:
        one score for each; None for those that did not ask.
    """
    scores: list[Score | None] = [None] * len(sequences)
    with torch.inference_mode():
        for row, (sequence, token) in enumerate(zip(sequences, chosen, strict=True)):
            wanted = sequence.request.logprobs
            if wanted is None:
                continue
            logprobs = torch.log_softmax(logits[row].float(), dim=-1)
            values, ids = logprobs.topk(min(wanted, len(logprobs)))
            top = tuple(zip(ids.tolist(), values.tolist(), strict=True))
            scores[row] = Score(token, logprobs[token].item(), top)
    return scores
