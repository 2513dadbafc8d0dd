"""Images and sounds as Ollama takes them: standard base64, no `data:` in front, never an address.

Ollama looks at neither their encoding nor their kind before the model's runner chokes on them, so we look here.
"""

import re
from binascii import Error, a2b_base64, b2a_base64
from urllib.parse import unquote_to_bytes

from illm.core.requests import Audio, Image
from illm.errors import GatewayError, Kind

MAGIC = re.compile(rb"\x89PNG\r\n\x1a\n|\xff\xd8\xff|GIF8[79]a|RIFF....WEBP", re.DOTALL)
"""How PNG, JPEG, GIF and WebP begin; nothing else is an image, whatever its media type says."""

_DATA_URL = re.compile(r"data:[^,]{0,256},", re.IGNORECASE)
_URL_SAFE = str.maketrans("-_", "+/")
_BLANKS = re.compile(r"\s+")


def image_base64(image: Image, where: str) -> str:
    """Return an image as base64.

    Args:
        image: a data URL or bare base64 in any alphabet, padded or not; addresses have been fetched before.
        where: the request field, for errors.

    Raises:
        GatewayError: it is still an address, is no base64, or no image.
    """
    data = _from_data_url(image.url or "", where) if image.base64 is None else _decoded(image.base64, where)
    if not MAGIC.match(data):
        raise _invalid("expected a PNG, JPEG, GIF or WebP image", where)
    return _encoded(data)


def audio_base64(audio: Audio, where: str) -> str:
    """Return a sound as base64.  Raises as `image_base64`, but looks no further into it."""
    return _encoded(_decoded(audio.base64, where))


def _from_data_url(url: str, where: str) -> bytes:
    head = _DATA_URL.match(url)
    if head is None:
        raise _invalid("an address that was not fetched; send the image as a data URL", where)
    text = url[head.end() :]
    if head[0].lower().endswith(";base64,"):
        return _decoded(text, where)
    return unquote_to_bytes(text)


def _decoded(text: str, where: str) -> bytes:
    plain = _BLANKS.sub("", text).translate(_URL_SAFE).rstrip("=")
    try:
        data = a2b_base64(plain + "=" * (-len(plain) % 4), strict_mode=True)
    except (Error, ValueError):  # the latter for what is not ASCII
        raise _invalid("expected base64", where) from None
    if not data:
        raise _invalid("must not be empty", where)
    return data


def _encoded(data: bytes) -> str:
    return b2a_base64(data, newline=False).decode()


def _invalid(what: str, where: str) -> GatewayError:
    return GatewayError(Kind.INVALID_REQUEST, f"{where}: {what}", param=where)
