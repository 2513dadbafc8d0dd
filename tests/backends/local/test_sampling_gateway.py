"""Sampling controls the whole way: JSON over a socket, a tiny model, and the shapes that OpenAI's clients expect."""

import json

import pytest

torch = pytest.importorskip("torch", reason="the extra `local` is not installed")
transformers = pytest.importorskip("transformers", reason="the extra `local` is not installed")

from backends.local import gateway  # noqa: E402

pytestmark = [pytest.mark.anyio, pytest.mark.model]

CHAT = {"messages": [{"role": "user", "content": "é"}], "temperature": 0}
BYTES = 5  # the tokenizer's special tokens come before its bytes


@pytest.fixture
def tiny(tmp_path, tiny_llama):
    tiny_llama(tmp_path / "tiny", template="{{ bos_token }}{% for m in messages %}{{ m['content'] }}{% endfor %}")
    return tmp_path / "tiny"


def serving(directory):
    return gateway.serving(model=str(directory), threads=1)


async def post(client, path, body):
    answer = await client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    if not body.get("stream"):
        return answer.json()
    frames = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line]
    assert frames.pop() == "[DONE]"
    return [json.loads(frame) for frame in frames]


def joined(chunks, index=0):
    """One choice of a stream as its whole answer has it."""
    choices = [one for chunk in chunks for one in chunk["choices"] if one["index"] == index]
    text = "".join(one["text"] if "text" in one else one["delta"].get("content") or "" for one in choices)
    told = [one["logprobs"] for one in choices if one["logprobs"]]
    logprobs = {name: [entry for piece in told for entry in piece[name]] for name in (told[0] if told else ())}
    return text, logprobs, choices[-1]["finish_reason"]


def token_of(byte):
    """The id of a byte in the fixture's tokenizer."""
    alphabet = sorted(__import__("tokenizers").pre_tokenizers.ByteLevel.alphabet())
    from illm.backends.local.token_bytes import _byte_level

    return BYTES + next(at for at, spelled in enumerate(alphabet) if _byte_level(spelled) == bytes([byte]))


async def test_a_character_in_pieces_has_its_bytes(tiny):
    """The bias leaves two bytes to choose from, which are one character together; penalties make them take turns."""
    first, second = (token_of(byte) for byte in "é".encode())
    bias = {str(token): -100 for token in range(5 + 256) if token not in (first, second)}
    turns = {"logit_bias": bias, "frequency_penalty": 2, "max_tokens": 8, "logprobs": True, "top_logprobs": 2}
    async with serving(tiny) as client:
        whole = await post(client, "/v1/chat/completions", {**CHAT, **turns})
        stream = await post(client, "/v1/chat/completions", {**CHAT, **turns, "stream": True})
    [choice] = whole["choices"]
    content = choice["logprobs"]["content"]
    assert len(content) == 8
    assert {one["bytes"][0] for one in content} == set("é".encode())
    assert (
        bytes(byte for one in content for byte in one["bytes"]).decode(errors="replace") == choice["message"]["content"]
    )
    assert all(len(one["top_logprobs"]) == 2 for one in content)
    text, logprobs, finish = joined(stream)
    assert (text, finish) == (choice["message"]["content"], "length")
    assert logprobs["content"] == content


async def test_a_prompt_is_echoed_with_the_model_s_own_probabilities(tiny):
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny)
    ids = tokenizer("Né", return_tensors="pt").input_ids
    with torch.inference_mode():
        rows = torch.log_softmax(model(ids).logits[0].float(), -1)
    expected = [row[token].item() for row, token in zip(rows, ids[0, 1:], strict=False)]
    body = {"prompt": "Né", "echo": True, "logprobs": 2, "temperature": 0}
    async with serving(tiny) as client:
        [alone] = (await post(client, "/v1/completions", {**body, "max_tokens": 0}))["choices"]
        whole = await post(client, "/v1/completions", {**body, "max_tokens": 3, "n": 2})
        stream = await post(client, "/v1/completions", {**body, "max_tokens": 3, "n": 2, "stream": True})
        plain = await post(
            client, "/v1/completions", {"prompt": ["Né", "x"], "echo": True, "max_tokens": 1, "temperature": 0}
        )
    assert (alone["text"], alone["finish_reason"]) == ("Né", "length")
    logprobs = alone["logprobs"]
    assert logprobs["tokens"] == ["<s>", "N", "", "é"]
    assert logprobs["text_offset"] == [0, 0, 1, 1]
    assert logprobs["token_logprobs"][0] is logprobs["top_logprobs"][0] is None
    assert logprobs["token_logprobs"][1:] == pytest.approx(expected, abs=1e-4)
    for choice in whole["choices"]:
        assert choice["text"].startswith("Né")
        assert len(choice["logprobs"]["tokens"]) == 7
        assert joined(stream, choice["index"]) == (choice["text"], choice["logprobs"], choice["finish_reason"])
    assert whole["usage"]["completion_tokens"] == 6
    assert [choice["text"][:1] for choice in plain["choices"]] == ["N", "x"]


async def test_the_best_of_several(tiny):
    body = {"prompt": "ab", "max_tokens": 6, "seed": 3, "logprobs": 0, "ignore_eos": True}
    async with serving(tiny) as client:
        every = (await post(client, "/v1/completions", {**body, "n": 4}))["choices"]
        best = await post(client, "/v1/completions", {**body, "n": 2, "best_of": 4})
        same = await post(client, "/v1/completions", {**body, "n": 2, "best_of": 2, "stream": True})
        refused = await client.post("/v1/completions", json={**body, "best_of": 4, "stream": True})
    ranked = sorted(every, key=lambda choice: -sum(choice["logprobs"]["token_logprobs"]))
    assert [choice["text"] for choice in best["choices"]] == [choice["text"] for choice in ranked[:2]]
    assert [choice["index"] for choice in best["choices"]] == [0, 1]
    assert best["usage"]["completion_tokens"] == 24
    assert [joined(same, index)[0] for index in (0, 1)] == [choice["text"] for choice in every[:2]]
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "best_of")


async def test_what_ends_an_answer(tiny):
    forced = {"prompt": "ab", "max_tokens": 6, "temperature": 0, "logit_bias": {"70": 100, "2": 60}}
    async with serving(tiny) as client:
        free = await post(client, "/v1/completions", forced)
        stopped = await post(client, "/v1/completions", {**forced, "stop_token_ids": [70]})
        later = await post(client, "/v1/completions", {**forced, "stop_token_ids": [70], "min_tokens": 3})
        ignoring = await post(
            client, "/v1/completions", {**forced, "stop_token_ids": [70], "min_tokens": 3, "ignore_eos": True}
        )

    def end(answer):
        return answer["choices"][0]["finish_reason"], answer["usage"]["completion_tokens"]

    assert end(free) == ("length", 6)
    assert end(stopped) == ("stop", 1)
    assert stopped["choices"][0]["text"] == ""
    assert end(later) == ("stop", 4)
    assert end(ignoring)[1] >= 4


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/chat/completions", {**CHAT, "top_logprobs": 2}, "top_logprobs"),
        ("/v1/chat/completions", {**CHAT, "logit_bias": {"999999": 1}}, "logit_bias"),
        ("/v1/completions", {"prompt": "a", "n": 3, "best_of": 2}, "best_of"),
        ("/v1/completions", {"prompt": "a", "typical_p": 0}, "typical_p"),
    ],
)
async def test_what_cannot_be_is_a_400_that_names_it(tiny, path, body, param):
    async with serving(tiny) as client:
        answer = await client.post(path, json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
