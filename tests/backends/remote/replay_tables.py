"""What becomes of each recorded exchange on its way through the gateway; every recording is in exactly one table.

The servers' own answers to plain requests are not listed: what `POST`s to `OFFERED` paths got is replayed and arrives
equivalent, `DIFFERS` says how far.  Lists of models and the like go through the probe (`PROBED`).
"""

from illm.errors import Kind

FRAMEWORKS = {
    "llamacpp": "vllm",  # any server of OpenAI's dialect may stand behind `vllm`
    "sglang": "sglang",
    "sglang-embed": "sglang",
    "vllm": "vllm",
    "vllm-embed": "vllm",
}
"""Which framework of the gateway's each recorded server stands behind."""

OFFERED = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings")

REFUSED = {
    "err_bad_role": (400, "messages[0].role"),
    "err_bad_temperature": (400, "temperature"),
    "err_empty": (400, "input"),
    "err_empty_body": (400, None),
    "err_empty_list": (400, "input"),
    "err_empty_messages": (400, "messages"),
    "err_invalid_json": (400, None),
    "err_max_tokens_negative": (400, "max_tokens"),
    "err_missing_messages": (400, "messages"),
    "err_temperature_string": (400, "temperature"),
    "err_unknown_path": (404, None),
    "err_wrong_content_type": (415, None),
    "err_wrong_method": (405, None),
}
"""What the gateway refuses before any server sees it: status, and which field is at fault.

That some servers do answer such requests makes them no better.
"""

TOO_LONG, UNABLE = (Kind.CONTEXT_LENGTH, "messages"), (Kind.CAPABILITY, None)
FAILS = {
    "chat_bad_schema": (Kind.INVALID_REQUEST, None),
    "chat_image": UNABLE,
    "chat_tools_auto": UNABLE,  # vLLM, started without a tool parser
    "chat_tools_named": UNABLE,
    "chat_tools_named_stream": UNABLE,
    "chat_tools_required": UNABLE,
    "embed_dimensions": (Kind.INVALID_REQUEST, None),
    "embeddings_on_chat_model": UNABLE,
    "err_chat_on_embed_model": UNABLE,
    "err_max_tokens_too_large": (Kind.INVALID_REQUEST, "max_tokens"),
    "err_too_long": TOO_LONG,
    "err_too_long_stream": TOO_LONG,
    "err_unknown_model": (Kind.MODEL_NOT_FOUND, "model"),
    ("sglang", "err_max_tokens_too_large"): (Kind.INVALID_REQUEST, None),
    ("sglang-embed", "err_chat_on_embed_model"): (Kind.INVALID_REQUEST, None),  # for want of a template, it says
    ("vllm-embed", "err_too_long"): (Kind.CONTEXT_LENGTH, "input"),
    ("sglang-embed", "err_too_long"): (Kind.CONTEXT_LENGTH, "input"),
}
"""What a client is told of each recorded error."""

OLLAMA = {"vllm": UNABLE, "sglang": (Kind.UPSTREAM, None), "llamacpp": UNABLE}
"""The same for `ollama_chat`, which goes through the `ollama` backend; SGLang's has crashed, the others lack it."""

OLLAMA_DIFFERS = {
    "asked.shift": "Ollama would drop the oldest tokens, unasked",
    "asked.think": "a model that can think would, unasked",
    "asked.truncate": "Ollama would drop the oldest messages, unasked",
}
"""Where what the `ollama` backend asks differs from `ollama_chat`."""

DIFFERS = {
    "asked.messages[].content": "text parts are joined: OpenAI puts nothing between them, servers put line breaks",
    "answer.choices[].logprobs": "llama.cpp leaves out what OpenAI has as null",
    **dict.fromkeys(
        [
            f"answer.choices[].logprobs.{name}"
            for name in ("content", "tokens", "token_logprobs", "top_logprobs", "text_offset")
        ],
        "llama.cpp writes a completion's in the shape of a chat's",
    ),
    "answer.choices[].logprobs.text_offset[]": "SGLang does not count it",
    "answer.choices[].message.reasoning": "vLLM's name for it; the gateway's is reasoning_content, left out when empty",
    "answer.metadata.weight_versions": "SGLang's; under metadata OpenAI has only strings, and its client insists",
    "answer.model": "llama.cpp answers for any name with its own; the client gets the name it asked for",
    "answer.usage.reasoning_tokens": "SGLang counts it beside the details, OpenAI among them",
    "embeddings.created": "not OpenAI's",
    "embeddings.id": "not OpenAI's",
    "embeddings.model": "SGLang says the directory that it serves; the client gets the name it asked for",
    "embeddings.usage.completion_tokens": "not OpenAI's",
    "embeddings.usage.completion_tokens_details": "not OpenAI's",
    "embeddings.usage.prompt_tokens_details": "not OpenAI's",
    "embeddings.usage.reasoning_tokens": "not OpenAI's",
    "stream.ids": "SGLang names every choice; an answer has one name",
    "stream.order[]": "llama.cpp begins with whichever choice is ready; clients count on 0 coming first",
    "stream.usage.reasoning_tokens": "SGLang counts it beside the details, OpenAI among them",
    "stream.usage_chunk": "llama.cpp counts in the last chunk of a completion; OpenAI in one without choices",
}
"""Each field that may be otherwise on the other side, and why: `asked` of a server, the rest of a client."""

PROBED = {"vllm": {"/v1/models"}, "sglang": {"/v1/models", "/model_info"}, "ollama": {"/", "/api/tags"}}
"""What each framework's servers are asked though no client did."""

SHOWN = ("/v1/models/gemma", "/v1/models/nope")
"""Single models, which the gateway answers from the list; vLLM and llama.cpp have no such path."""

TOLD = {
    ("llamacpp", "detokenize"): {"prompt": " thereby world"},
    ("llamacpp", "tokenize"): {"count": 2, "max_model_len": None, "tokens": [23391, 1902], "token_strs": None},
    ("sglang", "detokenize"): {"prompt": " thereby world"},
    ("sglang", "tokenize"): {"count": 3, "max_model_len": 2048, "tokens": [2, 23391, 1902], "token_strs": None},
    ("vllm", "detokenize"): {"prompt": " thereby world"},
    ("vllm", "tokenize"): {"count": 3, "max_model_len": 2048, "tokens": [2, 23391, 1902], "token_strs": None},
    ("vllm-embed", "rerank"): {
        "results": [
            {"index": 0, "document": {"text": "x"}, "relevance_score": 1.0},
            {"index": 1, "document": {"text": "y"}, "relevance_score": 0.5520479679107666},
        ],
        "usage": {"prompt_tokens": 9, "total_tokens": 9},
    },
}
"""What a client is told of tokens and ranks, in vLLM's shape, whichever server was asked; of a rank's answer a part."""

INCAPABLE = {("sglang-embed", "rerank"): (422, "model")}
"""What is never sent to such a server, though the gateway has the route: it dies of this one."""

NOT_OFFERED = {
    "/api/ps": (404, "Ollama's own routes are for its clients; the gateway speaks them to servers only"),
    "/api/show": (404, "as /api/ps"),
    "/api/version": (404, "as /api/ps"),
    "/generate": (503, "TGI's route here, of a backend that nobody configured; SGLang's own has another form"),
    "generate_native_stream": (422, "as /generate, which streams under another path in TGI"),
    "/get_model_info": (404, "SGLang's old name for /model_info"),
    "/get_server_info": (404, "as /server_info"),
    "/health": (503, "TGI's route here; the gateway's own is /healthz, and what it asks servers costs no generation"),
    "/info": (503, "TGI's route here, of a backend that nobody configured"),
    "/load": (404, "about the server itself, for its operator"),
    "/metrics": (404, "about the server itself, for its operator"),
    "/model_info": (404, "SGLang's; asked only of SGLang"),
    "/openapi.json": (404, "describes the server"),
    "/ping": (404, "as /health, for a cloud's own checks"),
    "/pooling": (404, "hidden states are nothing that OpenAI's API has"),
    "/props": (404, "about the server itself, for its operator"),
    "/score": (404, "/v1/rerank says the same, in the order of the scores"),
    "/server_info": (404, "about the server itself, down to its paths"),
    "/slots": (404, "about the server itself, other clients' prompts included"),
    "/v1/messages": (404, "Anthropic's dialect"),
    "/v1/responses": (404, "OpenAI's other dialect"),
    "/version": (404, "about the server itself"),
}
"""Routes that are no part of the gateway, why, and the status that a client gets instead."""

UNRECORDED = {
    ("sglang", "get_get_server_info"): "large, and no route of the gateway's",
    ("sglang", "get_openapi.json"): "large, and no route of the gateway's",
    ("sglang", "get_server_info"): "large, and no route of the gateway's",
    ("sglang-embed", "rerank"): "the server closed the connection without an answer",
    ("sglang-embed", "score"): "there was no answer",
    ("vllm", "get_metrics"): "large, and no route of the gateway's",
    ("vllm", "get_openapi.json"): "large, and no route of the gateway's",
}
"""Requests without a response beside them."""
