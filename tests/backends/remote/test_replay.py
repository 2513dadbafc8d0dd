"""Every recorded exchange with a real server, once more, through the gateway's dialects.

`DIFFERS` names each field that may come out otherwise than the server said it, and why; `REFUSED` each request that the
gateway refuses before any server sees it; `FAILS` what becomes of each recorded error.
"""

import json
import random

import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from backends.remote.recordings import cases, events, read
from illm.backends.remote import sglang, vllm
from illm.config import Config
from illm.core.events import Done, Failed, Raw
from illm.dialects import openai
from illm.errors import GatewayError, Kind

DIALECTS = {
    "vllm": vllm.dialect(Config()),
    "vllm-embed": vllm.dialect(Config()),
    "llamacpp": vllm.dialect(Config()),  # any server of OpenAI's dialect may stand behind `vllm`
    "sglang": sglang.dialect(Config()),
    "sglang-embed": sglang.dialect(Config()),
}

PARSE = {
    "/v1/chat/completions": openai.parse_chat,
    "/v1/completions": openai.parse_completion,
    "/v1/embeddings": openai.parse_embeddings,
}
ALL = cases(*DIALECTS, paths=PARSE)

REFUSED = {
    "err_bad_role": "messages[0].role",
    "err_bad_temperature": "temperature",
    "err_empty": "input",
    "err_empty_body": None,
    "err_empty_list": "input",
    "err_empty_messages": "messages",
    "err_invalid_json": None,
    "err_max_tokens_negative": "max_tokens",
    "err_missing_messages": "messages",
    "err_temperature_string": "temperature",
}
"""Which field is at fault.  That some servers do answer such requests makes them no better."""

TOO_LONG, NOT_OFFERED = (Kind.CONTEXT_LENGTH, "messages"), (Kind.CAPABILITY, None)
FAILS = {
    "chat_bad_schema": (Kind.INVALID_REQUEST, None),
    "chat_image": NOT_OFFERED,
    "chat_tools_auto": NOT_OFFERED,  # vLLM, started without a tool parser
    "chat_tools_named": NOT_OFFERED,
    "chat_tools_named_stream": NOT_OFFERED,
    "chat_tools_required": NOT_OFFERED,
    "embed_dimensions": (Kind.INVALID_REQUEST, None),
    "embeddings_on_chat_model": NOT_OFFERED,
    "err_chat_on_embed_model": NOT_OFFERED,
    "err_max_tokens_too_large": (Kind.INVALID_REQUEST, "max_tokens"),
    "err_too_long": TOO_LONG,
    "err_too_long_stream": TOO_LONG,
    "err_unknown_model": (Kind.MODEL_NOT_FOUND, "model"),
    ("sglang", "err_max_tokens_too_large"): (Kind.INVALID_REQUEST, None),
    ("sglang-embed", "err_chat_on_embed_model"): (Kind.INVALID_REQUEST, None),  # for want of a template, it says
    ("vllm-embed", "err_too_long"): (Kind.CONTEXT_LENGTH, "input"),
    ("sglang-embed", "err_too_long"): (Kind.CONTEXT_LENGTH, "input"),
}

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
seen: set[str] = set()


def parse(exchange):
    return PARSE[exchange.path](openai.decode_body(exchange.asked))


def decode(exchange, request, pieces):
    decoder = DIALECTS[exchange.server].decoder(request)
    decoder.start(exchange.status, exchange.headers)
    return [event for piece in pieces for event in decoder.feed(piece)] + list(decoder.close())


def relayed(happened):
    assert all(type(event) is Raw for event in happened[:-1])
    return b"".join(event.data for event in happened[:-1])


def fold(chunks):
    """Put a stream's chunks together, as a client does."""
    choices: dict[int, dict] = {}
    order = []
    for chunk in chunks:
        for choice in chunk["choices"]:
            index = choice["index"]
            if index not in choices:
                order.append(index)
            folded = choices.setdefault(index, {"text": "", "roles": 0, "logprobs": [], "finish_reason": None})
            delta = choice.get("delta") or {}
            folded["text"] += choice.get("text") or delta.get("content") or ""
            folded["roles"] += "role" in delta
            folded["logprobs"] += (choice.get("logprobs") or {}).get("content", [])
            folded["finish_reason"] = choice["finish_reason"] or folded["finish_reason"]
    usages = [chunk["usage"] for chunk in chunks if chunk.get("usage")]
    return {
        "choices": choices,
        "order": order,
        "ids": len({chunk["id"] for chunk in chunks}),
        "id": chunks[0]["id"],
        "created": chunks[0]["created"],
        "names": sorted({(chunk["model"], chunk["object"]) for chunk in chunks}),
        "usage": usages[-1] if usages else None,
        "usage_chunk": bool(usages) and chunks[-1]["choices"] == [],
    }


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


def same(theirs, ours, path):
    found = set(differences(theirs, ours, path))
    assert found <= DIFFERS.keys()
    seen.update(found)


@pytest.mark.parametrize(("server", "case"), ALL)
def test_an_exchange(server, case):
    exchange = read(server, case)
    if case in REFUSED:
        with pytest.raises(GatewayError) as caught:
            parse(exchange)
        assert (caught.value.kind, caught.value.param) == (Kind.INVALID_REQUEST, REFUSED[case])
        return
    request = parse(exchange)
    assert openai.unsupported(request.body, DIALECTS[server].supported) is None
    outgoing = DIALECTS[server].outgoing(request)
    assert (outgoing.method, outgoing.path) == ("POST", exchange.path)
    same(json.loads(exchange.asked), json.loads(outgoing.body), "asked")
    happened = decode(exchange, request, exchange.pieces)
    if exchange.status != 200:
        (failed,) = happened
        assert isinstance(failed, Failed)
        assert (failed.error.kind, failed.error.param) == FAILS.get((server, case), FAILS.get(case))
        assert not any(secret in failed.error.message for secret in ("/opt", "/data", "/project", "site-packages"))
        return
    assert type(happened[-1]) is Done
    body = relayed(happened)
    if exchange.streamed:
        same(fold(events(exchange.body)), fold(events(body)), "stream")
    elif exchange.path == "/v1/embeddings":
        same(json.loads(exchange.body), json.loads(body), "embeddings")
    else:
        same(json.loads(exchange.body), json.loads(body), "answer")
    if exchange.path != "/v1/embeddings":
        make = openai.chat_encoder if "chat" in exchange.path else openai.completion_encoder
        encoder = make(request, id="ours", created=1, model="ours")
        assert b"".join([encoder.feed([event]) for event in happened]) + encoder.close() == body


@pytest.mark.parametrize(("server", "case"), [(server, case) for server, case in ALL if case.startswith("chat")])
def test_the_official_clients_types_take_every_answer(server, case):
    exchange = read(server, case)
    if exchange.status != 200:
        return
    body = relayed(decode(exchange, parse(exchange), exchange.pieces))
    if exchange.streamed:
        for chunk in events(body):
            ChatCompletionChunk.model_validate(chunk, strict=True)
    else:
        ChatCompletion.model_validate_json(body, strict=True)


def test_a_plain_stream_of_vllm_is_not_touched():
    exchange = read("vllm", "chat_stream")
    assert relayed(decode(exchange, parse(exchange), exchange.pieces)) == exchange.body


STREAMED = [(server, case) for server, case in ALL if "stream" in case and read(server, case).streamed]
SHORT = [("vllm", "chat_stop_stream"), ("sglang", "chat_n2_stream"), ("llamacpp", "completions_stream")]


@pytest.mark.parametrize(("server", "case"), SHORT)
def test_every_cut_gives_the_same_bytes(server, case):
    exchange = read(server, case)
    request, body = parse(exchange), exchange.body
    expected = relayed(decode(exchange, request, [body]))
    for cut in range(len(body) + 1):
        assert relayed(decode(exchange, request, [body[:cut], body[cut:]])) == expected
    assert relayed(decode(exchange, request, [body[at : at + 1] for at in range(len(body))])) == expected


@pytest.mark.parametrize(("server", "case"), STREAMED)
def test_many_cuts_give_the_same_bytes(server, case):
    exchange = read(server, case)
    request, body = parse(exchange), exchange.body
    expected = relayed(decode(exchange, request, exchange.pieces))
    for seed in range(20):
        cuts = sorted(random.Random(seed).choices(range(len(body)), k=12))
        pieces = [body[a:b] for a, b in zip([0, *cuts], [*cuts, len(body)], strict=True)]
        assert relayed(decode(exchange, request, pieces)) == expected


@pytest.mark.parametrize("end", [b"\r\n", b"\r"])
@pytest.mark.parametrize(("server", "case"), STREAMED)
def test_line_ends_make_no_difference(server, case, end):
    exchange = read(server, case)
    request = parse(exchange)
    expected = fold(events(relayed(decode(exchange, request, exchange.pieces))))
    other = [b": keep-alive" + 2 * end, *(piece.replace(b"\n", end) for piece in exchange.pieces)]
    assert fold(events(relayed(decode(exchange, request, other)))) == expected


@pytest.mark.parametrize(("server", "case"), SHORT)
def test_a_truncated_stream_never_ends_cleanly(server, case):
    exchange = read(server, case)
    request, body = parse(exchange), exchange.body
    last = [at for at in range(len(body)) if body.startswith(b'"finish_reason":"', at)][-1]
    complete = body.index(b"\n", last)
    for cut in range(len(body) + 1):
        *_, end = decode(exchange, request, [body[:cut]])
        if cut < complete:
            assert isinstance(end, Failed)
            assert end.error.kind is Kind.UPSTREAM
        elif cut == len(body):
            assert isinstance(end, Done)


@pytest.mark.parametrize(
    ("server", "case"), [("vllm", "chat"), ("sglang", "completions_list"), ("vllm-embed", "embed")]
)
def test_a_truncated_answer_is_an_error(server, case):
    exchange = read(server, case)
    for cut in range(len(exchange.body)):
        (failed,) = decode(exchange, parse(exchange), [exchange.body[:cut]])
        assert failed.error.kind is Kind.UPSTREAM


def test_every_difference_that_is_named_occurs():
    for server, case in ALL:
        test_an_exchange(server, case)
    assert seen == DIFFERS.keys()
