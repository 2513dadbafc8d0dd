"""The log-probabilities of completions, whose shape is older than that of chats: parallel lists, and offsets."""

from typing import Any

JSON = dict[str, Any]


def repair_logprobs(choice: JSON, start: int) -> int:
    """Put a completion's log-probabilities right, in place.

    llama.cpp writes them as for a chat; SGLang has no offsets.

    Args:
        choice: of a completion or one of its chunks.
        start: characters of the choice's text before this piece.

    Returns:
        Where the next piece's first token starts.
    """
    logprobs = choice.get("logprobs")
    if not isinstance(logprobs, dict):
        return start
    if isinstance(logprobs.get("content"), list) and not isinstance(logprobs.get("tokens"), list):
        logprobs = choice["logprobs"] = _parallel([entry for entry in logprobs["content"] if isinstance(entry, dict)])
    if not isinstance(logprobs.get("tokens"), list):
        return start
    offsets = []
    for token in logprobs["tokens"]:
        offsets.append(start)
        start += len(str(token))
    if any(offset is None or offset < 0 for offset in logprobs.get("text_offset") or [None]):
        logprobs["text_offset"] = offsets
    return start


def _parallel(entries: list[JSON]) -> JSON:
    return {
        "tokens": [entry.get("token") for entry in entries],
        "token_logprobs": [entry.get("logprob") for entry in entries],
        "top_logprobs": [
            {top.get("token"): top.get("logprob") for top in entry.get("top_logprobs") or ()} for entry in entries
        ],
    }
