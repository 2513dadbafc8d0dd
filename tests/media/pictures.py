"""Images of any size in few bytes: true headers, and nothing behind them."""

import struct
from base64 import b64encode

from illm.core.requests import Chat
from illm.dialects import openai


def png(width: int = 3, height: int = 2) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + header + bytes(4) + bytes(4) + b"IEND" + bytes(4)


def segment(marker: int, content: bytes) -> bytes:
    return bytes((0xFF, marker)) + struct.pack(">H", len(content) + 2) + content


def frame(width: int, height: int, marker: int = 0xC0) -> bytes:
    return segment(marker, struct.pack(">BHHB", 8, height, width, 1) + b"\x01\x11\x00")


SCAN = segment(0xDA, b"\x01\x01\x00\x00\x3f\x00")


def jpeg(width: int = 3, height: int = 2, *before: bytes, marker: int = 0xC0) -> bytes:
    return b"\xff\xd8" + b"".join(before) + frame(width, height, marker) + SCAN + b"\x00\xff\xd9"


def gif(
    width: int = 3, height: int = 2, *before: bytes, colours: int = 0, at: tuple[int, int, int, int] | None = None
) -> bytes:
    flags = 0x80 | (colours - 1) if colours else 0
    screen = struct.pack("<HHBBB", width, height, flags, 0, 0) + bytes(3 << colours if colours else 0)
    left, top, wide, high = at or (0, 0, width, height)
    return b"GIF89a" + screen + b"".join(before) + b"," + struct.pack("<HHHHB", left, top, wide, high, 0) + b"\x02\x00;"


def riff(kind: bytes, content: bytes) -> bytes:
    content = content.ljust(12, b"\x00")
    chunk = kind + struct.pack("<I", len(content)) + content
    return b"RIFF" + struct.pack("<I", len(chunk) + 4) + b"WEBP" + chunk


def webp_lossy(width: int = 3, height: int = 2) -> bytes:
    return riff(b"VP8 ", b"\x10\x02\x00\x9d\x01\x2a" + struct.pack("<HH", width, height | 0x4000))


def webp_lossless(width: int = 3, height: int = 2) -> bytes:
    return riff(b"VP8L", b"\x2f" + struct.pack("<I", (width - 1) | (height - 1) << 14 | 1 << 28))


def webp_extended(width: int = 3, height: int = 2) -> bytes:
    return riff(b"VP8X", b"\x10\x00\x00\x00" + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little"))


KINDS = {
    "png": (png, "image/png"),
    "jpeg": (jpeg, "image/jpeg"),
    "gif": (gif, "image/gif"),
    "webp-lossy": (webp_lossy, "image/webp"),
    "webp-lossless": (webp_lossless, "image/webp"),
    "webp-extended": (webp_extended, "image/webp"),
}


def data_url(data: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{b64encode(data).decode()}"


def chat(*images: object) -> Chat:
    """A chat with a text and then images: bare strings, OpenAI's objects, or whole parts."""
    parts = [image if isinstance(image, dict) and "type" in image else part(image) for image in images]
    return openai.parse_chat({"messages": [{"role": "user", "content": [{"type": "text", "text": "See:"}, *parts]}]})


def part(image: object) -> dict[str, object]:
    return {"type": "image_url", "image_url": image}
