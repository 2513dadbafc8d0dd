"""Relevance: the same as sentence-transformers' CrossEncoder gives, whatever the lengths and the batches."""

import json
import warnings

import pytest

from illm.core.requests import WHOLE, Rerank
from illm.errors import GatewayError, Kind

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
np = pytest.importorskip("numpy")
pytestmark = pytest.mark.model

from illm.backends.local.cross_encoder import load_cross_encoder  # noqa: E402
from illm.backends.local.sources import Source, kind_in  # noqa: E402

from .test_embedder import encoded  # noqa: E402

QUERY = "what is a fox?"
DOCUMENTS = ("a", "the quick brown fox", "Grüße aus Köln 🌍 " * 2, "x" * 40, "foxes")


def pairs(query=QUERY, documents=DOCUMENTS):
    return [(query, document) for document in documents]


@pytest.fixture
def write_cross_encoder(byte_tokenizer):
    """Return a function that writes a tiny random cross-encoder into a directory."""
    tokenizers = pytest.importorskip("tokenizers")

    def write(directory, **settings):
        torch.manual_seed(3)
        tokenizer = byte_tokenizer()
        tokenizer.backend_tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
            single="<s> $A </s>", pair="<s> $A </s> $B:1 </s>:1", special_tokens=[("<s>", 1), ("</s>", 2)]
        )
        tokenizer.model_max_length = 96
        tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
        tokenizer.save_pretrained(directory)
        config = transformers.BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=64,
            max_position_embeddings=96,
            num_labels=1,
            initializer_range=0.3,
            pad_token_id=0,
            **settings,
        )
        transformers.BertForSequenceClassification(config).eval().save_pretrained(directory)
        return directory

    return write


def reference(directory, given):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sentence_transformers = pytest.importorskip("sentence_transformers")
        model = sentence_transformers.CrossEncoder(str(directory), device="cpu", local_files_only=True)
        return model.predict(given, show_progress_bar=False)


def loaded(directory):
    return load_cross_encoder(Source("tiny", directory, "rerank"), device="cpu", progress=lambda text, part: None)


IDENTITY = "torch.nn.modules.linear.Identity"


@pytest.mark.parametrize(
    "settings",
    [{}, {"sentence_transformers": {"activation_fn": IDENTITY}}, {"sbert_ce_default_activation_function": IDENTITY}],
    ids=["sigmoid", "as is", "as is, older"],
)
def test_the_same_as_sentence_transformers(write_cross_encoder, tmp_path, settings):
    directory = write_cross_encoder(tmp_path, **settings)
    assert kind_in(directory) == "rerank"
    expected = reference(directory, pairs())
    assert np.ptp(expected) > 1e-3  # else anything would do
    encoder = loaded(directory)
    ranking, done = encoded(encoder, Rerank(query=QUERY, documents=DOCUMENTS))
    np.testing.assert_allclose(ranking.scores, expected, atol=1e-5)
    assert done.usage.prompt_tokens > 100
    alone = [encoded(encoder, Rerank(query=QUERY, documents=(one,)))[0].scores[0] for one in DOCUMENTS]
    np.testing.assert_allclose(ranking.scores, alone, atol=1e-6)


def test_what_sentence_transformers_has_saved(write_cross_encoder, tmp_path):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = sentence_transformers.CrossEncoder(str(write_cross_encoder(tmp_path / "a")), device="cpu")
        model.save_pretrained(str(tmp_path / "b"))
    assert kind_in(tmp_path / "b") == "rerank"
    ranking, _ = encoded(loaded(tmp_path / "b"), Rerank(query=QUERY, documents=DOCUMENTS))
    np.testing.assert_allclose(ranking.scores, reference(tmp_path / "b", pairs()), atol=1e-5)


def test_what_is_too_long_is_refused_or_cut(write_cross_encoder, tmp_path):
    directory = write_cross_encoder(tmp_path)
    documents = ("short", "long " * 40)
    with pytest.raises(GatewayError) as caught:
        encoded(loaded(directory), Rerank(query=QUERY, documents=documents))
    assert (caught.value.kind, caught.value.param) == (Kind.INVALID_REQUEST, "documents[1]")
    assert "takes at most 96" in caught.value.message
    ranking, _ = encoded(loaded(directory), Rerank(query=QUERY, documents=documents, cut=WHOLE))
    np.testing.assert_allclose(ranking.scores, reference(directory, pairs(documents=documents)), atol=1e-5)


def test_an_end_that_we_do_not_know_is_refused(write_cross_encoder, tmp_path):
    directory = write_cross_encoder(tmp_path, sentence_transformers={"activation_fn": "somebody.Else"})
    with pytest.raises(GatewayError) as caught:
        loaded(directory)
    assert caught.value.kind is Kind.MODEL_LOAD_FAILED


def test_a_classifier_of_several_labels_ranks_nothing(write_cross_encoder, tmp_path):
    directory = write_cross_encoder(tmp_path)
    config = json.loads((directory / "config.json").read_text())
    config["id2label"] = {"0": "no", "1": "yes"}
    (directory / "config.json").write_text(json.dumps(config))
    assert kind_in(directory) == "other"
