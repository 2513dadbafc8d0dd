"""multipart/form-data, sans-IO: feed bytes as they arrive, get fields and at most one file at the end.

python-multipart finds the boundaries; this class gives its callbacks a bounded place to put what it finds.  Every
count and size is limited while reading, because a form is read before anything is known about who sends it.
"""

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from illm.dialects.openai.audio import DEFAULT_FILENAME, MAX_AUDIO
from illm.errors import GatewayError, Kind

MAX_PARTS = 128
MAX_PART_HEADERS = 8
MAX_HEADER_SIZE = 4096
"""Bytes of one part's headers, names and values together."""

MAX_FIELD = 64 * 1024
"""Bytes of one field."""


class FormParser:
    """One form.

    A part is the file if it is called `file` or has a file name.  A field called `audio_base64` may be as large as
    the file in base64.

    Args:
        content_type: the request's header, boundary included.
        max_file: bytes of the file.

    Raises:
        GatewayError: `MEDIA_TYPE` where it is no multipart/form-data, `INVALID_REQUEST` where the boundary is missing.
    """

    def __init__(self, content_type: str | bytes, *, max_file: int = MAX_AUDIO) -> None:
        media_type, options = parse_options_header(content_type)
        if media_type != b"multipart/form-data":
            raise GatewayError(Kind.MEDIA_TYPE, "The content type must be multipart/form-data.")
        boundary = options.get(b"boundary", b"")
        if not 1 <= len(boundary) <= 70:  # RFC 2046, 5.1.1
            raise GatewayError(Kind.INVALID_REQUEST, "The content type has no usable boundary.")
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin_part,
                "on_header_field": self._header_name,
                "on_header_value": self._header_value,
                "on_header_end": self._end_header,
                "on_headers_finished": self._end_headers,
                "on_part_data": self._part_data,
                "on_part_end": self._end_part,
                "on_end": self._end,
            },
        )
        self._limits = {"audio_base64": max_file // 3 * 4 + 512}
        self._max_file = max_file
        self._fields: dict[str, list[str]] = {}
        self._file: tuple[str, bytes] | None = None
        self._parts = 0
        self._complete = False
        self._begin_headers()

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the body.

        Raises:
            GatewayError: `INVALID_REQUEST` where the form is malformed, `TOO_LARGE` where a limit is passed.
        """
        try:
            self._parser.write(data)
        except FormParserError:
            raise GatewayError(Kind.INVALID_REQUEST, "The form is not valid multipart/form-data.") from None

    def close(self) -> tuple[dict[str, list[str]], tuple[str, bytes] | None]:
        """Say that the body has ended.

        Returns:
            The fields, each with its values in order, and the file's name and content.

        Raises:
            GatewayError: `INVALID_REQUEST` where the closing boundary never came.
        """
        if not self._complete:
            raise GatewayError(Kind.INVALID_REQUEST, "The form ends before its closing boundary.")
        return self._fields, self._file

    def _begin_part(self) -> None:
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise GatewayError(Kind.TOO_LARGE, f"The form has more than {MAX_PARTS} parts.")
        self._begin_headers()

    def _begin_headers(self) -> None:
        self._headers: dict[bytes, bytes] = {}
        self._header_count = 0
        self._header_size = 0
        self._name = bytearray()
        self._value = bytearray()

    def _header_name(self, data: bytes, start: int, end: int) -> None:
        self._count_header_bytes(end - start)
        self._name += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._count_header_bytes(end - start)
        self._value += data[start:end]

    def _count_header_bytes(self, size: int) -> None:
        self._header_size += size
        if self._header_size > MAX_HEADER_SIZE:
            raise GatewayError(Kind.INVALID_REQUEST, "A part of the form has too large headers.")

    def _end_header(self) -> None:
        self._header_count += 1
        if self._header_count > MAX_PART_HEADERS:
            raise GatewayError(Kind.INVALID_REQUEST, "A part of the form has too many headers.")
        self._headers[bytes(self._name).lower()] = bytes(self._value)
        self._name.clear()
        self._value.clear()

    def _end_headers(self) -> None:
        disposition, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        name = options.get(b"name", b"")
        if disposition != b"form-data" or not name:
            raise GatewayError(Kind.INVALID_REQUEST, "A part of the form has no name.")
        self._part = _text(name, "name")
        filename = options.get(b"filename")
        self._is_file = filename is not None or self._part == "file"
        self._filename = _text(filename or b"", "filename") or DEFAULT_FILENAME
        self._limit = self._max_file if self._is_file else self._limits.get(self._part, MAX_FIELD)
        self._content = bytearray()
        if self._is_file and self._part != "file":
            raise GatewayError(Kind.INVALID_REQUEST, "The file must be in the part 'file'.", param=self._part[:100])
        if self._is_file and self._file is not None:
            raise GatewayError(Kind.INVALID_REQUEST, "The form has more than one file.", param="file")

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if len(self._content) + end - start > self._limit:
            raise GatewayError(
                Kind.TOO_LARGE, f"'{self._part[:100]}' is larger than {self._limit} bytes.", param=self._part[:100]
            )
        self._content += data[start:end]

    def _end_part(self) -> None:
        if self._is_file:
            self._file = (self._filename, bytes(self._content))
        else:
            self._fields.setdefault(self._part, []).append(_text(self._content, self._part))
        self._content = bytearray()

    def _end(self) -> None:
        self._complete = True


def _text(raw: bytes | bytearray, param: str) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise GatewayError(Kind.INVALID_REQUEST, "A field of the form is not valid UTF-8.", param=param[:100]) from None
