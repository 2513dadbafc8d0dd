"""`POST /generate` and `/generate_stream`: the request.

Only TGI's parameters are read; as in TGI others are ignored.  What they may be is TGI's rule, and so is the complaint.
A null counts as absent, of which TGI is less forgiving.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from msgspec import Struct, field

from illm.core.requests import Completion, Constraint, Sampling
from illm.dialects.openai.json_body import convert
from illm.errors import GatewayError, Kind

MAX_BEST_OF = 2
MAX_STOPS = 4
MAX_TOP_TOKENS = 5
MAX_INT32 = 2**31 - 1
MAX_SEED = 2**64 - 1

_Wire = TypeVar("_Wire", bound=Struct)

PASSED_ON = ("frequency_penalty", "grammar", "truncate", "typical_p", "watermark")
"""Parameters that only some backends honour: they travel in the request's body, where it is looked for who can."""


class Parameters(Struct, kw_only=True):
    """TGI's parameters."""

    adapter_id: str | None = None
    best_of: int | None = None
    decoder_input_details: bool = False
    details: bool = False
    do_sample: bool = False
    frequency_penalty: float | None = None
    grammar: dict[str, Any] | None = None
    max_new_tokens: int | None = None
    repetition_penalty: float | None = None
    return_full_text: bool = False
    seed: int | None = None
    stop: list[str] = field(default_factory=list)
    temperature: float | None = None
    top_k: int | None = None
    top_n_tokens: int | None = None
    top_p: float | None = None
    truncate: int | None = None
    typical_p: float | None = None
    watermark: bool = False


class Body(Struct, kw_only=True):
    """The request; only `POST /` looks at `stream`."""

    inputs: str
    parameters: dict[str, Any] | None = None
    stream: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """What was asked, and how it is to be answered.

    Args:
        completion: what a backend gets; `sampling.n` is what TGI calls `best_of`.
        details: whether tokens and counts are shown.
        full_text: whether the prompt is a part of the text.
        top_tokens: how many alternatives to show beside each token, if the client asked.
        seed: what was sampled with; None for greedy.
    """

    completion: Completion
    details: bool = False
    full_text: bool = False
    top_tokens: int | None = None
    seed: int | None = None

    @property
    def prompt(self) -> str:
        """The one prompt."""
        return str(self.completion.prompts[0])


def parse_generation(body: Mapping[str, Any], *, stream: bool | None = None, framework: str = "tgi") -> Generation:
    """Parse a request.

    Args:
        body: the decoded JSON object.
        stream: whether the endpoint streams; None where the body says so.
        framework: the backend that is to answer.

    Raises:
        GatewayError: a value is not allowed; the message is TGI's.
    """
    wire = _converted(body, Body)
    given = wire.parameters
    parameters = _converted(given or {}, Parameters)
    streaming = wire.stream if stream is None else stream
    _check(wire.inputs, parameters, streaming)
    if given is None:
        parameters.do_sample = True  # TGI's quirk: only a request without any parameters samples by itself
    best_of = parameters.best_of or 1
    sampled = _samples(parameters)
    # TGI chooses the seed and reports it, so that what came of it can be had again.
    seed = parameters.seed if parameters.seed is not None or not sampled or best_of > 1 else random.getrandbits(63)
    shows_tokens = streaming or parameters.details or best_of > 1
    sampling = Sampling(
        max_tokens=parameters.max_new_tokens,
        temperature=(1.0 if parameters.temperature is None else parameters.temperature) if sampled else 0.0,
        top_p=1.0 if parameters.top_p is None else parameters.top_p,
        top_k=parameters.top_k or 0,
        repetition_penalty=1.0 if parameters.repetition_penalty is None else parameters.repetition_penalty,
        frequency_penalty=parameters.frequency_penalty,
        typical_p=parameters.typical_p,
        stop=tuple(parameters.stop),
        seed=None if seed is None else _signed(seed),
        n=best_of,
        logprobs=(parameters.top_n_tokens or 0) if shows_tokens else None,
    )
    passed_on = {name: value for name in PASSED_ON if (value := getattr(parameters, name))}
    return Generation(
        completion=Completion(
            prompts=(wire.inputs,),
            sampling=sampling,
            constraints=_constraints(parameters.grammar),
            framework=framework,
            stream=streaming,
            body=passed_on,
        ),
        details=parameters.details,
        full_text=parameters.return_full_text,
        top_tokens=parameters.top_n_tokens,
        seed=seed if sampled else None,
    )


def with_default_limit(generation: Generation, limit: int | None) -> Generation:
    """Fill in the operator's limit where the client gave none."""
    completion = generation.completion
    if limit is None or completion.sampling.max_tokens is not None:
        return generation
    sampling = replace(completion.sampling, max_tokens=limit)
    return replace(generation, completion=replace(completion, sampling=sampling))


_GRAMMARS = {"json": "json_schema", "json_schema": "json_schema", "regex": "regex"}


def _constraints(grammar: dict[str, Any] | None) -> tuple[Constraint, ...]:
    if not grammar:
        return ()
    said, content = str(grammar.get("type")), grammar.get("value")
    if said == "json_schema" and isinstance(content, dict) and isinstance(content.get("schema"), dict):
        content = content["schema"]  # beside a name, as OpenAI has it
    return (Constraint(_GRAMMARS.get(said, said), content, "grammar"),)


def _samples(parameters: Parameters) -> bool:
    """Say whether TGI would sample: anything that only sampling has a use for turns it on."""
    return (
        parameters.do_sample
        or parameters.temperature not in (None, 1)
        or parameters.top_k is not None
        or parameters.top_p is not None
        or parameters.typical_p is not None
    )


def _check(inputs: str, wire: Parameters, stream: bool) -> None:
    best_of = 1 if wire.best_of is None else wire.best_of
    asked_to_sample = wire.do_sample or any(
        value is not None for value in (wire.temperature, wire.top_k, wire.top_p, wire.typical_p)
    )
    # In TGI's order: of several mistakes the same one is complained about.
    rules = (
        (stream and best_of != 1, "`best_of` != 1 is not supported when streaming tokens"),
        (
            stream and wire.decoder_input_details,
            "`decoder_input_details` == true is not supported when streaming tokens",
        ),
        (not 0 < best_of <= MAX_BEST_OF, f"`best_of` must be > 0 and <= {MAX_BEST_OF}. Given: {best_of}"),
        (best_of > 1 and not asked_to_sample, "you must use sampling when `best_of` is > 1"),
        (not _above(wire.temperature, 0), "`temperature` must be strictly positive"),
        (not _above(wire.repetition_penalty, 0), "`repetition_penalty` must be strictly positive"),
        (not _within(wire.frequency_penalty, -2, 2), "`frequency_penalty` must be >= -2.0 and <= 2.0"),
        (not _inside(wire.top_p, 0, 1), "`top_p` must be > 0.0 and < 1.0"),
        (not _inside(wire.typical_p, 0, 1), "`typical_p` must be > 0.0 and < 1.0"),
        (not _above(wire.top_k, 0), "`top_k` must be strictly positive"),
        (not _above(wire.max_new_tokens, 0), "`max_new_tokens` must be strictly positive"),
        (len(wire.stop) > MAX_STOPS, f"`stop` supports up to {MAX_STOPS} stop sequences. Given: {len(wire.stop)}"),
        (best_of > 1 and wire.seed is not None, "`seed` must not be set when `best_of` > 1"),
        (
            not _within(wire.top_n_tokens, 0, MAX_TOP_TOKENS),
            f"`top_n_tokens` must be >= 0 and <= {MAX_TOP_TOKENS}. Given: {wire.top_n_tokens}",
        ),
        (not inputs, "`inputs` cannot be empty"),
        (not _above(wire.truncate, 0), f"`truncate` must be strictly positive. Given: {wire.truncate}"),
        # Not TGI's: its types cannot hold these, or its server can do more than any backend here.
        (not _within(wire.seed, 0, MAX_SEED), f"`seed` must be >= 0 and <= {MAX_SEED}"),
        (not _within(wire.max_new_tokens, 0, MAX_INT32), f"`max_new_tokens` must be <= {MAX_INT32}"),
        (not _within(wire.top_k, 0, MAX_INT32), f"`top_k` must be <= {MAX_INT32}"),
        (not _within(wire.repetition_penalty, 0.01, 100), "`repetition_penalty` must be >= 0.01 and <= 100.0"),
        (wire.decoder_input_details, "`decoder_input_details` == true is not supported by this server"),
        (wire.adapter_id is not None, "`adapter_id` is not supported by this server: it has no adapters"),
    )
    for broken, complaint in rules:
        if broken:
            raise GatewayError(Kind.INVALID_REQUEST, complaint)


def _above(value: float | None, low: float) -> bool:
    return value is None or value > low


def _within(value: float | None, low: float, high: float) -> bool:
    return value is None or low <= value <= high


def _inside(value: float | None, low: float, high: float) -> bool:
    return value is None or low < value < high


def _signed(seed: int) -> int:
    """Return the 64 bits of a seed as the signed number that every other dialect has."""
    return seed - 2**64 if seed >= 2**63 else seed


def _converted(body: Mapping[str, Any], wire: type[_Wire]) -> _Wire:
    try:
        return convert(body, wire)
    except GatewayError as error:
        message = f"Failed to deserialize the JSON body into the target type: {error.message}"
        raise GatewayError(Kind.INVALID_REQUEST, message, param=error.param) from None
