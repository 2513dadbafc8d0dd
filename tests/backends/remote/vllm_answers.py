"""Answers in the shape that vLLM gives them: explicit nulls, the reason beside the last piece, `reasoning`."""

from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any

from backends.remote.openai_rules import JSON, Refusal, named_tool
from backends.remote.openai_says import Choice, Logprobs, Says
from backends.remote.vllm_rules import MODEL

_numbers = count(1)

FINGERPRINT = "vllm-0.33.0-0123abcd"


def complaint(refusal: Refusal) -> JSON:
    """Return the body of an error."""
    inner = {"message": str(refusal), "type": refusal.kind, "param": refusal.param, "code": refusal.status}
    return {"error": inner}


def usage_of(prompt: int, choices: Sequence[Choice], *, whole: bool) -> JSON:
    """Return the counts; without nulls in a stream."""
    completion = sum(choice.count for choice in choices)
    counts = {"prompt_tokens": prompt, "total_tokens": prompt + completion, "completion_tokens": completion}
    thought = sum(len(choice.reasoning) for choice in choices)
    details = {"reasoning_tokens": thought} if thought else None
    if whole:
        return {**counts, "prompt_tokens_details": None, "completion_tokens_details": details}
    return counts | ({"completion_tokens_details": details} if details else {})


def chat(body: JSON, prompt: int, choices: Sequence[Choice]) -> JSON:
    """Return a whole chat."""
    return {
        "id": f"chatcmpl-{next(_numbers):016x}",
        "object": "chat.completion",
        "created": 1767000000,
        "model": MODEL,
        "choices": [_choice(body, choice) for choice in choices],
        "service_tier": None,
        "system_fingerprint": FINGERPRINT,
        "usage": usage_of(prompt, choices, whole=True),
        "prompt_logprobs": None,
        "prompt_token_ids": None,
        "kv_transfer_params": None,
    }


def _choice(body: JSON, choice: Choice) -> JSON:
    message: dict[str, Any] = {
        "role": "assistant",
        "content": None if choice.calls else choice.text,
        "refusal": None,
        "annotations": None,
        "audio": None,
        "function_call": None,
        "reasoning": "".join(choice.reasoning) or None,
    }
    if choice.calls:
        message["tool_calls"] = [
            {"id": _call_id(), "type": "function", "function": {"name": name, "arguments": "".join(pieces)}}
            for name, pieces in choice.calls
        ]
    logprobs = Logprobs(body.get("top_logprobs") or 0).chat(choice.tokens) if body.get("logprobs") else None
    return {
        "index": choice.index,
        "message": message,
        "logprobs": logprobs,
        "finish_reason": _reason(body, choice),
        "stop_reason": choice.matched,
        "token_ids": None,
    }


def _reason(body: JSON, choice: Choice) -> str:
    return "stop" if choice.calls and named_tool(body) is not None else choice.reason


def _call_id() -> str:
    return f"chatcmpl-tool-{next(_numbers):016x}"


def chat_chunks(body: JSON, prompt: int, choices: Sequence[Choice]) -> Iterator[JSON]:
    """Yield the chunks: all roles first, then the choices in turn; the reason comes with the last piece of each."""
    head = {
        "id": f"chatcmpl-{next(_numbers):016x}",
        "object": "chat.completion.chunk",
        "created": 1767000000,
        "model": MODEL,
    }
    options = body.get("stream_options") or {}
    running = {"usage": usage_of(prompt, (), whole=False)} if options.get("continuous_usage_stats") else {}
    for choice in choices:
        opening = {"role": "assistant", "content": ""}
        one = {"index": choice.index, "delta": opening, "logprobs": None, "finish_reason": None}
        yield {**head, "choices": [one], **running, "prompt_token_ids": None, "prompt_text": None}
    for one in _in_turn([_deltas(body, choice) for choice in choices]):
        yield {**head, "choices": [one], **running}
    if options.get("include_usage"):
        counts = usage_of(prompt, choices, whole=False)
        yield {**head, "choices": [], "usage": counts, "system_fingerprint": FINGERPRINT}


def _deltas(body: JSON, choice: Choice) -> list[JSON]:
    asked = Logprobs(body.get("top_logprobs") or 0) if body.get("logprobs") else None
    deltas: list[tuple[JSON, Any]] = [({"reasoning": piece}, None) for piece in choice.reasoning]
    deltas += [({"content": token}, asked.chat([token]) if asked else None) for token in choice.tokens]
    for at, (name, pieces) in enumerate(choice.calls):
        function = {"name": name, "arguments": ""}
        deltas.append(
            ({"tool_calls": [{"index": at, "id": _call_id(), "type": "function", "function": function}]}, None)
        )
        deltas += [({"tool_calls": [{"index": at, "function": {"arguments": piece}}]}, None) for piece in pieces]
    if not deltas or not (choice.tokens or choice.calls):
        deltas.append(({"content": ""}, None))
    chunks: list[dict[str, Any]] = [
        {"index": choice.index, "delta": delta, "logprobs": logprobs, "finish_reason": None, "token_ids": None}
        for delta, logprobs in deltas
    ]
    chunks[-1] |= {"finish_reason": _reason(body, choice), "stop_reason": choice.matched}
    return list(chunks)


def _in_turn(rows: Sequence[Sequence[JSON]]) -> Iterator[JSON]:
    for at in range(max(map(len, rows))):
        yield from (row[at] for row in rows if at < len(row))


def completion(body: JSON, prompts: Sequence[str], choices: Sequence[Choice]) -> JSON:
    """Return a whole completion."""
    counted = sum(len(prompt.split()) for prompt in prompts)
    return {
        "id": f"cmpl-{next(_numbers):016x}",
        "object": "text_completion",
        "created": 1767000000,
        "model": MODEL,
        "choices": [
            {
                "index": choice.index,
                "text": _before(body, prompts, choice) + choice.text,
                "logprobs": _completion_logprobs(body, choice.tokens),
                "finish_reason": choice.reason,
                "stop_reason": choice.matched,
                "token_ids": None,
                "prompt_logprobs": None,
                "prompt_token_ids": None,
            }
            for choice in choices
        ],
        "service_tier": None,
        "system_fingerprint": FINGERPRINT,
        "usage": usage_of(counted, choices, whole=True),
        "kv_transfer_params": None,
    }


def _before(body: JSON, prompts: Sequence[str], choice: Choice) -> str:
    return prompts[choice.index // (body.get("n") or 1)] if body.get("echo") else ""


def _completion_logprobs(body: JSON, tokens: Sequence[str]) -> JSON | None:
    asked = body.get("logprobs")
    return None if asked is None else Logprobs(asked + 1).completion(tokens)  # one more than was asked for


def completion_chunks(body: JSON, prompts: Sequence[str], choices: Sequence[Choice]) -> Iterator[JSON]:
    """Yield the chunks."""
    head = {"id": f"cmpl-{next(_numbers):016x}", "object": "text_completion", "created": 1767000000, "model": MODEL}
    rows = []
    for choice in choices:
        pieces = [piece for piece in (_before(body, prompts, choice), *choice.tokens) if piece] or [""]
        asked = None if body.get("logprobs") is None else Logprobs(body["logprobs"] + 1)
        row: list[dict[str, Any]] = [
            {
                "index": choice.index,
                "text": piece,
                "logprobs": asked.completion([piece]) if asked else None,
                "finish_reason": None,
                "stop_reason": None,
                "prompt_token_ids": None,
                "token_ids": None,
            }
            for piece in pieces
        ]
        row[-1] |= {"finish_reason": choice.reason, "stop_reason": choice.matched}
        rows.append(row)
    for one in _in_turn(rows):
        yield {**head, "choices": [one]}
    if (body.get("stream_options") or {}).get("include_usage"):
        counted = usage_of(sum(len(prompt.split()) for prompt in prompts), choices, whole=False)
        yield {**head, "choices": [], "usage": counted, "system_fingerprint": FINGERPRINT}


def transcript(form: JSON, says: Says) -> tuple[str, JSON]:
    """Return content type and value of a whole transcript: JSON, whatever was asked for."""
    text, seconds = "".join(says.tokens), 4
    if form.get("response_format") == "verbose_json":
        segment = {"id": 0, "seek": 0, "start": 0.0, "end": 3.5, "text": text, "tokens": [1], "temperature": 0.0}
        segment |= {"avg_logprob": -0.2, "compression_ratio": 1.1, "no_speech_prob": None}
        told = {"duration": 3.5, "language": says.language, "segments": [segment], "words": None}
        return "application/json", {"text": text, **told}
    return "application/json", {"text": text, "usage": {"type": "duration", "seconds": seconds}}


def transcript_chunks(form: JSON, says: Says) -> Iterator[JSON]:
    """Yield the chunks of a transcript, which are not OpenAI's events."""
    head = {"id": "trsc-1", "object": "transcription.chunk", "created": 1767000000, "model": MODEL}
    for at, token in enumerate(says.tokens, 1):
        last = at == len(says.tokens)
        one = {"delta": {"content": token}, "finish_reason": "stop" if last else None, "stop_reason": None}
        yield {**head, "choices": [one]}
    if form.get("stream_include_usage") == "true":
        spoken = len(says.tokens)
        counts = {"prompt_tokens": 9, "total_tokens": 9 + spoken, "completion_tokens": spoken}
        yield {**head, "choices": [], "usage": counts}


def models() -> JSON:
    """Return the list of models."""
    one = {"id": MODEL, "object": "model", "created": 1767000000, "owned_by": "vllm", "root": "/models/org/m1"}
    return {"object": "list", "data": [{**one, "parent": None, "max_model_len": 200, "permission": []}]}
