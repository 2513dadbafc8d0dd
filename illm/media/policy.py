"""What the operator allows images to be, and where they may come from: plain data, checked once."""

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network

Network = IPv4Network | IPv6Network

WEB_PORTS = frozenset({80, 443})


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagePolicy:
    """The limits of one gateway.

    Args:
        hosts: names, lower case, whose addresses need not be public.  Whoever answers for such a name decides where we
            connect to: list names of one's own network only.
        networks: addresses that need not be public.
        ports: ports that may be connected to.
        max_images: images of one request, those it repeats included.
        max_bytes: one image, decoded.
        max_total_bytes: all images of one request, decoded.
        max_pixels: width times height of one image.
        timeout: seconds for fetching all images of one request, from the first name to the last byte.
        max_fetches: fetches at once, over all requests of an event loop.
        ca_file: certificates (PEM) that image servers are checked against, beside the usual ones.
    """

    hosts: frozenset[str] = frozenset()
    networks: tuple[Network, ...] = ()
    ports: frozenset[int] = WEB_PORTS
    max_images: int = 64
    max_bytes: int = 20 * 2**20
    max_total_bytes: int = 64 * 2**20
    max_pixels: int = 64_000_000
    timeout: float = 20.0
    max_fetches: int = 64
    ca_file: str | None = None


def read_hosts(entries: Iterable[str]) -> tuple[frozenset[str], tuple[Network, ...]]:
    """Tell names from networks: `10.1.0.0/16`, `10.1.2.3`, `fd00::/8` or `images.internal`.

    Raises:
        ValueError: an entry is neither, with a reason for the operator.
    """
    names, networks = set(), []
    for entry in entries:
        try:
            networks.append(ip_network(entry))
        except ValueError:
            if not entry.isascii() or set(entry) & set("/:@[]*% ") or _numeric(entry):
                raise ValueError(f"{entry!r} must be a network, an address or a host name") from None
            names.add(entry.lower().removesuffix("."))
    return frozenset(names), tuple(networks)


def _numeric(entry: str) -> bool:
    # A mistyped network (10.0.0.0.0, 10.0) is not a name.
    return entry.rstrip(".").rpartition(".")[2].isdigit()
