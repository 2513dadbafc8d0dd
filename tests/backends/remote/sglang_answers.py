"""Answers in the shape that SGLang gives them: `reasoning_content` in every delta, reasons apart and last, bare ids."""

from collections.abc import Iterator, Sequence
from typing import Any
from uuid import uuid4

from backends.remote.openai_rules import JSON, Refusal
from backends.remote.openai_says import Choice, Logprobs, Says

EOS = 151645


def complaint(refusal: Refusal) -> JSON:
    """Return the body of an error: flat, but for some routes."""
    if refusal.nested:
        return {"error": {"message": str(refusal)}}
    return {
        "object": "error",
        "message": str(refusal),
        "type": refusal.kind,
        "param": refusal.param,
        "code": refusal.status,
    }


def usage_of(prompt: int, choices: Sequence[Choice]) -> JSON:
    """Return the counts; the thoughts' stand beside the others."""
    completion = sum(choice.count for choice in choices)
    return {
        "prompt_tokens": prompt,
        "total_tokens": prompt + completion,
        "completion_tokens": completion,
        "prompt_tokens_details": None,
        "reasoning_tokens": sum(len(choice.reasoning) for choice in choices),
        "completion_tokens_details": None,
    }


def _head(body: JSON, kind: str) -> dict[str, Any]:
    return {"id": uuid4().hex, "object": kind, "created": 1767000000, "model": body.get("model") or "default"}


def _matched(choice: Choice) -> int | str | None:
    return None if choice.reason == "length" else choice.matched or EOS


def _call_id() -> str:
    return f"call_{uuid4().hex[:24]}"


def chat(body: JSON, prompt: int, choices: Sequence[Choice]) -> JSON:
    """Return a whole chat."""
    return {
        **_head(body, "chat.completion"),
        "choices": [_choice(body, choice) for choice in choices],
        "usage": usage_of(prompt, choices),
        "metadata": {"weight_version": "default", "weight_versions": [{"version": "default", "start": 0, "end": 4}]},
    }


def _choice(body: JSON, choice: Choice) -> JSON:
    told = "".join(choice.reasoning) or None
    content = choice.text
    if told and body.get("separate_reasoning") is False:
        told, content = None, f"<think>{told}</think>{content}"
    message: dict[str, Any] = {"role": "assistant", "content": content, "reasoning_content": told}
    if choice.calls:
        message["tool_calls"] = [
            {
                "id": _call_id(),
                "index": at,
                "type": "function",
                "function": {"name": name, "arguments": "".join(pieces)},
            }
            for at, (name, pieces) in enumerate(choice.calls)
        ]
    logprobs = Logprobs(body.get("top_logprobs") or 0).chat(choice.tokens) if body.get("logprobs") else None
    return {
        "index": choice.index,
        "message": message,
        "logprobs": logprobs,
        "finish_reason": choice.reason,
        "matched_stop": _matched(choice),
    }


def chat_chunks(body: JSON, prompt: int, choices: Sequence[Choice]) -> Iterator[JSON]:
    """Yield the chunks: each choice under an id of its own, and why they ended when all have."""
    heads = [_head(body, "chat.completion.chunk") for _ in choices]
    options = body.get("stream_options") or {}
    running = {"usage": usage_of(prompt, ())} if options.get("continuous_usage_stats") else {}
    for head, choice in zip(heads, choices, strict=True):
        opening = {"reasoning_content": None, "role": "assistant", "content": ""}
        yield {**head, "choices": [_piece(choice, opening)], **running}
        for delta, logprobs in _deltas(body, choice):
            yield {**head, "choices": [_piece(choice, delta, logprobs)], **running}
        yield from ({**head, "choices": [_call_piece(choice, call)], "usage": None} for call in _calls(choice))
    for choice in reversed(choices):
        end = _piece(choice, {"reasoning_content": None})
        end |= {"finish_reason": choice.reason, "matched_stop": _matched(choice)}
        yield {**heads[0], "choices": [end], **running}
    if options.get("include_usage"):
        yield {**heads[0], "choices": [], "usage": usage_of(prompt, choices)}


def _deltas(body: JSON, choice: Choice) -> Iterator[tuple[JSON, Any]]:
    separate = body.get("separate_reasoning") is not False
    thoughts = choice.reasoning if separate else (f"<think>{''.join(choice.reasoning)}</think>",)
    for piece in thoughts if choice.reasoning else ():
        yield {"reasoning_content": piece} if separate else {"reasoning_content": None, "content": piece}, None
    asked = Logprobs(body.get("top_logprobs") or 0) if body.get("logprobs") else None
    for token in choice.tokens:
        yield {"reasoning_content": None, "content": token}, asked.chat([token]) if asked else None


def _piece(choice: Choice, delta: JSON, logprobs: Any = None) -> dict[str, Any]:
    return {
        "index": choice.index,
        "delta": delta,
        "logprobs": logprobs,
        "finish_reason": None,
        "matched_stop": None,
    }


def _calls(choice: Choice) -> Iterator[JSON]:
    for at, (name, pieces) in enumerate(choice.calls):
        yield {"id": _call_id(), "index": at, "type": "function", "function": {"name": name, "arguments": ""}}
        for piece in pieces:
            yield {"id": None, "index": at, "type": "function", "function": {"name": None, "arguments": piece}}
        yield {"id": None, "index": at, "type": "function", "function": {"name": None, "arguments": None}}


def _call_piece(choice: Choice, call: JSON) -> JSON:
    delta = {"role": None, "content": None, "reasoning_content": None, "tool_calls": [call]}
    return {"index": choice.index, "delta": delta, "logprobs": None, "finish_reason": None, "matched_stop": None}


def completion(body: JSON, prompts: Sequence[str], choices: Sequence[Choice]) -> JSON:
    """Return a whole completion."""
    return {
        **_head(body, "text_completion"),
        "choices": [
            {
                "index": choice.index,
                "text": _before(body, prompts, choice) + choice.text,
                "logprobs": _completion_logprobs(body, choice.tokens),
                "finish_reason": choice.reason,
                "matched_stop": _matched(choice),
            }
            for choice in choices
        ],
        "usage": usage_of(sum(len(prompt.split()) for prompt in prompts), choices),
        "metadata": {"weight_version": "default"},
    }


def _before(body: JSON, prompts: Sequence[str], choice: Choice) -> str:
    return prompts[choice.index // (body.get("n") or 1)] if body.get("echo") else ""


def _completion_logprobs(body: JSON, tokens: Sequence[str]) -> JSON | None:
    asked = body.get("logprobs")
    return None if asked is None else Logprobs(asked, offsets=False).completion(tokens)


def completion_chunks(body: JSON, prompts: Sequence[str], choices: Sequence[Choice]) -> Iterator[JSON]:
    """Yield the chunks."""
    head = _head(body, "text_completion")
    for choice in choices:
        pieces = [piece for piece in (_before(body, prompts, choice), *choice.tokens) if piece] or [""]
        for at, piece in enumerate(pieces, 1):
            last = at == len(pieces)
            one = {"index": choice.index, "text": piece, "logprobs": _completion_logprobs(body, [piece])}
            one |= {
                "finish_reason": choice.reason if last else None,
                "matched_stop": _matched(choice) if last else None,
            }
            yield {**head, "choices": [one], "usage": None}
    if (body.get("stream_options") or {}).get("include_usage"):
        yield {**head, "choices": [], "usage": usage_of(sum(len(prompt.split()) for prompt in prompts), choices)}


def transcript(form: JSON, says: Says) -> tuple[str, JSON | str]:
    """Return content type and value of a whole transcript."""
    text, seconds = "".join(says.tokens), {"type": "duration", "seconds": 4}
    match form.get("response_format"):
        case "text":
            return "text/plain; charset=utf-8", text
        case "verbose_json":
            segment = {"id": 0, "start": 0.0, "end": 3.5, "text": text}
            told = {"task": "transcribe", "language": says.language, "duration": 3.5}
            return "application/json", {**told, "text": text, "segments": [segment], "usage": seconds}
    return "application/json", {"text": text, "usage": seconds}


def transcript_chunks(form: JSON, says: Says) -> Iterator[JSON]:
    """Yield the chunks of a transcript, which are not OpenAI's events."""
    head = {"id": f"trsc-{uuid4().hex}", "object": "transcription.chunk", "created": 1767000000}
    head["model"] = form.get("model", "default")
    for token in says.tokens:
        one = {"delta": {"role": None, "content": token}, "finish_reason": None}
        yield {**head, "choices": [one], "usage": None}
    yield {**head, "choices": [{"delta": {"content": None}, "finish_reason": "stop"}], "usage": None}


def models() -> JSON:
    """Return the list of models."""
    one = {"id": "m1", "object": "model", "created": 1767000000, "owned_by": "sglang", "root": "m1", "parent": None}
    return {"object": "list", "data": [{**one, "max_model_len": 200}]}
