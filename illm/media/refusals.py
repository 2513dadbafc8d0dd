"""How an image is refused.  Its place in the request is added where it is known.

One sentence serves an unknown host, a host with private addresses and an address written in an odd way: a client must
not be able to tell them apart, or it could draw a map of the network we stand in.
"""

from illm.errors import GatewayError, Kind

HOST = "the host is unknown, or images may not be fetched from it"
NO_ANSWER = "the image could not be fetched: no valid answer from its server"


def refused(what: str) -> GatewayError:
    """Return the refusal of an image, for the client."""
    return GatewayError(Kind.INVALID_REQUEST, what)


def placed(error: GatewayError, where: str) -> GatewayError:
    """Return a refusal that names the part of the request at fault."""
    return GatewayError(error.kind, f"{where}: {error.message}", param=where)
