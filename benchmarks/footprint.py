"""What processes cost, by the kernel's own account: memory and processor time, children included."""

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_KIB = 1024
_MB = 1e6
_FIELDS = {"Pss": "pss_mb", "Rss": "rss_mb"}


@dataclass(frozen=True)
class Memory:
    """Memory of several processes together.

    Args:
        pss_mb: megabytes (10⁶ bytes), pages that n processes share counted as one nth: what they cost together.
        rss_mb: megabytes, shared pages counted in full for each.
    """

    pss_mb: float
    rss_mb: float


def family(pid: int) -> tuple[int, ...]:
    """Return a process and all its living descendants, parents before children; empty if it is gone."""
    children: dict[int, list[int]] = defaultdict(list)
    alive = set()
    for number, parent, _ in _living():
        alive.add(number)
        children[parent].append(number)
    found = [pid] if pid in alive else []
    for parent in found:
        found.extend(sorted(children[parent]))
    return tuple(found)


def group(leader: int) -> tuple[int, ...]:
    """Return the living processes of a process group, whether or not its leader is among them."""
    return tuple(number for number, _, of in _living() if of == leader)


def memory(pids: Iterable[int]) -> Memory:
    """Return what the processes hold now; those that have ended count nothing."""
    totals = dict.fromkeys(_FIELDS.values(), 0.0)
    for pid in pids:
        with suppress(OSError):
            for line in (_PROC / str(pid) / "smaps_rollup").read_text().splitlines():
                name, _, rest = line.partition(":")
                if name in _FIELDS:
                    totals[_FIELDS[name]] += int(rest.split()[0]) * _KIB / _MB
    return Memory(**totals)


def cpu_seconds(pids: Iterable[int]) -> float:
    """Return the processor time that the processes have used so far, in user and kernel mode."""
    ticks = 0
    for pid in pids:
        with suppress(OSError):
            fields = _stat(_PROC / str(pid) / "stat")
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def _living() -> Iterator[tuple[int, int, int]]:
    """Yield pid, parent and process group of every process that has not ended."""
    for stat in _PROC.glob("[0-9]*/stat"):
        with suppress(OSError):  # it ended while we looked
            state, parent, leader, *_ = _stat(stat)
            if state not in "ZX":
                yield int(stat.parent.name), int(parent), int(leader)


def _stat(path: Path) -> list[str]:
    """Fields from the third on: the second, the program's name, may hold spaces and brackets."""
    return path.read_text().rpartition(")")[2].split()
