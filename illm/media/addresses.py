"""Which addresses are somebody's public server, and which lead into a network that only we can see.

Stated as what is public, not as what is forbidden: what the registries set aside next year is then refused already.
`ipaddress.is_global` alone is not enough, and differs between versions of Python: it calls site-local addresses,
IPv6 addresses that carry an IPv4 one (6to4, NAT64, ISATAP, ...), and multicast with a global scope, global.

Sources: the IANA special-purpose address registries for IPv4 and IPv6 (RFC 6890), RFC 4291 (2000::/3 is global
unicast), RFC 6052 (NAT64), RFC 3056 and RFC 7526 (6to4), RFC 5214 (ISATAP), RFC 9637 (3fff::/20).
"""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from illm.media.policy import ImagePolicy

Address = IPv4Address | IPv6Address

_REFUSED_4 = (
    IPv4Network("192.0.0.0/24"),  # protocol assignments; the metadata service of one cloud is in it
    IPv4Network("192.88.99.0/24"),  # 6to4 relays
    IPv4Network("168.63.129.16/32"),  # Azure's host, publicly numbered and reachable from inside only
)
_GLOBAL_6 = IPv6Network("2000::/3")
_REFUSED_6 = (
    IPv6Network("2001::/23"),  # protocol assignments, Teredo among them
    IPv6Network("2001:db8::/32"),  # documentation
    IPv6Network("2002::/16"),  # 6to4: carries an IPv4 address
    IPv6Network("3fff::/20"),  # documentation
)
_NAT64 = IPv6Network("64:ff9b::/96")
_ISATAP = frozenset({0x00005EFE, 0x02005EFE})


def read_address(text: str) -> Address | None:
    """Return an address, an IPv4 one where it was mapped into IPv6; None if it is none or names an interface."""
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if isinstance(address, IPv4Address):
        return address
    if address.scope_id is not None:
        return None
    return address.ipv4_mapped or address


def is_public(address: Address) -> bool:
    """Tell whether an address (of `read_address`) is globally reachable unicast, and means what it looks like."""
    if isinstance(address, IPv4Address):
        reserved = address.is_multicast or address.is_reserved or any(address in network for network in _REFUSED_4)
        return address.is_global and not reserved
    embedded = _behind_nat64(address)
    if embedded is not None:
        return is_public(embedded)
    if address not in _GLOBAL_6 or any(address in network for network in _REFUSED_6):
        return False
    return address.is_global and (int(address) >> 32) & 0xFFFFFFFF not in _ISATAP


def may_connect(host: str, address: Address, policy: ImagePolicy) -> bool:
    """Tell whether to connect to an address that a host name stood for, or that was written out."""
    if host in policy.hosts:
        return True
    meant = (isinstance(address, IPv6Address) and _behind_nat64(address)) or address
    return is_public(address) or any(one in network for one in {address, meant} for network in policy.networks)


def _behind_nat64(address: IPv6Address) -> IPv4Address | None:
    # Networks without IPv4 reach all of it through this prefix, so it is judged by what is behind.
    return IPv4Address(int(address) & 0xFFFFFFFF) if address in _NAT64 else None
