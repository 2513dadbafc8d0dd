"""What of two answers is the same: a stream folded as a client folds it, and the paths at which JSON values differ."""

import json

from backends.remote.recordings import events


def fold(chunks):
    """Put a stream's chunks together, as a client does."""
    choices: dict[int, dict] = {}
    order = []
    for chunk in chunks:
        for choice in chunk["choices"]:
            index = choice["index"]
            if index not in choices:
                order.append(index)
            blank = {"text": "", "reasoning": "", "roles": 0, "logprobs": [], "calls": {}, "finish_reason": None}
            folded = choices.setdefault(index, blank)
            delta = choice.get("delta") or {}
            folded["text"] += choice.get("text") or delta.get("content") or ""
            folded["reasoning"] += delta.get("reasoning_content") or delta.get("reasoning") or ""
            folded["roles"] += "role" in delta
            folded["logprobs"] += (choice.get("logprobs") or {}).get("content", [])
            folded["finish_reason"] = choice["finish_reason"] or folded["finish_reason"]
            for call in delta.get("tool_calls") or ():
                _fold_call(folded["calls"], call)
    usages = [chunk["usage"] for chunk in chunks if chunk.get("usage")]
    return {
        "choices": choices,
        "order": order,
        "ids": len({chunk["id"] for chunk in chunks}),
        "id": chunks[0]["id"],
        "created": chunks[0]["created"],
        "names": sorted({(chunk["model"], chunk["object"]) for chunk in chunks}),
        "usage": usages[-1] if usages else None,
        "usages": len(usages),
        "usage_chunk": bool(usages) and chunks[-1]["choices"] == [],
    }


def _fold_call(calls, delta):
    call = calls.setdefault(delta["index"], {"id": "", "name": "", "arguments": ""})
    function = delta.get("function") or {}
    call["id"] += delta.get("id") or ""
    for name in ("name", "arguments"):
        call[name] += function.get(name) or ""


def differences(theirs, ours, path):
    """Name every path at which two JSON values differ."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        for name in {*theirs, *ours}:
            absent = object()
            where = f"{path}[]" if isinstance(name, int) else f"{path}.{name}"
            yield from differences(theirs.get(name, absent), ours.get(name, absent), where)
    elif isinstance(theirs, list) and isinstance(ours, list) and len(theirs) == len(ours):
        for left, right in zip(theirs, ours, strict=True):
            yield from differences(left, right, f"{path}[]")
    elif theirs != ours:
        yield path


def answers_differ(exchange, body):
    """Name every path at which an answer's body differs from the recorded one."""
    if exchange.streamed:
        return set(differences(fold(events(exchange.body)), fold(events(body)), "stream"))
    kind = "embeddings" if exchange.path == "/v1/embeddings" else "answer"
    return set(differences(json.loads(exchange.body), json.loads(body), kind))


def asked_differ(exchange, body):
    """Name every path at which what a server was asked differs from the recorded request."""
    return set(differences(json.loads(exchange.asked), json.loads(body), "asked"))
