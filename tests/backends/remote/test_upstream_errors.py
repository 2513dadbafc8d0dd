"""Errors of every shape, as one; and nothing of the upstream's in them that is nobody's business."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from illm.backends.remote.address import parse_address
from illm.backends.remote.scrub import scrub
from illm.backends.remote.server import Server
from illm.backends.remote.upstream_errors import read_complaint, upstream_error
from illm.dialects.openai import parse_chat, parse_completion, parse_embeddings
from illm.errors import GatewayError, Kind

CHAT = parse_chat({"messages": [{"role": "user", "content": "?"}]})
COMPLETION = parse_completion({"prompt": "?"})
EMBED = parse_embeddings({"input": "?"})


def error(status, body, request=CHAT, headers=None):
    return upstream_error("vllm", request, status, read_complaint(body), headers)


SHAPES = [
    b'{"error":{"message":"too hot","type":"BadRequestError","param":null,"code":400}}',
    b'{"error":"too hot"}',
    b'{"object":"error","message":"too hot","type":"BadRequestError","param":null,"code":400}',
    b'{"error":"too hot","error_type":"validation"}',
    b'{"detail":"too hot"}',
    b'{"detail":[{"loc":["body","x"],"msg":"too hot"}]}',
    b"too hot",
    b'"too hot"',
    b" too hot\n",
]


@pytest.mark.parametrize("body", SHAPES)
def test_every_shape_says_the_same(body):
    got = error(400, body)
    assert (got.kind, got.message) == (Kind.INVALID_REQUEST, "too hot")


@pytest.mark.parametrize(
    "body", [b"", b"<html><body>nginx</body></html>", b"null", b"[]", b"{}", b"7", b'{"error":{}}']
)
def test_nothing_said_still_makes_a_sentence(body):
    for status in (400, 404, 500, 503):
        got = error(status, body)
        assert got.message.startswith("The vllm server")
        assert "nginx" not in got.message


LONG = "This model's maximum context length is 4096 tokens. However, your prompt contains 5000 input tokens"


@pytest.mark.parametrize(
    ("status", "message", "kind", "param"),
    [
        (400, LONG, Kind.CONTEXT_LENGTH, "messages"),
        (
            400,
            "The input (9 tokens) is longer than the model's context length (4 tokens).",
            Kind.CONTEXT_LENGTH,
            "messages",
        ),
        (
            400,
            "Requested token count exceeds the model's maximum context length of 4 tokens.",
            Kind.CONTEXT_LENGTH,
            "messages",
        ),
        (422, "`inputs` tokens + `max_new_tokens` must be <= 5", Kind.CONTEXT_LENGTH, "messages"),
        (400, "request (9 tokens) exceeds the available context size (4 tokens)", Kind.CONTEXT_LENGTH, "messages"),
        (400, "temperature must be non-negative", Kind.INVALID_REQUEST, None),
        (422, "whatever", Kind.INVALID_REQUEST, None),
        (401, "Unauthorized", Kind.UPSTREAM, None),
        (403, "Forbidden", Kind.UPSTREAM, None),
        (404, "The model `x` does not exist.", Kind.MODEL_NOT_FOUND, "model"),
        (404, "Not Found", Kind.CAPABILITY, None),
        (405, "Method Not Allowed", Kind.CAPABILITY, None),
        (413, "big", Kind.TOO_LARGE, None),
        (424, "Generation error", Kind.UPSTREAM, None),
        (429, "Model is overloaded", Kind.OVERLOADED, None),
        (499, "gone", Kind.UPSTREAM, None),
        (500, "Internal Server Error", Kind.UPSTREAM, None),
        (501, "The model does not support Chat Completions API", Kind.CAPABILITY, None),
        (502, "bad gateway", Kind.UPSTREAM, None),
        (503, "The request queue is full.", Kind.OVERLOADED, None),
        (503, "Service Unavailable", Kind.UNREACHABLE, None),
        (504, "timeout", Kind.TIMEOUT, None),
        (307, "", Kind.UPSTREAM, None),
        (418, "teapot", Kind.UPSTREAM, None),
    ],
)
def test_what_a_status_means_to_a_client(status, message, kind, param):
    got = error(status, b'{"error":{"message":"%s"}}' % message.encode())
    assert (got.kind, got.param) == (kind, param)
    assert "Unauthorized" not in got.message


@pytest.mark.parametrize(("request_", "param"), [(CHAT, "messages"), (COMPLETION, "prompt"), (EMBED, "input")])
def test_what_is_too_long_is_named_as_the_client_called_it(request_, param):
    assert error(400, LONG.encode(), request_).param == param


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("temperature", "temperature"),
        ("body.messages", "messages"),
        ("body.messages.0.role", "messages[0].role"),
        ("tools[1].function", "tools[1].function"),
        ("body", None),
        ("body.15", None),
        ("a b; c", None),
    ],
)
def test_the_field_at_fault(given, expected):
    assert error(400, b'{"error":{"message":"x","param":"%s"}}' % given.encode()).param == expected


@pytest.mark.parametrize(
    ("given", "expected"), [(None, 1), (b"7", 7), (b"0", 1), (b"100000", 120), (b"Wed, 21 Oct 2026 07:28:00 GMT", 1)]
)
def test_retry_after_is_always_there_and_never_too_long(given, expected):
    headers = {} if given is None else {b"retry-after": given}
    assert error(503, b"busy", headers=headers).retry_after == expected
    assert error(429, b"", headers=headers).retry_after == expected
    assert error(400, b"x", headers=headers).retry_after is None


@pytest.mark.parametrize("kind", [Kind.CAPABILITY, Kind.UNSUPPORTED_PARAMETER, Kind.MODEL_NOT_FOUND, Kind.NOT_READY])
def test_a_gateway_behind_this_one_is_understood(kind):
    body = b'{"error":{"message":"so","type":"%s","code":"%s"}}' % (kind.value.type.encode(), kind.value.code.encode())
    assert error(kind.value.status, body).kind is kind


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b'{"error":{"message":"bad","code":400}}', Kind.INVALID_REQUEST),
        (b'{"error":{"message":"bad","code":503}}', Kind.UNREACHABLE),
        (b'{"error":{"message":"bad","http_status_code":422}}', Kind.INVALID_REQUEST),
        (b'{"error":{"message":"bad"}}', Kind.UPSTREAM),
        (b'{"error":{"message":"bad","code":7}}', Kind.UPSTREAM),
        (b'{"error":{"message":"bad","code":true}}', Kind.UPSTREAM),
    ],
)
def test_inside_an_answer_the_code_is_the_status(body, kind):
    assert error(200, body).kind is kind


SECRETS = [
    ("key sk-abcdefgh12345 is wrong", "sk-abcdefgh12345"),
    ("Authorization: Bearer abc.def-ghi", "abc.def"),
    ("api_key=verysecret1", "verysecret1"),
    ("'token': 'verysecret1'", "verysecret1"),
    ("get http://user:pw@vllm-0.prod:8000/v1/x?y=z failed", "vllm-0"),
    ("connect 10.1.2.3:8000 refused", "10.1.2.3"),
    ("connect to [fe80::1%eth0]:80 or ::1 or 2001:db8::8a2e:370:7334", "8a2e"),
    ("HTTPConnectionPool(host='gpu-7', port=8000): refused", "gpu-7"),
    ("localhost:8000 and gpu.internal:9 and node1.cluster.example:8443", "8443"),
    ("no file /data/models/secret/weights.bin", "weights"),
    ("see ~/models/x/y or //opt/venv/lib.py:17", "venv"),
    (r"C:\Users\me\model.bin", "Users"),
    ("image data:image/png;base64,AAAAAAAAAAAAAAAA is bad", "AAAA"),
    ('bad\n\n  File "/x/y.py", line 3, in run\n    secret()', "secret"),
    ("bad\nTraceback (most recent call last):\n  secret", "secret"),
    ("1 validation error:\n  {'type': 'x', 'loc': ('body', 'n'), 'msg': 'bad', 'input': 'secret'}", "secret"),
]


@pytest.mark.parametrize(("message", "secret"), SECRETS)
def test_secrets_and_addresses_stay_inside(message, secret):
    assert secret not in scrub(message)


@pytest.mark.parametrize(
    "message",
    [
        "The model `org/model-7b:latest` does not exist.",
        "max_tokens must be at least 1, got -5. (parameter=max_tokens, value=-5)",
        "prompt contains 5000 tokens and/or 4.5 images; version 1.2.3, at 10:30",
        "use `response_format`, not regex: [a-z]+/[0-9]",
        "max_tokens=4096 exceeds 10 tokens",
    ],
)
def test_words_stay_as_they_are(message):
    assert scrub(message) == message


def test_a_validation_dump_becomes_sentences():
    dump = "2 validation errors:\n  {'loc': ('body', 'messages', 0, 'f[g(), H]', 'role'), 'msg': \"it's bad\"}\n"
    dump += "  {'loc': 'body.n', 'msg': 'too big'}"
    assert scrub(dump) == "messages.0.role: it's bad; n: too big"


def test_a_long_message_is_cut():
    assert len(scrub("x" * 1_000_000)) < 1100


@given(st.binary(max_size=200), st.integers(200, 599))
def test_anything_at_all_becomes_an_error(body, status):
    got = error(status, body)
    assert isinstance(got, GatewayError)
    assert got.message


def test_our_key_and_the_server_s_name_stay_ours():
    server = Server("vllm", 0, parse_address("http://gpu7:8000"), key="hunter2")
    error = server.hide_in(GatewayError(Kind.UPSTREAM, "gpu7:8000 refused the key hunter2; gpu77 and gpu7.org did not"))
    assert error.message == "[hidden]:8000 refused the key [hidden]; gpu77 and [hidden].org did not"
    assert str(error) == error.message
