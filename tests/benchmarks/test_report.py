"""The statistics and the report, on samples made for it."""

from dataclasses import replace

import pytest

from benchmarks.report.__main__ import BEGIN, END, put_into, write
from benchmarks.report.comparison import UNARY, Spread, added, figures, limit, plain, ratios
from benchmarks.report.document import Document
from benchmarks.report.markdown import render, table
from benchmarks.report.targets import Target, judge
from benchmarks.rounds import rotated
from benchmarks.samples import Sample
from benchmarks.statistics import median, quantile, summary


def unary(system, number, p50, rate, **faults):
    metrics = summary("total", [p50 - 10, p50, p50 + 10], "us") | {"requests_per_s": rate}
    return Sample("unary", "1 at once", system, number, metrics, faults)


SAMPLES = [
    unary("direct", 0, 100, 9000), unary("illm", 0, 250, 4000), unary("peer", 0, 400, 2000),
    unary("direct", 1, 50, 9500), unary("illm", 1, 150, 5000), unary("peer", 1, 250, 4000),
    unary("direct", 2, 80, 9200), unary("illm", 2, 280, 4400), unary("peer", 2, 300, 4000, unanswered=2),
]  # fmt: skip


def test_quantiles_are_values_that_were_measured():
    assert [quantile([1, 2, 3, 4], q) for q in (0, 0.5, 0.75, 0.99, 1)] == [1, 3, 4, 4, 4]
    assert [median(values) for values in ([3], [3, 1], [5, 1, 3])] == [3, 2, 3]
    assert summary("x", [], "us") == {}
    shown = summary("x", range(1000), "us")
    assert (shown["x_p50_us"], shown["x_p99_us"], shown["x_p999_us"], shown["x_max_us"]) == (500, 990, 999, 999)


def test_what_is_added_is_the_difference_within_the_round():
    assert figures(SAMPLES, "illm", added("total_p50_us")) == {0: 150, 1: 100, 2: 200}


def test_ratios_are_taken_within_the_round_and_never_with_a_faulty_sample():
    assert ratios(SAMPLES, "peer", "illm", added("total_p50_us")) == [2.0, 2.0]
    assert ratios(SAMPLES, "peer", "illm", plain("requests_per_s")) == [0.5, 0.8]


def test_a_table_shows_median_spread_and_faults():
    head, _, direct, ours, peer = table(SAMPLES, "illm")
    assert head.count("|") == 2 + len(UNARY) + sum(column.compared for column in UNARY) + 1
    assert "| 150 (100 to 200) | 1 |" in ours
    assert "| 4,400 (4,000 to 5,000) | 1 |" in ours
    assert "| 250 (200 to 300) | 2.00 (2.00 to 2.00) |" in peer
    assert ours.endswith("| none |")
    assert peer.endswith("| unanswered: 2 |")
    assert direct.startswith("| direct | 0 (0 to 0) | - |")


def step(system, count, number, p99, **faults):
    return Sample("streams", f"ramp: {count:,} streams of 50/s", system, number, {"delay_p99_us": p99}, faults)


def test_the_limit_is_what_every_round_carried():
    ramp = [
        step("illm", 500, 0, 900), step("illm", 1000, 0, 2000), step("illm", 2000, 0, 60_000),
        step("illm", 500, 1, 900), step("illm", 1000, 1, 2000), step("illm", 2000, 1, 900),
        step("peer", 500, 0, 900), step("peer", 500, 1, 900, unanswered=1), step("peer", 1000, 0, 900),
    ]  # fmt: skip
    assert {system: limit(ramp, system) for system in ("illm", "peer", "absent")} == {
        "illm": 1000,
        "peer": 0,
        "absent": 0,
    }


def test_each_system_is_first_in_turn():
    assert [rotated(["a", "b", "c"], number) for number in range(4)] == [
        ["a", "b", "c"], ["b", "c", "a"], ["c", "a", "b"], ["a", "b", "c"],
    ]  # fmt: skip


@pytest.fixture
def document():
    versions = {"direct": "no gateway", "illm": "illm 0", "peer": "peer 1"}
    return Document(SAMPLES, {"unary": "Non-streamed chat"}, versions, {"cores": "2"}, 3, "illm")


def test_what_was_written_is_read_again(document, tmp_path):
    document.write(tmp_path / "results.json")
    again = Document.read(tmp_path / "results.json")
    assert again == document
    assert render(again) == render(document)
    assert "## Non-streamed chat\n\n### 1 at once\n\n| system | added p50" in render(again)


def test_a_system_that_never_started_has_a_row(document):
    missing = Sample("unary", "1 at once", "absent", 0, {}, {"did not start": 1})
    *_, row = table([*SAMPLES, missing], "illm")
    assert row == "| absent | - | - | - | - | - | - | - | did not start: 1 |"


def test_plots_are_drawn_twice(document, tmp_path):
    pytest.importorskip("matplotlib")
    written = write(document, tmp_path)
    assert {path.suffix for path in written} == {".json", ".md", ".png", ".svg"}
    assert all(path.stat().st_size for path in written)


def test_the_page_keeps_what_is_around_the_results():
    page = put_into(f"before\n{BEGIN}\nold\n{END}\nafter", "new")
    assert page == f"before\n{BEGIN}\n\nnew\n\n{END}\nafter"
    with pytest.raises(ValueError, match="no <!--"):
        put_into("page", "new")


def test_a_spread_of_nothing_is_none():
    assert Spread.of([]) is None
    assert Spread.of([3, 1]) == Spread(2, 1, 3, 2)


def test_targets_are_judged_by_the_rounds_that_count():
    def about(name, number, p50):
        return Sample("unary", "1 at once", name, number, {"total_p50_us": p50})

    samples = [about(*row) for row in [
        ("direct", 0, 100), ("illm", 0, 300), ("slow", 0, 500), ("fast", 0, 200),
        ("direct", 1, 100), ("illm", 1, 400), ("slow", 1, 700), ("fast", 1, 900),
        ("direct", 2, 100), ("illm", 2, 200), ("slow", 2, 300), ("fast", 2, 120),
    ]]  # fmt: skip
    document = Document(samples, {"unary": "Non-streamed chat"}, {}, {}, 3, "illm")

    def judged(**said):
        figure = added("total_p50_us")
        return list(judge(document, [Target("added", "unary", "1 at once", figure, **said)]))[-1]

    assert judged(peers={"slow": 1.0}) == "| added: below slow's | 200 (100 to 300) | met |"
    assert judged(peers={"slow": 1.0, "fast": 1.0}).endswith("| missed: 2.00 times fast's |")
    assert judged(peers={"slow": 0.02}).endswith("| missed: 0.50 times slow's |")
    assert judged(peers={"absent": 1.0}).endswith("| missed: absent was not measured |")
    assert judged(limit=150).endswith("| missed: 1.33 of the limit |")
    assert judged(limit=150, most=False).endswith("| met |")
    # Only where the other was calm: in the last round it added 200, in the first 400.
    assert judged(limit=150, where=("slow", 300)).startswith("| added: below 150 | 100 (100 to 100) | met |")
    assert list(judge(document, [Target("added", "streams", "1 at once", added("total_p50_us"))])) == []


def test_a_lost_answer_misses_the_target():
    samples = [*SAMPLES, unary("illm", 3, 100, 4000, unanswered=1)]
    document = Document(samples, {}, {}, {}, 4, "illm")
    target = Target("p50", "unary", "1 at once", plain("total_p50_us"), limit=1000)
    assert list(judge(document, [target]))[-1].endswith("| missed: faults in 1 of its samples |")


def test_of_two_runs_the_later_replaces_whole_scenarios(document):
    again = Sample("unary", "1 at once", "illm", 0, {"total_p50_us": 1.0})
    other = replace(document, samples=[again], rounds=5)
    assert document.joined(other).samples == [again]
    elsewhere = replace(document, samples=[again], titles={"streams": "Streamed chat"})
    assert document.joined(elsewhere).samples == [*document.samples, again]
    with pytest.raises(ValueError, match="one machine"):
        document.joined(replace(document, machine={"cores": "64"}))
