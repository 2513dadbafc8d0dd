"""What a backend can do, as names a client may be told."""

from enum import StrEnum


class Capability(StrEnum):
    """One thing a backend offers; the values appear in `/healthz` and in 422 answers."""

    CHAT = "chat"
    COMPLETIONS = "completions"
    STREAMING = "streaming"
    EMBEDDINGS = "embeddings"
    RERANK = "rerank"
    TOKENS = "tokens"
    IMAGES = "images"
    AUDIO = "audio"
    TOOLS = "tools"
    JSON_SCHEMA = "json_schema"
    LOGPROBS = "logprobs"
