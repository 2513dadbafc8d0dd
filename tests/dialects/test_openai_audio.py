"""Transcription requests: JSON, forms, and forms as they come off the wire in pieces."""

import base64
from itertools import pairwise

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from illm.dialects.openai import FormParser, parse_transcription_form, parse_transcription_json
from illm.dialects.openai.multipart import MAX_FIELD, MAX_HEADER_SIZE, MAX_PART_HEADERS, MAX_PARTS
from illm.errors import GatewayError, Kind

AUDIO = bytes(range(256)) + b"\r\n--\r\n"
TEXT = base64.b64encode(AUDIO).decode()


@pytest.mark.parametrize(
    "text", [TEXT, f"data:audio/wav;base64,{TEXT}", f"DATA:;BASE64,{TEXT}", f"data:a/b;codecs=x;base64,{TEXT}"]
)
def test_json_audio(text):
    body = {"audio_base64": text, "model": "m", "framework": "f", "language": "de", "stream": None, "temperature": 0}
    request = parse_transcription_json(body)
    assert (request.audio, request.model, request.framework, request.filename) == (AUDIO, "m", "f", "upload")
    assert request.fields == {"language": "de", "temperature": 0}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "audio_base64"),
        ({"audio_base64": None}, "audio_base64"),
        ({"audio_base64": ""}, "audio_base64"),
        ({"audio_base64": 3}, "audio_base64"),
        ({"audio_base64": "data:audio/wav;base64,"}, "audio_base64"),
        ({"audio_base64": "A"}, "audio_base64"),
        ({"audio_base64": "AAA"}, "audio_base64"),
        ({"audio_base64": "AAAA="}, "audio_base64"),
        ({"audio_base64": "AAAA===="}, "audio_base64"),
        ({"audio_base64": "A==="}, "audio_base64"),
        ({"audio_base64": "AA==AAAA"}, "audio_base64"),
        ({"audio_base64": "AA AA"}, "audio_base64"),
        ({"audio_base64": "AA\nAA"}, "audio_base64"),
        ({"audio_base64": "AA-_"}, "audio_base64"),
        ({"audio_base64": "ÄÄÄÄ"}, "audio_base64"),
        ({"audio_base64": TEXT, "temperature": 2}, "temperature"),
        ({"audio_base64": TEXT, "response_format": "xml"}, "response_format"),
        ({"audio_base64": TEXT, "stream": "true"}, "stream"),
        ({"audio_base64": TEXT, "timestamp_granularities": ["hour"]}, "timestamp_granularities[0]"),
    ],
)
def test_bad_json_audio(body, param):
    refused(Kind.INVALID_REQUEST, param, parse_transcription_json, body)


def test_audio_has_a_limit():
    assert parse_transcription_json({"audio_base64": TEXT}, limit=len(AUDIO)).audio == AUDIO
    refused(Kind.TOO_LARGE, "audio_base64", parse_transcription_json, {"audio_base64": TEXT}, limit=len(AUDIO) - 1)
    assert parse_transcription_form({}, ("a", AUDIO), limit=len(AUDIO)).audio == AUDIO
    refused(Kind.TOO_LARGE, "file", parse_transcription_form, {}, ("a", AUDIO), limit=len(AUDIO) - 1)


def test_a_form_gets_the_types_of_json():
    fields = {"model": ["m"], "temperature": ["0.5"], "stream": ["TRUE"], "timestamp_granularities[]": ["word"]}
    request = parse_transcription_form({**fields, "include[]": ["logprobs"]}, ("a.wav", AUDIO))
    assert (request.audio, request.filename, request.model) == (AUDIO, "a.wav", "m")
    assert request.fields == {
        "temperature": 0.5,
        "stream": True,
        "timestamp_granularities": ["word"],
        "include": ["logprobs"],
    }


def test_a_form_may_carry_base64_instead():
    assert parse_transcription_form({"audio_base64": [TEXT], "filename": ["x.mp3"]}, None).filename == "x.mp3"


@pytest.mark.parametrize(
    ("fields", "file", "param"),
    [
        ({}, None, "file"),
        ({}, ("a.wav", b""), "file"),
        ({"audio_base64": [TEXT]}, ("a.wav", AUDIO), "file"),
        ({"model": ["a", "b"]}, ("a.wav", AUDIO), "model"),
        ({"temperature": ["hot"]}, ("a.wav", AUDIO), "temperature"),
        ({"temperature": ["nan"]}, ("a.wav", AUDIO), "temperature"),
        ({"temperature": ["1.1"]}, ("a.wav", AUDIO), "temperature"),
        ({"stream": ["maybe"]}, ("a.wav", AUDIO), "stream"),
        ({"response_format": [""]}, ("a.wav", AUDIO), "response_format"),
    ],
)
def test_bad_forms(fields, file, param):
    refused(Kind.INVALID_REQUEST, param, parse_transcription_form, fields, file)


def by_httpx(data, files):
    request = httpx.Request("POST", "http://x/", data=data, files=files)
    return request.headers["content-type"], request.read()


REAL = by_httpx(
    {"model": "wähl", "prompt": "a\r\nb", "timestamp_granularities[]": ["word", "segment"], "empty": ""},
    {"file": ('ton;"auf".wav', AUDIO, "audio/wav")},
)


def parse(content_type, pieces, **limits):
    parser = FormParser(content_type, **limits)
    for piece in pieces:
        parser.feed(piece)
    return parser.close()


@pytest.fixture(scope="module")
def expected():
    content_type, body = REAL
    fields, file = parse(content_type, [body])
    assert fields == {
        "model": ["wähl"],
        "prompt": ["a\r\nb"],
        "timestamp_granularities[]": ["word", "segment"],
        "empty": [""],
    }
    assert file[1] == AUDIO
    return fields, file


def test_a_real_form_at_every_cut(expected):
    content_type, body = REAL
    for cut in range(len(body) + 1):
        assert parse(content_type, [body[:cut], body[cut:]]) == expected
    assert parse(content_type.encode(), [body[at : at + 1] for at in range(len(body))]) == expected


@settings(deadline=None, max_examples=60)
@given(
    st.dictionaries(st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1), st.text(), max_size=4),
    st.binary(min_size=1, max_size=200),
    st.lists(st.integers(0, 800), max_size=6),
)
def test_any_form_at_any_cuts(fields, content, cuts):
    fields.pop("file", None)
    content_type, body = by_httpx(fields, {"file": ("a.wav", content)})
    edges = [0, *sorted(min(cut, len(body)) for cut in cuts), len(body)]
    pieces = [body[start:end] for start, end in pairwise(edges)]
    assert parse(content_type, pieces) == ({name: [value] for name, value in fields.items()}, ("a.wav", content))


@settings(deadline=None, max_examples=200)
@given(st.integers(0, len(REAL[1])), st.integers(0, len(REAL[1])), st.binary(max_size=8))
def test_a_damaged_form_is_an_error_or_a_form(start, end, junk):
    content_type, body = REAL
    error = error_of(parse, content_type, [body[:start], junk, body[end:]])
    assert error is None or error.kind.value.status in (400, 413)


@pytest.mark.parametrize(
    ("content_type", "kind"),
    [
        ("application/json", Kind.MEDIA_TYPE),
        ("", Kind.MEDIA_TYPE),
        ("multipart/mixed; boundary=x", Kind.MEDIA_TYPE),
        ("multipart/form-data", Kind.INVALID_REQUEST),
        ("multipart/form-data; boundary=", Kind.INVALID_REQUEST),
        (f"multipart/form-data; boundary={'x' * 71}", Kind.INVALID_REQUEST),
    ],
)
def test_a_content_type_that_is_no_form(content_type, kind):
    refused(kind, None, FormParser, content_type)


FORM = "multipart/form-data; boundary=B"


def part(headers, content=b"x"):
    return b"--B\r\n" + headers + b"\r\n\r\n" + content + b"\r\n"


def named(name, content=b"x"):
    return part(b'Content-Disposition: form-data; name="%s"' % name, content)


FILE = part(b'Content-Disposition: form-data; name="file"; filename="a"')
END = b"--B--\r\n"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"hello",
        END[:-4],
        named(b"a"),
        named(b"a") + b"--B",
        b"--C--\r\n",
        b"--B\r\nno colon\r\n\r\nx\r\n" + END,
        part(b"Content-Type: text/plain") + END,
        part(b"Content-Disposition: form-data") + END,
        part(b'Content-Disposition: attachment; name="a"') + END,
        part(b'Content-Disposition: form-data; name="sound"; filename="a.wav"') + END,
        FILE + FILE + END,
        named(b"a", b"\xff") + END,
        part(b"X: y\r\n" * MAX_PART_HEADERS + b'Content-Disposition: form-data; name="a"'),
        part(b"X: %s" % (b"y" * MAX_HEADER_SIZE)),
        part(b"%s: y" % (b"X" * MAX_HEADER_SIZE)),
        part(b"%s: y\r\n%s: y" % (b"X" * 2500, b"Y" * 2500)),
    ],
)
def test_a_malformed_form(body):
    with pytest.raises(GatewayError) as caught:
        parse(FORM, [body])
    assert caught.value.kind is Kind.INVALID_REQUEST


@pytest.mark.parametrize(
    "body",
    [
        named(b"a") * (MAX_PARTS + 1),
        named(b"a", b"x" * (MAX_FIELD + 1)),
        named(b"file", b"x" * 11),
        named(b"audio_base64", b"x" * 600),
    ],
)
def test_limits_hold_while_reading(body):
    refused(Kind.TOO_LARGE, ..., parse, FORM, [body], max_file=10)


def test_a_file_without_a_name_and_an_epilogue_are_fine():
    assert parse(FORM, [named(b"file"), END, b"the end"]) == ({}, ("upload", b"x"))


def refused(kind, param, act, *args, **options):
    with pytest.raises(GatewayError) as caught:
        act(*args, **options)
    assert caught.value.kind is kind
    assert param is ... or caught.value.param == param


def error_of(act, *args):
    """Return the gateway's error, or `None`; anything else that is raised fails the test."""
    try:
        act(*args)
    except GatewayError as error:
        return error
    return None
