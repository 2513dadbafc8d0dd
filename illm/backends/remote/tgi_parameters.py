"""What TGI cannot do, said before it is asked: it ignores most of that, and misreads some."""

from illm.core.requests import Generate
from illm.errors import GatewayError, Kind

MAX_STOPS = 4
MAX_ALTERNATIVES = 5

NOWHERE = ("min_p", "presence_penalty", "logit_bias", "ignore_eos")
"""Neither of its endpoints honours these.  `presence_penalty` is the worst: it comes out as a repetition penalty of two
more, so that even 0 ruins the text."""

UINT64 = 2**64 - 1


def refuse_impossible(request: Generate) -> None:
    """Raise for what no TGI endpoint honours although it would change the answer.

    Raises:
        GatewayError: 400 with `param`.
    """
    sampling = request.sampling
    for name in NOWHERE:
        if getattr(sampling, name):
            raise refusal(name)
    if sampling.n != 1:
        raise refusal("n", "several choices have to be asked for one by one")
    if len(sampling.stop) > MAX_STOPS:
        raise invalid("stop", f"tgi takes at most {MAX_STOPS} stop strings")
    if (sampling.logprobs or 0) > MAX_ALTERNATIVES:
        name = "logprobs" if "logprobs" in request.body and request.body.get("logprobs") is not True else "top_logprobs"
        raise invalid(name, f"tgi gives at most {MAX_ALTERNATIVES} alternatives")
    if sampling.max_tokens == 0:
        raise refusal("max_tokens", "at least one token has to be generated")


def seed(given: int | None) -> int | None:
    """Return a seed as the unsigned number that TGI takes."""
    return None if given is None else given & UINT64


def refusal(name: str, why: str = "it has no such thing") -> GatewayError:
    """Return the error for a parameter that cannot be honoured."""
    return GatewayError(
        Kind.UNSUPPORTED_PARAMETER, f"The parameter '{name}' is not supported by tgi: {why}.", param=name
    )


def invalid(name: str, why: str) -> GatewayError:
    """Return the error for a value that cannot be honoured."""
    return GatewayError(Kind.INVALID_REQUEST, f"{name}: {why}.", param=name)
