"""Our test TEI satisfies Hugging Face's client and OpenAI's, which then meets it again with ILLM in between."""

import anyio
import pytest

from backends.remote.openai_gateway import openai
from backends.remote.serving import serving
from backends.remote.tei_server import running_tei

hub = pytest.importorskip("huggingface_hub")
pytest.importorskip("numpy", reason="what Hugging Face's client returns vectors as")


@pytest.fixture
def server():
    with running_tei() as tei:
        yield tei


@pytest.fixture(params=["", "/embed"])
def client(server, request, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)  # which forbids this machine's own ports too
    return hub.InferenceClient(model=server.url + request.param)


def test_its_own_route(client, server):
    assert client.feature_extraction("abc").tolist() == [[3.0, 0.5, -0.25]]
    assert client.feature_extraction(["a", "abc"], normalize=True, dimensions=2).tolist() == [[1.0, 0.5], [3.0, 0.5]]
    assert server.requests[-1] == {"inputs": ["a", "abc"], "normalize": True, "dimensions": 2}
    assert client.feature_extraction("a" * 99, truncate=True, truncation_direction="right").tolist()[0][0] == 16.0


def test_its_own_refusals(client, server):
    errors = pytest.importorskip("huggingface_hub.errors")
    for text, status, kind in (("a" * 99, 422, "Validation"), ([], 400, "Empty"), (["a"] * 33, 422, "Validation")):
        with pytest.raises(errors.HfHubHTTPError) as caught:
            client.feature_extraction(text)
        assert (caught.value.response.status_code, caught.value.response.json()["error_type"]) == (status, kind)
    server.overloaded = True
    with pytest.raises(errors.HfHubHTTPError) as caught:
        client.feature_extraction("a")
    assert caught.value.response.status_code == 429


def drive(url: str, model: str) -> None:
    """Embed as OpenAI's clients do: in base64 unless told otherwise."""
    with openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as client:
        answer = client.embeddings.create(model=model, input=["a", "abc"])
        rows = sorted(answer.data, key=lambda row: row.index)
        assert [row.embedding for row in rows] == [[1.0, 0.5, -0.25], [3.0, 0.5, -0.25]]
        assert answer.usage.prompt_tokens == 4
        [row] = client.embeddings.create(model=model, input="ab", dimensions=2, encoding_format="float").data
        assert row.embedding == [2.0, 0.5]
        assert client.embeddings.create(model=model, input=[[1, 2], [3]]).data
        with pytest.raises(openai.APIStatusError) as caught:
            client.embeddings.create(model=model, input="a" * 99)
        assert "must have less than" in caught.value.message


def test_openais_route(server):
    drive(server.url, "anything")


@pytest.mark.anyio
async def test_openais_client_through_the_gateway(server):
    server.key = "sesame"
    async with serving(framework="tgi", tei_base_url=(server.url,), tei_api_key="sesame") as url:
        for model in ("org/embedder", "tgi"):
            await anyio.to_thread.run_sync(drive, url, model)
        assert {body["encoding_format"] for body in server.requests} == {"base64"}
