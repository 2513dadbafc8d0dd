"""Tokens to text and an end, without a model."""

import math

import pytest

from illm.backends.local.engine.sequence import LiveSequence, SequenceOutput, SequenceRequest

EOS = 0


def decode(ids):
    return bytes(ids).decode(errors="replace")


def play(text, **options):
    """Feed the bytes of `text` as tokens until the sequence ends."""
    values = {"prompt": list(b"p"), "max_new_tokens": 100, "eos": frozenset({EOS})} | options
    sequence = LiveSequence(SequenceRequest(id=7, **values), decode)
    outputs = []
    for byte in text if isinstance(text, bytes) else text.encode():
        outputs.append(sequence.accept(byte))
        if outputs[-1].finish is not None:
            break
    return outputs


def said(outputs):
    return "".join(output.text for output in outputs)


def test_text_comes_token_by_token():
    assert play("hi")[:2] == [SequenceOutput(7, "h", 1, None), SequenceOutput(7, "i", 1, None)]


def test_the_end_of_text_token_counts_and_is_not_shown():
    assert play(b"hi\0more") == [
        SequenceOutput(7, "h", 1, None),
        SequenceOutput(7, "i", 1, None),
        SequenceOutput(7, "", 1, "stop"),
    ]


def test_without_eos_the_token_is_one_like_any_other():
    assert said(play(b"a\0b", eos=frozenset())) == "a\0b"


def test_the_length_ends_it_and_what_was_held_back_comes_out():
    outputs = play("hi\nUs", max_new_tokens=5, stop=("\nUser:",))
    assert [output.text for output in outputs] == ["h", "i", "", "", "\nUs"]
    assert outputs[-1].finish == "length"


def test_a_stop_string_over_several_tokens_never_shows():
    outputs = play("hi\nUser: more", stop=("\nUser:",))
    assert said(outputs) == "hi"
    assert outputs[-1].finish == "stop"
    assert len(outputs) == len("hi\nUser:")


def test_a_stop_string_with_the_last_token_allowed_is_a_stop():
    outputs = play("hi.", max_new_tokens=3, stop=(".",))
    assert (said(outputs), outputs[-1].finish) == ("hi", "stop")


def test_the_end_of_text_lets_go_of_a_possible_stop():
    assert said(play(b"hi\n\0", stop=("\nUser:",))) == "hi\n"


def test_a_character_waits_for_all_its_bytes():
    assert [output.text for output in play("é😀")] == ["", "é", "", "", "", "😀"]


def test_a_character_cut_off_by_the_length_shows_that_it_was():
    assert said(play("a😀", max_new_tokens=3)) == "a\ufffd"


def test_a_seed_repeats_and_none_does_not():
    def draws(seed):
        sequence = LiveSequence(SequenceRequest(id=1, prompt=[1], max_new_tokens=1, seed=seed), decode)
        return [sequence.draw() for _ in range(5)]

    assert draws(1) == draws(1) != draws(2)
    assert draws(None) != draws(None)


@pytest.mark.parametrize(
    "wrong",
    [
        {"prompt": []},
        {"max_new_tokens": -1},
        {"temperature": -0.1},
        {"temperature": math.inf},
        {"temperature": math.nan},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"top_k": -1},
        {"min_p": 1.1},
        {"typical_p": 0.0},
        {"presence_penalty": math.nan},
        {"frequency_penalty": math.inf},
        {"logit_bias": {-1: 1.0}},
        {"min_tokens": -1},
        {"prompt_scores": True},
        {"repetition_penalty": 0.0},
        {"repetition_penalty": math.nan},
    ],
)
def test_values_out_of_range_are_refused_by_name(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SequenceRequest(**({"id": 1, "prompt": [1], "max_new_tokens": 1} | wrong))
