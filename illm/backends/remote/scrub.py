"""What an upstream says, made fit for a client's eyes: its words stay, its keys, addresses and file names go.

Servers quote stack frames, weights' directories and the request itself in their errors.  None of that helps a client,
and some of it maps the operator's network.
"""

import re

MAX_MESSAGE = 1000

_STACK = re.compile(r"\n+\s*(?:Traceback \(most recent call last\)|File \").*", re.DOTALL)

# A validation library's dump: `{'type': ..., 'loc': ..., 'msg': ..., 'input': <what the client sent>}`.
_COMPLAINT = re.compile(
    r"'loc': (?P<loc>[(\[](?:'[^']*'|[\d, ])*[)\]]|'[^']*'),\s*'msg': (?P<quote>['\"])(?P<msg>.*?)(?P=quote)(?=,|\}|$)",
    re.DOTALL,
)
_COUNT = re.compile(r"^\d+ validation errors?:\s*")
_SEGMENT = re.compile(r"'([\w-]+(?:\.[\w-]+)*)'|\b(\d+)\b")

_SECRETS = (
    (re.compile(r"data:[\w./+-]*(?:;[\w=.+-]+)*,[\w+/=%-]*", re.IGNORECASE), "[data]"),
    (re.compile(r"\bbearer\s+[^\s'\",;]+", re.IGNORECASE), "[key]"),
    (
        re.compile(r"\b(?:api[_-]?key|token|password|secret)(['\"]?\s*[=:]\s*['\"]?)[^\s'\",;&}]{6,}", re.IGNORECASE),
        "[key]",
    ),
    (re.compile(r"\b(?:sk|pk|hf|api)[-_][A-Za-z0-9_-]{8,}"), "[key]"),
    (re.compile(r"\b[a-z][a-z0-9+.-]*://[^\s'\"<>)\]]+", re.IGNORECASE), "[address]"),
    (re.compile(r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?(?![\w.]*\d)"), "[address]"),
    (
        re.compile(r"\[?(?<![\w:])(?:[0-9a-f]{0,4}:){2,7}:?[0-9a-f]{0,4}(?![\w:])\]?(?::\d+)?", re.IGNORECASE),
        "[address]",
    ),
    (re.compile(r"\b[\w-]+(?:\.[\w-]+)+:\d{2,5}\b"), "[address]"),
    (
        re.compile(r"\b(?:localhost|[\w-]+(?:\.[\w-]+)*\.(?:local|internal|lan|svc|cluster|intranet|corp))\b(?::\d+)?"),
        "[address]",
    ),
    (re.compile(r"\bhost=(['\"])[^'\"]*\1(?:,\s*port=\d+)?"), "[address]"),
    (re.compile(r"(?<![\w.:/])~?/{1,2}[\w.@+~-]+(?:/[\w.@+~-]+)+/?(?::\d+)*"), "[path]"),
    (re.compile(r"\b[A-Za-z]:\\[^\s'\"]+"), "[path]"),
)
"""In this order: an address may hold what looks like a path, and a path what looks like an address."""


def scrub(text: str) -> str:
    """Return an upstream's message without stack frames, keys, addresses, file names and quoted input.

    It is cut to a bearable length, and empty where nothing is left.
    """
    text = _STACK.sub("", text[: 20 * MAX_MESSAGE])
    complaints = [_complaint(found) for found in _COMPLAINT.finditer(text)]
    if complaints:
        text = "; ".join(dict.fromkeys(complaints))
    text = _COUNT.sub("", text)
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    text = text.strip()
    return text if len(text) <= MAX_MESSAGE else f"{text[:MAX_MESSAGE]}..."


def complained_field(text: str) -> str | None:
    """Return the field that a validation dump's first complaint is about (`messages.0.role`), if it is one."""
    found = _COMPLAINT.search(text)
    return _field(found["loc"]) if found else None


def _complaint(found: re.Match[str]) -> str:
    field = _field(found["loc"])
    return f"{field}: {found['msg']}" if field else found["msg"]


def _field(loc: str) -> str | None:
    # A union's branch or a validator, which is no name, means nothing to a client.
    path = ".".join(name or number for name, number in _SEGMENT.findall(loc))
    if path.partition(".")[0] != "body":
        return None
    path = path.removeprefix("body").removeprefix(".")
    return None if path.isdigit() else path[:100] or None  # a number alone is an offset into the text
