"""What a scenario hands to the report: one sample is one system, one case, one round."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Sample:
    """What one run measured.

    Args:
        scenario: the module under `benchmarks/scenarios/` that measured.
        case: what was varied, as a title of a table's row: `64 at once`, `100 streams of 50/s`.
        system: the name in `benchmarks.peers.SYSTEMS`.
        round: which pass over all systems, from 0; ratios are taken within one.
        metrics: name → value.  A name ends in its unit: `_us`, `_ms`, `_s`, `_per_s`, `_mb`, `_percent`, or is a count.
        faults: what went wrong → how often.  A sample with any is shown as faulty and enters no ratio.
    """

    scenario: str
    case: str
    system: str
    round: int
    metrics: dict[str, float]
    faults: dict[str, int] = field(default_factory=dict)

    @property
    def sound(self) -> bool:
        """Whether nothing went wrong."""
        return not any(self.faults.values())
