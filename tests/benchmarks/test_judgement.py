"""What a run's exchanges amount to: times to metrics, and every kind of damage to a fault."""

import pytest

from benchmarks.load.bodies import Body
from benchmarks.load.exchange import Exchange
from benchmarks.load.judgement import judge
from benchmarks.load.plan import Outcome, Plan
from benchmarks.marks import write_mark
from benchmarks.standins.witness import differences

TAG, OTHER = b"0123456789ab", b"ba9876543210"
PLAN = Plan("http://h:1", "m", shape="stream", tokens=3)
END = b'data: {"choices":[{"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'


def event(index, sent, tag=TAG):
    return b'data: {"t":"%s"}\n\n' % write_mark(index, 500_000, sent, tag)


def exchange(*pieces, status=200, ended=9_000_000):
    """Return an exchange sent at 0 whose piece `i` arrived at i + 1 ms."""
    one = Exchange(Body(TAG, b"", 10), 0)
    one.pieces, one.times = list(pieces), [(at + 1) * 1_000_000 for at in range(len(pieces))]
    one.status, one.ended = status, ended
    return one


def good():
    return exchange(event(0, 900_000), event(1, 1_700_000), event(2, 2_900_000) + END)


def test_times_become_metrics():
    outcome = judge(PLAN, [good()], [], 1.0)
    assert outcome.faults == {}
    assert (outcome.answered, outcome.tokens) == (1, 3)
    shown = {name: outcome.metrics[name] for name in ("ttft_p50_us", "ttft_path_p50_us", "delay_max_us", "gap_p50_ms")}
    # The stand-in held the request from 500 to 900 µs; the slowest token took 300 µs; tokens came 1 ms apart.
    assert shown == {"ttft_p50_us": 1000, "ttft_path_p50_us": 600, "delay_max_us": 300, "gap_p50_ms": 1}
    assert outcome.metrics["tokens_per_s"] == 3


def test_a_token_has_arrived_with_its_last_byte():
    first = event(0, 900_000)
    outcome = judge(PLAN, [exchange(first[:20], first[20:], event(1, 1_700_000) + event(2, 1_900_000) + END)], [], 1.0)
    assert outcome.metrics["ttft_p50_us"] == 2000


def test_the_warm_up_counts_as_served_and_for_nothing_else():
    outcome = judge(PLAN, [], [good(), good()], 1.0)
    assert (outcome.answered, outcome.tokens) == (2, 6)
    assert outcome.metrics == {"requests_per_s": 0, "tokens_per_s": 0, "answered": 0}


def broken():
    one = exchange(event(0, 1))
    one.broken = "reset"
    return one


@pytest.mark.parametrize(
    ("damaged", "fault"),
    [
        (exchange(event(0, 1), event(1, 2), event(2, 3, OTHER) + END), "another request's answer"),
        (exchange(event(0, 1), event(2, 3), END), "tokens lost or out of order"),
        (exchange(event(0, 1), event(2, 2), event(1, 3) + END), "tokens lost or out of order"),
        (exchange(event(0, 1), event(1, 2), event(1, 2), event(2, 3) + END), "tokens lost or out of order"),
        (exchange(event(0, 1), event(1, 2), event(2, 3)), "no end"),
        (exchange(event(0, 1), event(1, 2), event(2, 3), b"data: {nonsense\n\n" + END), "no JSON"),
        (exchange(b"{}", status=429), "status 429"),
        (exchange(event(0, 1), ended=0), "unanswered"),
        (broken(), "broken: reset"),
    ],
)  # fmt: skip
def test_damage_is_a_fault(damaged, fault):
    outcome = judge(PLAN, [damaged, good()], [], 1.0)
    assert outcome.faults == {fault: 1}
    assert outcome.metrics["answered"] == 1


def test_a_request_that_was_cut_off_is_a_fault():
    plan = Plan("http://h:1", "m", shape="prompt")
    answer = b'{"t":"%s","usage":{"prompt_tokens": %d}}'
    whole, cut = (exchange(answer % (write_mark(0, 1, 2, TAG), size)) for size in (10, 5))
    assert judge(plan, [whole, cut], [], 1.0).faults == {"request cut off": 1}


COUNTS = {"requests": 5, "answered": 5, "tokens": 15, "broken": 0, "untagged": 0, "probes": 3, "worst_lag_ms": 4.0}


def test_the_upstream_must_have_counted_the_same():
    outcome = Outcome({}, {}, 5, 15)
    assert differences(COUNTS, outcome) == {}
    assert differences({**COUNTS, "requests": 6, "answered": 6, "tokens": 18}, outcome) == {
        "upstream answered otherwise": 1,
        "upstream sent more tokens": 3,
    }
    assert differences({**COUNTS, "requests": 6, "broken": 1}, outcome) == {"broken off": 1}
    assert differences({**COUNTS, "worst_lag_ms": 300.0}, outcome) == {"stand-in late": 1}
