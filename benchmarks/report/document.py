"""The JSON file: every sample's summary, the machine, the versions."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from benchmarks.samples import Sample


@dataclass(frozen=True)
class Document:
    """All that is known about a run of the suite.

    Args:
        samples: in the order in which they were measured.
        titles: scenario → its title.
        versions: system → what it calls its version.
        machine: what it ran on, in words.
        rounds: how many.
        reference: the system whose figures are 1 in ratios.
        quick: whether the runs were so short that they only show that the suite works.
    """

    samples: Sequence[Sample]
    titles: Mapping[str, str]
    versions: Mapping[str, str]
    machine: Mapping[str, str]
    rounds: int
    reference: str
    quick: bool = False

    def write(self, path: Path) -> None:
        """Write it as JSON."""
        path.write_text(json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> "Document":
        """Read what `write` wrote."""
        content = json.loads(path.read_text(encoding="utf-8"))
        samples = [Sample(**sample) for sample in content.pop("samples")]
        return cls(samples=samples, **content)

    def joined(self, other: "Document") -> "Document":
        """Return both runs as one; a scenario of the other replaces this one's, since figures compare within a run.

        Raises:
            ValueError: they ran on different machines, or one of them was quick.
        """
        if (self.machine, self.quick) != (other.machine, other.quick):
            raise ValueError("the runs are not of one machine and kind")
        kept = [sample for sample in self.samples if sample.scenario not in other.titles]
        return replace(
            self,
            samples=[*kept, *other.samples],
            titles={**self.titles, **other.titles},
            versions={**self.versions, **other.versions},
            rounds=min(self.rounds, other.rounds),
        )
