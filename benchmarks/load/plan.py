"""What the load generator is told, and what it says afterwards: both cross a pipe as JSON."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Shape = Literal["chat", "stream", "prompt", "image", "embeddings", "embeddings-base64", "tools"]
"""What requests look like: see `benchmarks.load.bodies`."""


@dataclass(frozen=True)
class Plan:
    """One run.

    Args:
        url: of the system, without `/v1`.
        model: what requests name.
        headers: what every request carries beside content type and length.
        shape: what requests look like.
        dialect: `ollama` asks an Ollama server in its own words.
        connections: kept alive; a closed loop has one request on each, an open loop as many as it needs, up to these.
        seconds: for how long requests are begun; each that was begun is waited for.
        requests: at most so many, and then `seconds` may be infinite.
        rate: requests a second, begun whether or not others have ended (open loop); None for a closed loop.
        tokens: how many tokens a streamed answer must have; 1 for a whole answer, 0 where no marks are expected.
        warm_up: requests on each connection before the clock starts; they count as served, and for nothing else.
        stagger: seconds over which the connections of a closed loop begin.
        patience: seconds that the last answers are waited for.
        bodies: how many different bodies are prepared.
        seed: of their content.
    """

    url: str
    model: str
    headers: Mapping[str, str] = field(default_factory=dict)
    shape: Shape = "chat"
    dialect: Literal["openai", "ollama"] = "openai"
    connections: int = 1
    seconds: float = 3.0
    requests: int | None = None
    rate: float | None = None
    tokens: int = 1
    warm_up: int = 2
    stagger: float = 0.0
    patience: float = 20.0
    bodies: int = 1000
    seed: int = 1

    def as_json(self) -> dict[str, Any]:
        """Return what `Plan(**…)` makes this of."""
        return asdict(self)


@dataclass(frozen=True)
class Outcome:
    """What came of a run.

    Args:
        metrics: names and units as in `benchmarks.samples.Sample`.
        faults: what went wrong → how often; zeros left out.
        answered: whole answers in all, those of the warm-up among them, as the upstream should have counted them.
        tokens: tokens in all, in the same sense.
    """

    metrics: dict[str, float]
    faults: dict[str, int]
    answered: int
    tokens: int
