"""How the text of an option becomes its value; each raises ValueError with a reason the operator understands."""

import math
from collections.abc import Callable
from typing import Any

from illm.backends.remote.address import parse_address
from illm.media.policy import read_hosts

_UNITS = {"K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def number(kind: type[int] | type[float], low: float, high: float = math.inf) -> Callable[[str], Any]:
    """A number of one kind; `low` and `high` are both allowed."""

    def parse(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            raise ValueError(f"expected {'a whole number' if kind is int else 'a number'}") from None
        if not low <= value <= high:  # also refuses NaN
            raise ValueError(f"must be between {low} and {high}" if high < math.inf else f"must be at least {low}")
        return value

    return parse


def size(text: str) -> int:
    """Bytes, as `8GB` or plain; the units are powers of a thousand."""
    digits = text.upper().removesuffix("B")
    unit = _UNITS.get(digits[-1:], 1)
    amount: float = number(float, 0, 2**60)(digits[:-1] if unit > 1 else digits)
    return int(amount * unit)


def one_of(*choices: str) -> Callable[[str], str]:
    """One of a few words."""

    def parse(text: str) -> str:
        if text not in choices:
            raise ValueError(f"must be one of {', '.join(choices)}")
        return text

    return parse


def switch(text: str) -> bool:
    """On or off, in any of the usual words."""
    words = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
    if text.lower() not in words:
        raise ValueError("must be 1 or 0")
    return words[text.lower()]


def urls(text: str) -> tuple[str, ...]:
    """One or more addresses of a server, with commas between."""
    addresses = tuple(address for part in text.split(",") if (address := part.strip(" ")))
    for address in addresses:
        parse_address(address)
    if not addresses:
        raise ValueError("must not be empty")
    return addresses


def certificates(text: str) -> str:
    """A file of certificates."""
    import ssl  # only here, as it is slow to import

    try:
        ssl.create_default_context(cafile=text)
    except (OSError, ValueError):
        raise ValueError("must be a file of certificates (PEM) that can be read") from None
    return text


def nucleus(text: str) -> float:
    """A part of the probability, above 0."""
    value: float = number(float, 0, 1)(text)
    if value == 0:
        raise ValueError("must be above 0; for greedy answers say --temperature 0")
    return value


def bearer(text: str) -> str:
    """A bearer key."""
    # What a header cannot carry would lock everybody out.
    if not (text.isascii() and text.isprintable()) or not text or " " in text:
        raise ValueError("must be printable ASCII without spaces")
    return text


def listed(text: str) -> tuple[str, ...]:
    """Any number of words, with commas between."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def image_hosts(text: str) -> tuple[str, ...]:
    """Networks, addresses and host names, with commas between."""
    entries = listed(text)
    read_hosts(entries)
    return entries


def ports(text: str) -> tuple[int, ...]:
    """Port numbers, with commas between."""
    return tuple(number(int, 1, 65535)(port) for port in listed(text))


def filled(text: str) -> str:
    """Any text but a blank one."""
    if not text.strip():
        raise ValueError("must not be empty")
    return text


def device_name(text: str) -> str:
    """Torch's name of a device."""
    kind, _, index = text.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (index and not index.isdigit()):
        raise ValueError("must be cpu, cuda, cuda:N or mps")
    return text
