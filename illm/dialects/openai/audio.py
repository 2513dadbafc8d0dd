"""`POST /v1/audio/transcriptions` and `.../translations`: the request, as a form or as JSON with the audio in base64.

Both forms give the same `Transcribe`: its `fields` have the types that the JSON form has, whichever form was used.
"""

import re
from binascii import Error as Base64Error
from binascii import a2b_base64
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from illm.core.requests import Transcribe
from illm.dialects.openai.json_body import convert, invalid
from illm.dialects.openai.sampling import Name
from illm.errors import GatewayError, Kind

MAX_AUDIO = 25 * 1024 * 1024
"""Bytes; OpenAI's limit."""

DEFAULT_FILENAME = "upload"

_DATA_URL = re.compile(r"data:[^,]*;base64,", re.IGNORECASE)


class TranscriptionWire(Struct, kw_only=True):
    """The fields whose types matter; the rest of a form (`include[]`, `chunking_strategy`...) goes along as it is."""

    audio_base64: Annotated[str, Meta(min_length=1)] | None = None
    filename: Name | None = None
    model: Name | None = None
    framework: Name | None = None
    language: Annotated[str, Meta(min_length=1, max_length=64)] | None = None
    prompt: str | None = None
    response_format: Literal["json", "text", "srt", "verbose_json", "vtt", "diarized_json"] = "json"
    temperature: Annotated[float, Meta(ge=0, le=1)] | None = None
    stream: bool = False
    timestamp_granularities: list[Literal["word", "segment"]] | None = None


_OWN = frozenset({"audio_base64", "filename", "model", "framework"})
"""Fields that became attributes of the request, and are not repeated in its `fields`."""


def parse_transcription_json(body: dict[str, Any], *, limit: int = MAX_AUDIO, translate: bool = False) -> Transcribe:
    """Parse a transcription request sent as JSON.

    Args:
        body: the decoded JSON object; `audio_base64` is standard padded base64, bare or as a data URL.
        limit: the most bytes that the decoded audio may have.
        translate: whether the text is to be English.

    Raises:
        GatewayError: a field is wrong (`param` names it), or the audio is too large.
    """
    wire = convert(body, TranscriptionWire)
    if wire.audio_base64 is None:
        raise invalid("this field is required", param="audio_base64")
    return _request(wire, body, _decode(wire.audio_base64, limit), wire.filename, translate)


def parse_transcription_form(
    fields: Mapping[str, list[str]],
    file: tuple[str, bytes] | None,
    *,
    limit: int = MAX_AUDIO,
    translate: bool = False,
) -> Transcribe:
    """Parse a transcription request sent as multipart/form-data.

    Args:
        fields: the form's fields, as `FormParser` returns them; names of arrays end in `[]`.
        file: name and content of the part `file`; without one, a field `audio_base64` is looked for.
        limit: the most bytes that the audio may have.
        translate: whether the text is to be English.

    Raises:
        GatewayError: a field is wrong or given twice (`param` names it), or the audio is missing or too large.
    """
    body = {name.removesuffix("[]"): _form_value(name, values) for name, values in fields.items()}
    wire = convert(body, TranscriptionWire)
    if file is not None and wire.audio_base64 is not None:
        raise invalid("give either 'file' or 'audio_base64', not both", param="file")
    if file is not None:
        name, audio = file
        _check_size(len(audio), limit, "file")
        return _request(wire, body, audio, name, translate)
    if wire.audio_base64 is None:
        raise invalid("this field is required", param="file")
    return _request(wire, body, _decode(wire.audio_base64, limit), wire.filename, translate)


def _request(
    wire: TranscriptionWire, body: Mapping[str, Any], audio: bytes, filename: str | None, translate: bool
) -> Transcribe:
    if not audio:
        raise invalid("the audio is empty", param="file" if wire.audio_base64 is None else "audio_base64")
    return Transcribe(
        audio=audio,
        filename=filename or DEFAULT_FILENAME,
        model=wire.model,
        framework=wire.framework,
        fields={name: value for name, value in body.items() if value is not None and name not in _OWN},
        translate=translate,
    )


def _form_value(name: str, values: list[str]) -> object:
    if name.endswith("[]"):
        return values
    if len(values) != 1:
        raise invalid("given more than once", param=name)
    return _FORM_TYPES.get(name, _as_text)(values[0])


def _as_text(text: str) -> object:
    return text


def _as_number(text: str) -> object:
    try:
        return float(text)
    except ValueError:
        return text  # the structure says what is wrong with it


def _as_flag(text: str) -> object:
    return {"true": True, "false": False, "1": True, "0": False}.get(text.lower(), text)


_FORM_TYPES = {"temperature": _as_number, "stream": _as_flag}
"""A form has only text; these fields have another type in JSON."""


def _decode(text: str, limit: int) -> bytes:
    prefix = _DATA_URL.match(text[:256])
    if prefix:
        text = text[prefix.end() :]
    # Four letters are three bytes: an oversized body is refused before it is decoded into a second copy.
    _check_size(len(text) // 4 * 3 - 2, limit, "audio_base64")
    try:
        if len(text) % 4 or text.endswith("==="):  # some versions of Python let superfluous padding pass
            raise ValueError
        audio = a2b_base64(text, strict_mode=True)
    except (Base64Error, ValueError):
        raise invalid("expected standard base64 with padding", param="audio_base64") from None
    _check_size(len(audio), limit, "audio_base64")
    return audio


def _check_size(size: int, limit: int, param: str) -> None:
    if size > limit:
        raise GatewayError(Kind.TOO_LARGE, f"The audio is larger than {limit} bytes.", param=param)
