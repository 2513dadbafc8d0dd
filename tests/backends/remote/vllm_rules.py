"""What a real vLLM refuses, and in which words; what it does not know it ignores silently, and that is noticed."""

from collections.abc import Mapping
from typing import Any

from backends.remote.openai_rules import (
    CHAT,
    COMPLETION,
    CONTEXT,
    IMAGES,
    JSON,
    MOST_IMAGES,
    SOUNDS,
    Check,
    Noticed,
    Refusal,
    Untyped,
    check_calls,
    check_response_format,
    check_tools,
    check_types,
    constraints,
    decoded,
    flag,
    integer,
    listing,
    mapping,
    named_tool,
    number,
    one_of,
    parts_of_form,
    text,
    within,
)

MODEL = "m1"
VOCABULARY = 1000

_OWN: Mapping[str, Check] = {
    "allowed_token_ids": listing,
    "bad_words": listing,
    "include_stop_str_in_output": flag,
    "length_penalty": number,
    "prompt_logprobs": integer,
    "request_id": text,
    "return_token_ids": flag,
    "return_tokens_as_token_ids": flag,
    "spaces_between_special_tokens": flag,
    "structured_outputs": mapping,
    "truncate_prompt_tokens": integer,
    "use_beam_search": flag,
    "vllm_xargs": mapping,
}
VLLM_CHAT = (
    CHAT
    | _OWN
    | {
        "add_generation_prompt": flag,
        "chat_template": text,
        "documents": listing,
        "echo": flag,
        "include_reasoning": flag,
        "mm_processor_kwargs": mapping,
        "reasoning_effort": one_of("none", "minimal", "low", "medium", "high", "xhigh", "max"),
    }
)
VLLM_COMPLETION = COMPLETION | _OWN | {"add_special_tokens": flag}
STRUCTURED = frozenset({"json", "regex", "choice", "grammar", "json_object", "structural_tag"})
FORM = frozenset(
    {
        "file",
        "hotwords",
        "language",
        "max_completion_tokens",
        "model",
        "prompt",
        "response_format",
        "seed",
        "stream",
        "stream_continuous_usage_stats",
        "stream_include_usage",
        "temperature",
        "timestamp_granularities[]",
        "to_language",
        "top_k",
        "top_p",
        "vllm_xargs",
    }
)


def check_model(model: Any) -> None:
    """Refuse every name but its own; none is its own."""
    if model and model != MODEL:
        message = f"The model `{model}` does not exist. Valid aliases: {MODEL}."
        raise Refusal(message, "NotFoundError", status=404, param="model")


def check_chat(body: JSON, noticed: Noticed, *, parses_tools: bool, sees: bool) -> str:
    """Check a chat, and return the text of its prompt."""
    if "messages" not in body:
        raise Untyped("messages", "Field required")
    check_types(body, VLLM_CHAT, noticed, not_null=frozenset({"messages"}))
    check_model(body.get("model"))
    if not body["messages"]:
        raise Refusal("Cannot apply chat template to an empty conversation. Provide at least one message.")
    top = body.get("top_logprobs") or 0
    if top and not body.get("logprobs"):
        raise Refusal("when using `top_logprobs`, `logprobs` must be set to true.", param="top_logprobs")
    if top > 20:
        raise Refusal(f"Requested sample logprobs of {top}, which is greater than max allowed: 20")
    if body.get("continue_final_message") and body.get("add_generation_prompt", True):
        raise Refusal("Cannot set both `continue_final_message` and `add_generation_prompt` to True.")
    for name in ("chat_template", "mm_processor_kwargs"):
        if body.get(name):
            raise Refusal(f"{name} is passed with request, but --trust-request-... is not set")
    _check_choice_of_tools(body, parses_tools=parses_tools)
    prompt = "\n".join(_turn(message, noticed, sees=sees) for message in body["messages"])
    _check_sampling(body, prompt)
    return prompt


def check_completion(body: JSON, noticed: Noticed) -> list[str]:
    """Check a completion, and return its prompts."""
    check_types(body, VLLM_COMPLETION, noticed, not_null=frozenset())
    check_model(body.get("model"))
    if body.get("suffix"):
        raise Refusal("suffix is not currently supported", param="suffix")
    if (body.get("logprobs") or 0) > 20:
        raise Refusal(f"Requested sample logprobs of {body['logprobs']}, which is greater than max allowed: 20")
    given = body.get("prompt")
    if not given:
        raise Refusal("Either prompt or prompt_embeds must be provided and non-empty.", param="prompt")
    several = listing(given) and not integer(given[0])
    found = [one if text(one) else " ".join(map(str, one)) for one in (given if several else [given])]
    for prompt in found:
        _check_sampling(body, prompt)
    return found


def _check_choice_of_tools(body: JSON, *, parses_tools: bool) -> None:
    tools, choice = body.get("tools"), body.get("tool_choice")
    if tools == []:
        raise Refusal("tools must not be an empty array", param="tools")
    if tools is None and choice not in (None, "none"):
        raise Refusal("When using `tool_choice`, `tools` must be set.", param="tool_choice")
    check_tools(body)
    wanted = choice if choice is not None else "auto" if tools else "none"
    if parses_tools or wanted == "none":
        return
    if wanted == "auto":
        raise Refusal('"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set')
    raise Refusal(f"tool_choice={wanted!r} requires --tool-call-parser to be set")


def _check_sampling(body: JSON, prompt: str) -> None:
    within(body, "temperature", 0, 2)
    within(body, "top_p", 0, 1, above=True)
    within(body, "min_p", 0, 1)
    within(body, "top_k", -1, 2**31)
    within(body, "repetition_penalty", 0, 2**31, above=True)
    within(body, "n", 1, 16384)
    within(body, "seed", -(2**63), 2**63 - 1)
    for name in ("presence_penalty", "frequency_penalty"):
        within(body, name, -2, 2)
    temperature, several = body.get("temperature"), body.get("n") or 1
    if temperature is not None and temperature < 1e-5 and several > 1:
        raise Refusal(f"n must be 1 when using greedy sampling, got {several}.")
    stop = body.get("stop")
    stops = [stop] if text(stop) else stop or []
    if len(stops) > 4 or "" in stops:
        raise Refusal("stop must hold at most 4 strings, none of them empty", param="stop")
    if body.get("stream_options") is not None and not body.get("stream"):
        raise Refusal("Stream options can only be defined when `stream=True`.", param="stream_options")
    if not all(key.isdigit() and int(key) < VOCABULARY for key in body.get("logit_bias") or ()):
        raise Refusal("token_id in logit_bias contains out-of-vocab token id", param="logit_bias")
    _check_constraints(body)
    _check_length(body, prompt)


def _check_constraints(body: JSON) -> None:
    check_response_format(body)
    given = body.get("structured_outputs")
    found = constraints(body)
    if given is not None:
        kinds = [name for name in STRUCTURED if given.get(name) is not None]
        if len(kinds) != 1:
            raise Refusal("You must use exactly one kind of structured outputs constraint")
        found.append("structured_outputs")
    if len(found) > 1:
        raise Refusal("You can only use one kind of constraint", param="structured_outputs")
    if found and named_tool(body) is not None:
        raise Refusal("You can only either use constraints for structured outputs or tools, not both.")


def _check_length(body: JSON, prompt: str) -> None:
    for name in ("max_tokens", "max_completion_tokens"):
        limit = body.get(name)
        if limit is not None and limit < 1:
            raise Refusal(f"{name} must be at least 1, got {limit}. (parameter={name}, value={limit})", param=name)
        if limit is not None and limit > CONTEXT:
            raise Refusal(f"{name}={limit} cannot be greater than max_model_len={CONTEXT}.", param=name)
    if (size := len(prompt.split())) >= CONTEXT:
        raise Refusal(
            f"This model's maximum context length is {CONTEXT} tokens. However, your prompt contains {size} input "
            "tokens, which exceeds this limit even without any output tokens.",
            param="input_tokens",
        )


def _turn(message: Any, noticed: Noticed, *, sees: bool) -> str:
    if not mapping(message) or not text(message.get("role")):
        raise Untyped("messages.0.role", "Field required")
    check_calls(message)
    content = message.get("content")
    if content is None or text(content):
        return f"{message['role']}: {content or ''}"
    if not listing(content):
        raise Untyped("messages.0.content", "Input should be a valid string")
    before = len(noticed.images)
    said = "\n".join(_part(part, noticed, sees=sees) for part in content)
    if len(noticed.images) - before > MOST_IMAGES:
        raise Refusal(f"At most {MOST_IMAGES} image(s) may be provided in one prompt.")
    return f"{message['role']}: {said}"


def _part(part: Any, noticed: Noticed, *, sees: bool) -> str:
    match part:
        case {"type": "text" | "input_text" | "output_text", "text": str(said)}:
            return said
        case {"type": "image_url", "image_url": {"url": str(url)} | str(url)}:
            if not sees:
                raise Refusal(f"{MODEL} is not a multimodal model")
            noticed.images.append(_image(url, noticed))
            return ""
        case {"type": "input_audio", "input_audio": {"data": str(data), "format": str()}}:
            sound = decoded(data)
            if sound is None or not sound.startswith(SOUNDS):
                raise Refusal("Failed to load audio", "UnprocessableEntityError", status=422)
            noticed.sounds.append(sound)
            return ""
    raise Refusal("Unknown part type; supported are text, image_url, input_audio, video_url and others")


def _image(url: str, noticed: Noticed) -> bytes:
    head, _, encoded = url.partition(",")
    if not url.startswith("data:"):
        noticed.opened.append(url)
        if url.startswith(("http:", "https:")):  # nothing answers there
            raise Refusal("Failed to fetch media: 404", "UnprocessableEntityError", status=422)
        raise Refusal("Cannot load local files without `--allowed-local-media-path`.")
    image = decoded(encoded)
    if not head.endswith(";base64") or image is None or not image.startswith(IMAGES):
        raise Refusal("Failed to load image: cannot identify image file", "UnprocessableEntityError", status=422)
    return image


def check_transcription(raw: bytes, content_type: str, noticed: Noticed) -> dict[str, Any]:
    """Check a form, and return its fields: lists where the name says so, `file` as bytes."""
    form: dict[str, Any] = {}
    for name, filename, content in parts_of_form(raw, content_type):
        if name not in FORM:
            noticed.ignored.add(name)
        if name == "file":
            if filename is None:
                message = "Expected UploadFile, received: <class 'str'>"
                raise Refusal(message, "Unprocessable Entity", status=422, param="body.file")
            form[name] = content
        elif name.endswith("[]"):
            form.setdefault(name, []).append(content.decode())
        else:
            form[name] = content.decode()
    if "file" not in form:
        raise Untyped("file", "Field required")
    check_model(form.get("model"))
    kind = form.get("response_format", "json")
    if kind not in ("json", "text", "verbose_json", "diarized_json"):
        raise Refusal(f"Currently only support response_format: 'json', 'text' or 'verbose_json', got {kind}")
    if form.get("stream") == "true" and kind in ("verbose_json", "diarized_json"):
        raise Refusal("verbose_json format doesn't support streaming case")
    if not form["file"].startswith(SOUNDS):
        raise Refusal("Invalid or unsupported audio file.", "UnprocessableEntityError", status=422)
    noticed.sounds.append(form["file"])
    return form
