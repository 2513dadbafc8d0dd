"""Embeddings, relevance and tokens over a real socket, with the official client where it has a word for it."""

import base64

import anyio
import openai
import pytest

torch = pytest.importorskip("torch", reason="the extra `local` is not installed")
np = pytest.importorskip("numpy")

from backends.local import gateway  # noqa: E402

from .test_cross_encoder import QUERY, pairs, reference, write_cross_encoder  # noqa: E402, F401 - a fixture
from .test_embedder import WIDTH, bert, bert_files, numbers, pipeline  # noqa: E402, F401 - fixtures
from .test_embedder import reference as vectors_of  # noqa: E402

pytestmark = [pytest.mark.anyio, pytest.mark.model]


def client_of(client):
    return openai.AsyncOpenAI(base_url=f"{client.base_url}/v1", api_key="none", http_client=client, max_retries=0)


async def post(client, path, body, status=200):
    answer = await client.post(path, json=body)
    assert answer.status_code == status, answer.text
    return answer.json()


async def test_the_official_client_embeds(bert):  # noqa: F811
    pipeline(bert, {"pooling_mode": "mean"}, "Normalize")
    texts = ["one", "two words", "and a third text"]
    expected = vectors_of(bert, texts)
    async with gateway.serving(model=str(bert), threads=1) as client:
        official = client_of(client)
        for form in ({}, {"encoding_format": "float"}):
            answer = await official.embeddings.create(model="bert", input=texts, **form)
            np.testing.assert_allclose([row.embedding for row in answer.data], expected, atol=1e-5)
            assert answer.usage.prompt_tokens == answer.usage.total_tokens == sum(map(len, texts)) + 2 * len(texts)
        short = await official.embeddings.create(model="bert", input=texts, dimensions=4)
        np.testing.assert_allclose(np.linalg.norm([row.embedding for row in short.data], axis=1), 1, atol=1e-6)
        raw = await post(client, "/v1/embeddings", {"input": "one", "encoding_format": "base64"})
        np.testing.assert_allclose(numbers([base64.b64decode(raw["data"][0]["embedding"])]), expected[:1], atol=1e-5)
        with pytest.raises(openai.BadRequestError) as caught:
            await official.embeddings.create(model="bert", input=["x", "y" * 200])
        assert (caught.value.param, "202 tokens" in caught.value.message) == ("input[1]", True)
        await official.embeddings.create(model="bert", input=["x", "y" * 200], extra_body={"truncate": True})
        for wrong in ({"dimensions": WIDTH + 1}, {"input": []}, {"input": ""}, {"prompt_name": "query"}):
            error = (await post(client, "/v1/embeddings", {"input": "x"} | wrong, 400))["error"]
            assert error["param"] == next(iter(wrong))


async def test_clients_at_once_each_get_their_own(bert):  # noqa: F811
    pipeline(bert, {"pooling_mode": "cls"})
    lists = [[f"{'x' * (7 * at % 60)} {at} {number}" for number in range(1 + 9 * (at % 3))] for at in range(12)]
    expected = vectors_of(bert, [text for texts in lists for text in texts])
    found = {}
    async with gateway.serving(model=str(bert), threads=1) as client:

        async def ask(at):
            answer = await client_of(client).embeddings.create(model="bert", input=lists[at])
            found[at] = [row.embedding for row in answer.data]

        async with anyio.create_task_group() as tasks:
            for at in range(len(lists)):
                tasks.start_soon(ask, at)
    np.testing.assert_allclose([row for at in range(len(lists)) for row in found[at]], expected, atol=1e-5)


async def test_a_single_input_passes_ten_thousand(bert):  # noqa: F811
    pipeline(bert, {"pooling_mode": "cls"})
    async with gateway.serving(model=str(bert), threads=1) as client:
        done = []

        async def ask(count):
            texts = ["many of these"] * count
            answer = await post(client, "/v1/embeddings", {"input": texts, "encoding_format": "base64"})
            done.append(len(answer["data"]))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask, 10_000)
            running = 0
            while not running:
                model = (await client.get("/healthz")).json()["providers"][0]["models"][0]
                running = model["engine"]["running"]
            await ask(1)
    assert done == [1, 10_000]


async def test_whoever_hangs_up_frees_the_model(bert):  # noqa: F811
    pipeline(bert, {"pooling_mode": "cls"})
    async with gateway.serving(model=str(bert), threads=1) as client:

        async def engine():
            return (await client.get("/healthz")).json()["providers"][0]["models"][0]["engine"]

        async with anyio.create_task_group() as tasks:
            body = {"input": ["x" * 60] * 16000}
            tasks.start_soon(lambda: client.post("/v1/embeddings", json=body))
            while not (await engine())["running"]:
                pass
            tasks.cancel_scope.cancel()
        with anyio.fail_after(gateway.PATIENCE):
            while (counts := await engine())["running"]:
                pass
        assert counts["inputs"] < 16000


async def test_a_cross_encoder_ranks(write_cross_encoder, tmp_path, bert):  # noqa: F811
    directory = write_cross_encoder(tmp_path / "judge")
    documents = ["a", "the quick brown fox", "foxes"]
    expected = reference(directory, pairs(documents=documents))
    order = sorted(range(3), key=lambda at: -expected[at])
    async with gateway.serving(model=str(bert), rerank_model=str(directory), threads=1) as client:
        body = {"query": QUERY, "documents": documents}
        for path, named in (("/v1/rerank", {}), ("/rerank", {"model": "judge"})):
            answer = await post(client, path, body | named)
            assert answer["model"] == "judge"
            assert [row["index"] for row in answer["results"]] == order
            scores = [row["relevance_score"] for row in answer["results"]]
            np.testing.assert_allclose(scores, [expected[at] for at in order], atol=1e-5)
            assert [row["document"]["text"] for row in answer["results"]] == [documents[at] for at in order]
        best = await post(client, "/rerank", body | {"top_n": 1, "return_documents": False})
        assert [set(row) for row in best["results"]] == [{"index", "relevance_score"}]
        cosine = await post(client, "/rerank", body | {"model": "bert"})
        assert cosine["model"] == "bert"
        assert (await post(client, "/v1/embeddings", {"model": "judge", "input": "x"}))["model"] == "bert"
        error = await post(client, "/rerank", body | {"documents": ["a", "y" * 200]}, 400)
        assert error["error"]["param"] == "documents[1]"
        await post(client, "/rerank", body | {"documents": ["a", "y" * 200], "truncate": True})
        error = await post(client, "/rerank", body | {"prompt_name": "query"}, 400)
        assert error["error"]["code"] == "unsupported_parameter"


async def test_tokens_of_a_language_model_and_of_an_embedder(tiny_llama, tmp_path, bert):  # noqa: F811
    directory = tmp_path / "talker"
    tiny_llama(directory, template="{{ bos_token }}{% for m in messages %}{{ m['content'] }};{% endfor %}")
    async with gateway.serving(model=str(directory), embedding_model=str(bert), threads=1) as client:
        whole = await post(client, "/tokenize", {"prompt": "héllo", "return_token_strs": True})
        assert whole["count"] == len(whole["tokens"]) == len(whole["token_strs"]) == 7
        assert (whole["tokens"][0], whole["token_strs"][0], whole["max_model_len"]) == (1, "<s>", 96)
        bare = await post(client, "/tokenize", {"prompt": "héllo", "add_special_tokens": False})
        assert bare == whole | {"count": 6, "tokens": whole["tokens"][1:], "token_strs": None}
        assert await post(client, "/detokenize", {"tokens": whole["tokens"]}) == {"prompt": "<s>héllo"}
        chat = await post(client, "/tokenize", {"messages": [{"role": "user", "content": "hé"}]})
        assert await post(client, "/detokenize", {"tokens": chat["tokens"]}) == {"prompt": "<s>hé;"}
        assert (await post(client, "/tokenize", {"prompt": ""}))["tokens"] == [1]
        ends = await post(client, "/tokenize", {"prompt": "hé", "model": "bert"})
        assert (ends["tokens"][0], ends["tokens"][-1]) == (1, 2)
        error = await post(client, "/detokenize", {"tokens": [5, 9999]}, 400)
        assert error["error"]["param"] == "tokens[1]"
        error = await post(client, "/tokenize", {"messages": [{"role": "user", "content": "x"}], "model": "bert"}, 422)
        assert error["error"]["code"] == "capability_not_supported"
        error = await post(client, "/tokenize", {"prompt": "x", "chat_template": "x"}, 400)
        assert error["error"]["param"] == "chat_template"
