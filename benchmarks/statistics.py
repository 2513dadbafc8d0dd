"""The few statistics that the suite uses, over lists that are short enough to sort."""

from collections.abc import Sequence

QUANTILES = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999)
"""Where a distribution is kept; with these, and both ends, it is drawn."""


def quantile(ordered: Sequence[float], q: float) -> float:
    """Return the value below which the share `q` of sorted values lies; the nearest that was measured, none between.

    Raises:
        ValueError: there are none.
    """
    if not ordered:
        raise ValueError("no values")
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))]


def median(values: Sequence[float]) -> float:
    """Return the middle value, or the mean of both.

    Raises:
        ValueError: there are none.
    """
    ordered = sorted(values)
    if not ordered:
        raise ValueError("no values")
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def quantile_name(name: str, q: float, unit: str) -> str:
    """Return a metric's name: `latency_p99_us`, `latency_p999_us`, `latency_p1_us`."""
    digits = f"{q * 100:.1f}".removesuffix(".0").replace(".", "")
    return f"{name}_p{digits}_{unit}"


def summary(name: str, values: Sequence[float], unit: str) -> dict[str, float]:
    """Return the metrics that stand for a distribution: its quantiles, and both ends; nothing where it is empty."""
    if not values:
        return {}
    ordered = sorted(values)
    metrics = {quantile_name(name, q, unit): quantile(ordered, q) for q in QUANTILES}
    return {**metrics, f"{name}_min_{unit}": ordered[0], f"{name}_max_{unit}": ordered[-1]}
