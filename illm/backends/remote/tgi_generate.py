"""A completion as TGI's native `/generate` and `/generate_stream` take it: its `/v1/completions` can do much less."""

from collections.abc import Mapping
from typing import Any

from illm.backends.remote.tgi_parameters import invalid, refusal, refuse_impossible, seed
from illm.backends.remote.tgi_text import neutralised
from illm.core.requests import Completion, Sampling

JSON = dict[str, Any]

NATIVE: Mapping[str, type | tuple[type, ...]] = {
    "grammar": dict,
    "truncate": int,
    "typical_p": (int, float),
    "watermark": bool,
}
"""TGI's own fields, which go through, and their types; its words about their values are good enough."""


def generate_path(request: Completion) -> str:
    """Return where a completion is asked for."""
    return "/generate_stream" if request.stream else "/generate"


def generate_body(request: Completion) -> JSON:
    """Write the body.

    Raises:
        GatewayError: it asks for what TGI would ignore or refuse.
    """
    refuse_impossible(request)
    if len(request.prompts) != 1:
        raise refusal("prompt", "several prompts have to be asked for one by one")
    prompt = request.prompts[0]
    if not isinstance(prompt, str):
        raise invalid("prompt", "tgi takes text only, not token ids")
    if not prompt:
        raise invalid("prompt", "must not be empty")
    if request.suffix is not None:
        raise refusal("suffix")
    if request.echo and request.sampling.logprobs is not None:
        raise refusal("echo", "not together with 'logprobs', as it gives none for the prompt")
    return {"inputs": neutralised(prompt), "parameters": _parameters(request)}


def _parameters(request: Completion) -> JSON:
    sampling = request.sampling
    parameters: JSON = {
        "max_new_tokens": sampling.max_tokens,
        "repetition_penalty": None if sampling.repetition_penalty in (None, 1) else sampling.repetition_penalty,
        "frequency_penalty": sampling.frequency_penalty or None,
        "stop": list(sampling.stop) or None,
        "top_n_tokens": sampling.logprobs or None,
        "details": True,  # the reason to end is nowhere else, and in a stream neither are the counts
        **_native(request.body),
        **_choosing(sampling),
    }
    return {name: value for name, value in parameters.items() if value is not None}


def _choosing(sampling: Sampling) -> JSON:
    if sampling.temperature == 0:
        # Each of the other parameters would turn sampling on, whatever `do_sample` says; and 0 itself is refused.
        return {"do_sample": False, "typical_p": None}
    return {
        "do_sample": True,  # off by default once there are parameters
        "temperature": sampling.temperature,
        "top_k": sampling.top_k or None,
        "top_p": sampling.top_p if sampling.top_p is not None and 0 < sampling.top_p < 1 else None,
        "seed": seed(sampling.seed),
    }


def _native(given: Mapping[str, Any]) -> JSON:
    fields: JSON = {}
    for name, kind in NATIVE.items():
        value = given.get(name)
        if value is None:
            continue
        if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
            raise invalid(name, "a value of this type is not what tgi takes")
        fields[name] = value
    return fields
