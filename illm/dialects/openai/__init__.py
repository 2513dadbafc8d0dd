"""The OpenAI dialect: requests from JSON and forms, answers to JSON and server-sent events.

Pure functions and sans-IO objects.  The behaviour is that of OpenAI's service as its official Python client (3.54)
sees it; where clients in the wild are looser, so is this.
"""

from illm.dialects.openai.audio import MAX_AUDIO, parse_transcription_form, parse_transcription_json
from illm.dialects.openai.chat import parse_chat, read_chat
from illm.dialects.openai.completions import DEFAULT_MAX_TOKENS, parse_completion
from illm.dialects.openai.embeddings import embeddings_body, parse_embeddings
from illm.dialects.openai.encoder import Encoder
from illm.dialects.openai.encoders import chat_encoder, completion_encoder
from illm.dialects.openai.errors import error_body, error_headers
from illm.dialects.openai.json_body import decode_body
from illm.dialects.openai.models import model_body, models_body
from illm.dialects.openai.multipart import FormParser
from illm.dialects.openai.parameters import (
    CHAT_FIELDS,
    COMPLETION_FIELDS,
    DETOKENIZE_FIELDS,
    EMBEDDING_FIELDS,
    RERANK_FIELDS,
    TOKENIZE_FIELDS,
    unsupported,
)
from illm.dialects.openai.transcripts import transcription_encoder

__all__ = [
    "CHAT_FIELDS",
    "COMPLETION_FIELDS",
    "DEFAULT_MAX_TOKENS",
    "DETOKENIZE_FIELDS",
    "EMBEDDING_FIELDS",
    "MAX_AUDIO",
    "RERANK_FIELDS",
    "TOKENIZE_FIELDS",
    "Encoder",
    "FormParser",
    "chat_encoder",
    "completion_encoder",
    "decode_body",
    "embeddings_body",
    "error_body",
    "error_headers",
    "model_body",
    "models_body",
    "parse_chat",
    "parse_completion",
    "parse_embeddings",
    "parse_transcription_form",
    "parse_transcription_json",
    "read_chat",
    "transcription_encoder",
    "unsupported",
]
