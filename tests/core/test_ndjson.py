"""The NDJSON decoder does not care where the bytes were cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from illm.core.ndjson import NDJSONDecoder
from illm.errors import GatewayError, Kind

WIRE = '{"a":1}\n{"text":"né😀"}\r\n\n  \n{"last":true}'.encode()
LINES = [b'{"a":1}', '{"text":"né😀"}'.encode(), b'{"last":true}']


def decode(*pieces: bytes, limit: int = 1 << 20) -> list[bytes]:
    decoder = NDJSONDecoder(limit)
    return [line for piece in pieces for line in decoder.feed(piece)] + decoder.close()


@pytest.mark.parametrize("cut", range(len(WIRE) + 1))
def test_every_cut_gives_the_same_lines(cut):
    assert decode(WIRE[:cut], WIRE[cut:]) == LINES


def test_single_bytes_give_the_same_lines():
    assert decode(*(WIRE[at : at + 1] for at in range(len(WIRE)))) == LINES


@given(st.lists(st.binary(max_size=20)))
def test_cutting_never_changes_the_lines(pieces):
    assert decode(*pieces) == decode(b"".join(pieces))


def test_a_line_leaves_as_soon_as_it_is_whole():
    decoder = NDJSONDecoder()
    assert decoder.feed(b'{"a":') == []
    assert decoder.feed(b'1}\n{"b"') == [b'{"a":1}']
    assert decoder.close() == [b'{"b"']
    assert decoder.close() == []


@pytest.mark.parametrize("pieces", [(b"12345",), (b"123", b"45"), (b"12345\n",), (b"123", b"45\n"), (b"1\n12345",)])
def test_a_line_beyond_the_limit_is_an_error(pieces):
    with pytest.raises(GatewayError) as caught:
        decode(*pieces, limit=4)
    assert caught.value.kind is Kind.UPSTREAM


def test_the_limit_is_a_line_s_and_not_the_stream_s():
    assert decode(b"1234\n1234\n1234", limit=4) == [b"1234"] * 3
