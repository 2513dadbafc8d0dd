"""Relevance and tokens from other servers: what they are asked, and what their answers amount to."""

import json

import pytest

from illm.backends.remote import ollama, sglang, tei, tgi, vllm
from illm.config import Config
from illm.core.capabilities import Capability
from illm.core.events import Delta, Done, Failed, Ranking, Tokens, Usage
from illm.dialects.openai import parse_embeddings
from illm.dialects.vllm import parse_detokenize, parse_rerank, parse_tokenize
from illm.errors import GatewayError, Kind

VLLM, SGLANG, TEI = vllm.dialect(Config()), sglang.dialect(Config()), tei.dialect(Config())

RANK = parse_rerank({"model": "m", "query": "x", "documents": ["x", {"text": "y"}], "top_n": 1, "priority": 2})


def sent(dialect, request):
    outgoing = dialect.outgoing(request)
    return outgoing.path, json.loads(outgoing.body)


def read(dialect, request, answer, status=200):
    decoder = dialect.decoder(request)
    decoder.start(status, {b"content-type": b"application/json"})
    data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
    return [*decoder.feed(data[:7]), *decoder.feed(data[7:]), *decoder.close()]


def test_vllm_is_asked_for_every_document():
    assert sent(VLLM, RANK) == ("/v1/rerank", {"model": "m", "query": "x", "documents": ["x", "y"], "priority": 2})


# As a vLLM 0.32 with MiniLM answered.
RECORDED = (
    b'{"id":"score-800757dcda1e21cc","model":"minilm","usage":{"prompt_tokens":9,"total_tokens":9},"results":[{"index":0,'
    b'"document":{"text":"x","multi_modal":null},"relevance_score":1.0},{"index":1,"document":{"text":"y","multi_modal":'
    b'null},"relevance_score":0.5520479679107666}]}'
)


def test_what_vllm_answered():
    assert read(VLLM, RANK, RECORDED) == [Ranking((1.0, 0.5520479679107666)), Done(Usage(9))]
    swapped = {"results": [{"index": 1, "relevance_score": 3}, {"index": 0, "relevance_score": 2}]}
    assert read(VLLM, RANK, swapped)[0] == Ranking((2, 3))


@pytest.mark.parametrize("answer", [b"{", [], {"results": [{"index": 0, "relevance_score": 1}]}, {"results": [{}]}])
@pytest.mark.parametrize("dialect", [VLLM, TEI])
def test_what_makes_no_sense_is_the_server_s_fault(dialect, answer):
    [failed] = read(dialect, RANK, answer)
    assert isinstance(failed, Failed)
    assert failed.error.kind is Kind.UPSTREAM


def test_cutting_is_said_in_vllm_s_word():
    rank = parse_rerank({"query": "x", "documents": ["x"], "truncate": True})
    assert sent(VLLM, rank)[1]["truncate_prompt_tokens"] == -1
    embed = parse_embeddings({"input": "x", "truncate": True, "model": "m"})
    assert sent(VLLM, embed) == ("/v1/embeddings", {"input": "x", "model": "m", "truncate_prompt_tokens": -1})
    embed = parse_embeddings({"input": "x", "truncate": False, "truncate_prompt_tokens": 4})
    assert sent(VLLM, embed)[1] == {"input": "x", "truncate_prompt_tokens": 4}
    assert sent(SGLANG, parse_embeddings({"input": "x", "truncate": False}))[1] == {"input": "x"}


@pytest.mark.parametrize(
    ("dialect", "field"),
    [(VLLM, {"prompt_name": "query"}), (SGLANG, {"prompt_name": "query"}), (SGLANG, {"truncate": True})],
)
def test_what_would_be_ignored_is_refused(dialect, field):
    with pytest.raises(GatewayError) as caught:
        dialect.outgoing(parse_embeddings({"input": "x"} | field))
    assert (caught.value.kind, caught.value.param) == (Kind.UNSUPPORTED_PARAMETER, *field)


def test_tokens_of_either_server():
    ask = parse_tokenize({"model": "m", "prompt": "hello world", "framework": "vllm"})
    assert sent(VLLM, ask) == ("/tokenize", {"model": "m", "prompt": "hello world"})
    recorded = b'{"count":3,"max_model_len":2048,"tokens":[2,23391,1902],"token_strs":null}'
    assert read(VLLM, ask, recorded) == [Tokens((2, 23391, 1902), 2048), Done(Usage(3))]
    back = parse_detokenize({"tokens": [17534, 1902]})
    assert sent(SGLANG, back) == ("/detokenize", {"tokens": [17534, 1902]})
    assert read(VLLM, back, b'{"prompt":" thereby world"}') == [Delta(0, " thereby world"), Done(Usage())]
    assert read(SGLANG, back, {"text": "x"})[0] == Delta(0, "x")
    assert isinstance(read(VLLM, back, {})[0], Failed)
    with pytest.raises(GatewayError):
        SGLANG.outgoing(parse_tokenize({"prompt": "x", "return_token_strs": True}))


def test_tei_ranks_in_words_of_its_own():
    assert sent(TEI, RANK) == ("/rerank", {"query": "x", "texts": ["x", "y"], "truncate": False})
    answer = [{"index": 1, "score": 0.9}, {"index": 0, "score": 0.1}]
    assert read(TEI, RANK, answer) == [Ranking((0.1, 0.9)), Done(Usage())]
    [failed] = read(TEI, RANK, {"error": "the model is not a reranker", "error_type": "Backend"}, 424)
    assert isinstance(failed, Failed)


def test_who_offers_what():
    offered = {
        dialect.framework + ("" if dialect is not TEI else " (tei)"): dialect.capabilities
        & {Capability.RERANK, Capability.TOKENS}
        for dialect in (VLLM, SGLANG, TEI, tgi.dialect(Config()), ollama.dialect(Config()))
    }
    assert offered == {
        "vllm": {Capability.RERANK, Capability.TOKENS},
        "sglang": {Capability.TOKENS},  # its embedding server ends when it is asked to rank
        "tgi (tei)": {Capability.RERANK},
        "tgi": frozenset(),
        "ollama": frozenset(),
    }
