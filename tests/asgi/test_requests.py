"""What a request must look like, and what it is told where it does not."""

import hmac

import pytest

from asgi.driver import driving

pytestmark = pytest.mark.anyio

CHAT = "/v1/chat/completions"
JSON = {"content-type": "application/json"}


@pytest.mark.parametrize("body", [
    b"",
    b"   ",
    b"{",
    b'{"messages": [}',
    b"[]",
    b'"text"',
    b"null",
    b'{"messages": [{"role": "user", "content": "\xff"}]}',
    b'{"messages": [{"role": "user", "content": "\\ud800"}]}',
    b'{"messages": [{"role": "user", "content": "a"}], "temperature": NaN}',
    b'{"messages": [{"role": "user", "content": "a"}], "temperature": Infinity}',
    b'{"messages": [{"role": "user", "content": "a"}], "temperature": 1e999}',
    b"[" * 100_000,
    b'{"messages": ' + b"[" * 500 + b"]" * 500 + b"}",
])  # fmt: skip
async def test_what_is_no_json_object_is_a_400(make_app, body):
    async with driving(make_app()) as driver:
        talk = await driver.ask(CHAT, body=body, headers=JSON)
    assert talk.status == 400
    assert talk.error["type"] == "invalid_request_error"
    assert talk.error["message"]


@pytest.mark.parametrize(("field", "value", "param"), [
    ("messages", None, "messages"),
    ("messages", [], "messages"),
    ("messages", "hello", "messages"),
    ("messages", [{"role": "user"}], "messages[0].content"),
    ("messages", [{"role": "king", "content": "a"}], "messages[0].role"),
    ("temperature", "warm", "temperature"),
    ("temperature", 3, "temperature"),
    ("max_tokens", 0, "max_tokens"),
    ("max_tokens", 2**31, "max_tokens"),
    ("max_tokens", 2**63, "max_tokens"),
    ("max_tokens", 10**30, "max_tokens"),
    ("max_tokens", 1.5, "max_tokens"),
    ("n", 10**6, "n"),
    ("stream", "yes", "stream"),
    ("stop", [""], "stop[0]"),
    ("model", 7, "model"),
    ("framework", "", "framework"),
    ("logprobs", True, "logprobs"),
    ("prompt", "the other endpoint's", "prompt"),
    ("temprature", 1, "temprature"),
])  # fmt: skip
async def test_a_wrong_field_is_a_400_that_names_it(make_app, field, value, param):
    async with driving(make_app()) as driver:
        if isinstance(value, int) and value >= 2**63:
            body = b'{"messages": [{"role": "user", "content": "a"}], "%s": %d}' % (field.encode(), value)
            talk = await driver.ask(CHAT, body=body, headers=JSON)
        else:
            talk = await driver.chat("echo a", **{field: value})
    assert talk.status == 400
    assert talk.error["param"] == param
    assert talk.ended


async def test_bookkeeping_fields_are_accepted(make_app):
    async with driving(make_app()) as driver:
        talk = await driver.chat("echo a", user="someone", store=False, metadata={"a": "b"}, logprobs=None)
    assert talk.status == 200


@pytest.mark.parametrize(
    "type_", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=a"]
)
async def test_another_content_type_is_a_415(make_app, type_):
    async with driving(make_app()) as driver:
        talk = await driver.chat("echo a", headers={"content-type": type_})
    assert talk.status == 415


@pytest.mark.parametrize("type_", ["application/json; charset=utf-8", "Application/JSON", "application/vnd.x+json", ""])
async def test_json_by_any_name_is_read(make_app, type_):
    async with driving(make_app()) as driver:
        talk = await driver.chat("echo a", headers={"content-type": type_})
    assert talk.status == 200


async def test_a_compressed_body_is_a_415(make_app):
    async with driving(make_app()) as driver:
        talk = await driver.chat("echo a", headers={"content-encoding": "gzip"})
    assert talk.status == 415


async def test_a_body_beyond_the_limit_is_a_413(make_app):
    async with driving(make_app(max_body_bytes=1024)) as driver:
        talk = await driver.ask(CHAT, body=[b" " * 600, b" " * 600, b" " * 600], headers=JSON)
    assert talk.status == 413
    assert talk._pieces, "the rest need not have been read"


async def test_a_body_declared_beyond_the_limit_is_a_413_before_any_of_it_is_asked_for(make_app):
    async with driving(make_app(max_body_bytes=1024)) as driver:
        talk = await driver.ask(CHAT, body=[b" " * 5000], headers={**JSON, "content-length": "5000"})
    assert talk.status == 413
    assert talk._pieces


async def test_a_body_in_pieces_is_read(make_app):
    async with driving(make_app()) as driver:
        body = b'{"messages": [{"role": "user", "content": "echo hi"}]}'
        talk = await driver.ask(CHAT, body=[body[:7], b"", body[7:20], body[20:]], headers=JSON)
    assert talk.json["choices"][0]["message"]["content"] == "hi"


@pytest.mark.parametrize("path", ["/v1", "/v1/", "/v1/models/", "/models/", "/v1/chat/completions/", "/nothing"])
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_an_unknown_path_is_a_404(make_app, method, path):
    async with driving(make_app()) as driver:
        talk = await driver.ask(path, method=method)
    assert talk.status == 404
    assert talk.error["code"] == "not_found"


@pytest.mark.parametrize(("method", "path", "allow"), [
    ("GET", CHAT, "POST"),
    ("HEAD", CHAT, "POST"),
    ("OPTIONS", "/v1/embeddings", "POST"),
    ("DELETE", "/v1/models", "GET, HEAD"),
    ("POST", "/v1/models/script", "GET, HEAD"),
    ("POST", "/healthz", "GET, HEAD"),
    ("BREW", "/healthz", "GET, HEAD"),
])  # fmt: skip
async def test_a_wrong_method_is_a_405_that_says_what_is_allowed(make_app, method, path, allow):
    async with driving(make_app()) as driver:
        talk = await driver.ask(path, method=method)
    assert talk.status == 405
    assert talk.headers["allow"] == allow
    assert talk.error["code"] == "method_not_allowed"


async def test_head_has_the_headers_of_get(make_app):
    async with driving(make_app()) as driver:
        head, get = await driver.ask("/v1/models", method="HEAD"), await driver.get("/v1/models")
    assert head.status == 200
    assert head.headers["content-length"] == get.headers["content-length"]


PATHS = [
    ("GET", "/v1/models"),
    ("GET", "/models"),
    ("GET", "/v1/models/script"),
    ("POST", CHAT),
    ("POST", "/v1/completions"),
    ("POST", "/v1/embeddings"),
    ("POST", "/v1/audio/transcriptions"),
    ("GET", "/nothing"),
    ("GET", CHAT),
]
KEYS = [
    None,
    "",
    "Bearer",
    "Bearer ",
    "Bearer wrong",
    "Bearer secret2",
    "Bearer Secret",
    "Basic secret",
    "secret",
    "Bearer secr\u00e9t",
]


@pytest.mark.parametrize(("method", "path"), PATHS)
async def test_without_the_key_nothing_but_health_answers(make_app, method, path):
    async with driving(make_app(api_key="secret")) as driver:
        for key in KEYS:
            talk = await driver.ask(path, method=method, headers={"authorization": key} if key is not None else {})
            assert talk.status == 401, key
            assert talk.headers["www-authenticate"] == "Bearer"
            assert talk.error["code"] == "invalid_api_key"
            assert b"secret" not in talk.body
        talk = await driver.get("/healthz")
        assert talk.status == 200


@pytest.mark.parametrize("key", ["Bearer secret", "bearer secret", "BEARER secret", "Bearer   secret "])
async def test_with_the_key_everything_answers(make_app, key):
    async with driving(make_app(api_key="secret")) as driver:
        talk = await driver.chat("echo a", headers={"authorization": key})
    assert talk.status == 200


async def test_without_a_configured_key_any_is_ignored(make_app):
    async with driving(make_app()) as driver:
        talk = await driver.chat("echo a", headers={"authorization": "Bearer whatever"})
    assert talk.status == 200


async def test_keys_are_compared_in_constant_time(make_app, monkeypatch):
    compared = []

    def compare(theirs, ours):
        compared.append((theirs, ours))
        return theirs == ours

    monkeypatch.setattr(hmac, "compare_digest", compare)
    async with driving(make_app(api_key="secret")) as driver:
        await driver.get("/v1/models", headers={"authorization": "Bearer s"})
        await driver.get("/v1/models", headers={"authorization": "Bearer secret"})
    assert compared == [(b"s", b"secret"), (b"secret", b"secret")]


@pytest.mark.parametrize("request_id", ["abc-123", "x" * 128, "a/b:c?d=e"])
async def test_a_sane_request_id_is_echoed(make_app, request_id):
    async with driving(make_app()) as driver:
        talk = await driver.get("/healthz", headers={"x-request-id": request_id})
    assert talk.headers["x-request-id"] == request_id


@pytest.mark.parametrize("request_id", [None, "", "x" * 129, "a b", "caf\u00e9", "a\tb", "a\x7fb"])
async def test_otherwise_the_request_id_is_ours(make_app, request_id):
    async with driving(make_app()) as driver:
        headers = {} if request_id is None else {"x-request-id": request_id}
        talks = [await driver.get("/healthz", headers=headers) for _ in range(2)]
    first, second = (talk.headers["x-request-id"] for talk in talks)
    assert len(first) == 32
    assert first != second


@pytest.mark.parametrize(("path", "request_"), [
    ("/nothing", {}),
    ("/healthz", {"method": "GET"}),
    ("/healthz", {"method": "PUT"}),
    (CHAT, {"body": b"{", "headers": JSON}),
    (CHAT, {"body": b'{"messages": [{"role": "user", "content": "echo a"}]}', "headers": JSON}),
    (CHAT, {"body": b'{"stream": true, "messages": [{"role": "user", "content": "echo a"}]}', "headers": JSON}),
    (CHAT, {"body": b'{"messages": [{"role": "user", "content": "nonsense"}]}', "headers": JSON}),
])  # fmt: skip
async def test_every_answer_carries_a_request_id(make_app, path, request_):
    async with driving(make_app()) as driver:
        headers = {**request_.get("headers", {}), "x-request-id": "mine"}
        talk = await driver.ask(path, **{**request_, "headers": headers})
    assert talk.headers["x-request-id"] == "mine"


async def test_a_client_that_leaves_while_it_sends_is_not_answered(make_app, way):
    async with driving(make_app(), way) as driver:
        talk = driver.begin(CHAT, body=[b"{"], headers=JSON)
        talk._pieces = []

        async def receive():
            return {"type": "http.disconnect"}

        talk._receive = receive
        await talk.over.wait()
    assert talk.messages == []
    assert talk.raised is None


async def test_a_websocket_is_refused(make_app):
    sent = []

    async def receive():
        return {"type": "websocket.connect"}

    async def send(message):
        sent.append(message)

    await make_app()({"type": "websocket", "path": "/v1/realtime", "headers": []}, receive, send)
    assert sent == [{"type": "websocket.close", "code": 1003}]


async def test_a_server_whose_send_refuses_gets_no_exception_back(make_app, way, caplog):
    async with driving(make_app(), way) as driver:
        talk = driver.begin_chat("echo a")

        async def send(message):
            raise RuntimeError("not like this")

        talk._send = send
        await talk.over.wait()
    assert talk.raised is None
    assert any(record.exc_info for record in caplog.records)
