"""What the paced stand-in is told, and what it says it did: both cross HTTP as JSON."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Pace:
    """How streams run.

    Args:
        tokens: in each answer.
        rate: tokens a second of each stream.
        first_delay: seconds from the request to the first token, and up to a period more, so that the streams are
            evenly out of step with each other however they began; 0 sends it at once.
        size: bytes of text in a token, beside its mark.
        in_step: whether all streams speak at the same instant, as those of an engine that decodes a batch do.
        inputs: vectors in an answer to embeddings.
        dimensions: numbers in a vector.
    """

    tokens: int = 50
    rate: float = 50.0
    first_delay: float = 0.0
    size: int = 4
    in_step: bool = False
    inputs: int = 256
    dimensions: int = 384


@dataclass
class Counts:
    """What was served since the last reset, and what it cost; probes are counted apart, since nobody measures them."""

    requests: int = 0
    answered: int = 0
    tokens: int = 0
    broken: int = 0
    untagged: int = 0
    probes: int = 0
    worst_lag_ms: float = 0.0
    cpu_s: float = 0.0
    wall_s: float = 0.0
