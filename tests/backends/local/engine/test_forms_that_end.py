"""How a constrained text ends where no token of the model says so, or where that token may not be chosen yet."""

import pytest

torch = pytest.importorskip("torch", reason="needs the extra `local`")
pytest.importorskip("transformers", reason="needs the extra `local`")
pytest.importorskip("llguidance", reason="needs the extra `local`")

from illm.backends.local.engine import Engine, SequenceRequest  # noqa: E402
from illm.backends.local.grammar import GrammarCompiler  # noqa: E402

from .tiny import make  # noqa: E402

pytestmark = pytest.mark.model

END = 2


def written(tokenizer, lark, *, eos, **request):
    """Return the outputs of one constrained sequence, by a random model that shares a tokenizer's vocabulary."""
    vocabulary = len(tokenizer)
    grammar = GrammarCompiler(tokenizer, vocabulary, eos).lark(f"start: {lark}", "p")
    engine = Engine(make("llama", vocab_size=vocabulary), tokenizer.decode, kv_tokens=512, check=False)
    engine.add(SequenceRequest(id=1, prompt=[9, 8, 7], constraint=grammar, eos=eos, seed=0, logprobs=1, **request))
    outputs = []
    while engine.busy:
        outputs += engine.step()
    return outputs


@pytest.mark.parametrize("eos", [frozenset(), frozenset({10**6})])
def test_without_a_token_that_ends_a_text_it_ends_without_one(byte_tokenizer, eos):
    # Whole at once, and what may follow needs more room than there is.
    *others, last = written(byte_tokenizer(), "/(abcdefgh)?/", eos=eos, max_new_tokens=3)
    assert others == []
    assert (last.text, last.tokens, last.score, last.finish) == ("", 0, None, "length")


@pytest.mark.parametrize(("eos", "tokens"), [(frozenset({END}), 1), (frozenset(), 0)])
@pytest.mark.parametrize("min_tokens", [0, 3])
def test_what_only_min_tokens_keeps_from_ending_has_not_been_cut(byte_tokenizer, eos, tokens, min_tokens):
    outputs = written(byte_tokenizer(), "/a{0}/", eos=eos, max_new_tokens=5, min_tokens=min_tokens)
    assert [(output.text, output.tokens, output.finish) for output in outputs] == [("", tokens, "stop")]
