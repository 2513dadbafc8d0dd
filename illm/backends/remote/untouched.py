"""Which whole answers need no repair, told from decoded JSON: most of them, and they go out as the bytes they came in.

What is asked here is `repair.repair_answer`'s list read backwards: `untouched` is true only where that would change
nothing.  A test holds the two to each other.
"""

from typing import Any

from illm.backends.remote.repair import JSON, REASONS, Asked

_AS_THEY_ARE = frozenset(reason for reason, known in REASONS.items() if reason == known)


def drop_empty(answer: JSON) -> bool:
    """Take out of the one choice's message what servers write although it says nothing; say whether there was any.

    vLLM writes a null `reasoning` into every message, older ones an empty list of `tool_calls`.
    """
    choices = answer.get("choices")
    if type(choices) is not list or len(choices) != 1 or type(choices[0]) is not dict:
        return False
    message = choices[0].get("message")
    if type(message) is not dict:
        return False
    dropped = False
    if "reasoning" in message and not message["reasoning"]:
        del message["reasoning"]
        dropped = True
    if "tool_calls" in message and not message["tool_calls"]:
        del message["tool_calls"]
        dropped = True
    return dropped


def untouched(asked: Asked, answer: JSON) -> bool:
    """Say whether a whole answer is as its client may have it.  May say no too often, never yes."""
    model, choices = answer.get("model"), answer.get("choices")
    if not model or model != asked.request.model or "error" in answer or answer.get("object") == "error":
        return False
    if type(choices) is not list or len(choices) != 1 or asked.copies != 1 or "metadata" in answer:
        return False
    return _choice(choices[0]) and _usage(answer.get("usage"))


def _choice(choice: Any) -> bool:
    if type(choice) is not dict or "index" not in choice or choice.get("logprobs", ()) is not None:
        return False
    reason, message = choice.get("finish_reason"), choice.get("message")
    if type(reason) is not str or reason not in _AS_THEY_ARE:
        return False
    return type(message) is not dict or not (
        "reasoning" in message or "tool_calls" in message or message.get("function_call")
    )


def _usage(usage: Any) -> bool:
    if type(usage) is not dict:
        return True
    prompt, completion = usage.get("prompt_tokens"), usage.get("completion_tokens")
    return (
        type(prompt) is int
        and type(completion) is int
        and usage.get("total_tokens") == prompt + completion
        and "reasoning_tokens" not in usage
    )
