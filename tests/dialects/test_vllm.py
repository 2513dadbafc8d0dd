"""vLLM's own routes: what a request may say, and the shape of the answers."""

import json

import pytest

from illm.core.events import Tokens
from illm.core.requests import WHOLE
from illm.dialects import vllm
from illm.errors import GatewayError, Kind

ASKED = {"query": "q", "documents": ["a", {"text": "b"}, "c"]}


def ranked(scores, **more):
    request = vllm.parse_rerank(ASKED | more)
    return json.loads(vllm.rerank_body(request, id="score-1", model="m", scores=scores, prompt_tokens=9))


def test_the_best_come_first_and_equals_in_their_order():
    assert ranked([0.25, 0.5, 0.25]) == {
        "id": "score-1",
        "model": "m",
        "usage": {"prompt_tokens": 9, "total_tokens": 9},
        "results": [
            {"index": 1, "document": {"text": "b"}, "relevance_score": 0.5},
            {"index": 0, "document": {"text": "a"}, "relevance_score": 0.25},
            {"index": 2, "document": {"text": "c"}, "relevance_score": 0.25},
        ],
    }


def test_fewer_results_and_none_of_the_documents():
    assert ranked([1, 2, 3], top_n=1, return_documents=False)["results"] == [{"index": 2, "relevance_score": 3}]
    assert len(ranked([1, 2, 3], top_n=0)["results"]) == 3
    assert len(ranked([1, 2, 3], top_n=7)["results"]) == 3


def test_what_is_no_number_is_no_relevance():
    with pytest.raises(GatewayError) as caught:
        ranked([1.0, float("nan"), 2.0])
    assert caught.value.kind is Kind.INTERNAL


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"query": ""}, "query"),
        ({"query": None}, "query"),
        ({"documents": []}, "documents"),
        ({"documents": "a"}, "documents"),
        ({"documents": ["a", ""]}, "documents[1]"),
        ({"documents": ["a", {"text": 3}]}, "documents[1].text"),
        ({"documents": ["x"] * (vllm.MAX_DOCUMENTS + 1)}, "documents"),
        ({"top_n": -1}, "top_n"),
        ({"truncate_prompt_tokens": 0}, "truncate_prompt_tokens"),
        ({"truncate": "yes"}, "truncate"),
    ],
)
def test_what_a_client_is_told_of_a_ranking(more, param):
    with pytest.raises(GatewayError) as caught:
        vllm.parse_rerank(ASKED | more)
    assert (caught.value.kind, caught.value.param) == (Kind.INVALID_REQUEST, param)


@pytest.mark.parametrize(
    ("more", "cut"),
    [({}, None), ({"truncate": False}, None), ({"truncate": True}, WHOLE), ({"truncate_prompt_tokens": 5}, 5)],
)
def test_how_much_is_cut(more, cut):
    assert vllm.parse_rerank(ASKED | more).cut == cut


def test_tokens_of_a_prompt_and_of_a_conversation():
    assert vllm.parse_tokenize({"prompt": "x"}).special
    assert not vllm.parse_tokenize({"prompt": "x", "add_special_tokens": False}).special
    asked = vllm.parse_tokenize({"messages": [{"role": "user", "content": "hi"}], "return_token_strs": True})
    assert asked.messages is not None
    assert (asked.messages[0].text, asked.special, asked.strings) == ("hi", False, True)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "prompt"),
        ({"prompt": "x", "messages": [{"role": "user", "content": "x"}]}, "prompt"),
        ({"prompt": ["x"]}, "prompt"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": "x"}], "add_special_tokens": True}, "add_special_tokens"),
    ],
)
def test_what_a_client_is_told_of_tokens(body, param):
    with pytest.raises(GatewayError) as caught:
        vllm.parse_tokenize(body)
    assert (caught.value.kind, caught.value.param) == (Kind.INVALID_REQUEST, param)


@pytest.mark.parametrize("tokens", [None, ["a"], [-1], [2**31]])
def test_what_a_client_is_told_of_ids(tokens):
    with pytest.raises(GatewayError) as caught:
        vllm.parse_detokenize({"tokens": tokens})
    assert caught.value.kind is Kind.INVALID_REQUEST
    assert caught.value.param.startswith("tokens")


def test_the_answers_have_the_shape_of_vllm_s():
    assert json.loads(vllm.tokenized_body(Tokens((2, 3), 2048))) == {
        "count": 2,
        "max_model_len": 2048,
        "tokens": [2, 3],
        "token_strs": None,
    }
    assert json.loads(vllm.tokenized_body(Tokens((2,), None, ("a",))))["token_strs"] == ["a"]
    assert json.loads(vllm.detokenized_body(" x")) == {"prompt": " x"}
