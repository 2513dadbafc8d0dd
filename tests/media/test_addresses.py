"""Which addresses are public: one row for each kind that is not."""

import ipaddress
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from illm.media.addresses import is_public, may_connect, read_address
from illm.media.policy import ImagePolicy, read_hosts

REFUSED = {
    "0.0.0.0": "this network",
    "0.1.2.3": "this network",
    "10.0.0.1": "private",
    "100.64.0.1": "carrier-grade NAT",
    "100.100.100.200": "Alibaba's metadata",
    "127.0.0.1": "loopback",
    "127.255.255.254": "loopback",
    "168.63.129.16": "Azure's host",
    "169.254.169.254": "metadata of most clouds",
    "172.16.0.1": "private",
    "172.31.255.255": "private",
    "192.0.0.9": "protocol assignment, called global",
    "192.0.0.192": "Oracle's metadata",
    "192.0.2.1": "documentation",
    "192.88.99.1": "6to4 relay",
    "192.168.1.1": "private",
    "198.18.0.1": "benchmarks",
    "198.51.100.1": "documentation",
    "203.0.113.1": "documentation",
    "224.0.0.1": "multicast, called global",
    "239.255.255.250": "multicast",
    "240.0.0.1": "reserved",
    "255.255.255.255": "broadcast",
    "::": "unspecified",
    "::1": "loopback",
    "::127.0.0.1": "IPv4-compatible",
    "::8.8.8.8": "IPv4-compatible",
    "::ffff:127.0.0.1": "mapped loopback",
    "::ffff:10.0.0.1": "mapped private",
    "::ffff:169.254.169.254": "mapped metadata",
    "::ffff:0:127.0.0.1": "translated (SIIT)",
    "64:ff9b::127.0.0.1": "NAT64 of loopback",
    "64:ff9b::10.0.0.1": "NAT64 of private",
    "64:ff9b:1::1": "local NAT64",
    "100::1": "discard",
    "2001::1": "Teredo",
    "2001:1::1": "protocol assignment",
    "2001:10::1": "ORCHID",
    "2001:20::1": "ORCHIDv2",
    "2001:db8::1": "documentation",
    "2002:7f00:1::": "6to4 of loopback",
    "2002:808:808::1": "6to4 of a public one",
    "2600::5efe:127.0.0.1": "ISATAP of loopback",
    "2600::200:5efe:10.0.0.1": "ISATAP of private",
    "3fff::1": "documentation",
    "5f00::1": "segment routing",
    "fc00::1": "unique local",
    "fd00:ec2::254": "Amazon's metadata",
    "fe80::1": "link-local",
    "fec0::1": "site-local, called global",
    "ff02::1": "multicast",
    "ff0e::1": "multicast, global scope",
}
PUBLIC = ["8.8.8.8", "93.184.216.34", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8", "2606:4700::1111", "2a00:1450::200e"]


@pytest.mark.parametrize("text", REFUSED)
def test_refused(text):
    address = read_address(text)
    assert not is_public(address)
    assert not may_connect("name.example", address, ImagePolicy())


@pytest.mark.parametrize("text", PUBLIC)
def test_public(text):
    assert may_connect("name.example", read_address(text), ImagePolicy())


@pytest.mark.parametrize(
    "text", ["fe80::1%eth0", "2606:4700::1111%eth0", "::ffff:8.8.8.8%1", "127.1", "", "x", "08.8.8.8"]
)
def test_what_is_no_plain_address(text):
    assert read_address(text) is None


@given(st.ip_addresses(v=4))
def test_an_address_is_judged_alike_however_it_is_carried(address):
    mapped = ip_address(f"::ffff:{address}")
    behind = ip_address(f"64:ff9b::{address}")
    assert is_public(read_address(str(mapped))) == is_public(read_address(str(behind))) == is_public(address)


@given(st.ip_addresses())
def test_never_more_than_python_calls_global(address):
    plain = read_address(str(address))
    assert not is_public(plain) or plain.is_global or plain in ipaddress.IPv6Network("64:ff9b::/96")


def policy(*entries: str) -> ImagePolicy:
    hosts, networks = read_hosts(entries)
    return ImagePolicy(hosts=hosts, networks=networks)


@pytest.mark.parametrize(
    ("entry", "host", "address", "allowed"),
    [
        ("10.1.0.0/16", "x", "10.1.2.3", True),
        ("10.1.0.0/16", "x", "::ffff:10.1.2.3", True),
        ("10.1.0.0/16", "x", "64:ff9b::10.1.2.3", True),
        ("10.1.0.0/16", "x", "10.2.0.1", False),
        ("127.0.0.1", "x", "127.0.0.1", True),
        ("127.0.0.1", "x", "127.0.0.2", False),
        ("fd00::/8", "x", "fd12::1", True),
        ("fd00::/8", "x", "fe80::1", False),
        ("Images.Internal.", "images.internal", "10.0.0.1", True),
        ("images.internal", "evil.images.internal", "10.0.0.1", False),
        ("images.internal", "xinternal", "10.0.0.1", False),
    ],
)
def test_what_the_operator_allows(entry, host, address, allowed):
    assert may_connect(host, read_address(address), policy(entry)) is allowed


@pytest.mark.parametrize(
    "entry", ["10.0.0.0/33", "10.0.0.1/8", "10.0.0", "http://x", "x:80", "*.x", "a b", "a@b", "ü.example"]
)
def test_what_the_operator_cannot_mean(entry):
    with pytest.raises(ValueError, match="must be a network, an address or a host name"):
        read_hosts([entry])
