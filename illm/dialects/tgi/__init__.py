"""TGI's own protocol, for clients that speak it: requests from JSON, answers to JSON and server-sent events.

Pure functions and sans-IO objects.  The behaviour is that of TGI 3.3 as `huggingface_hub` and `text-generation` see it.
"""

from illm.dialects.tgi.answer import TokenCounts, generated_body
from illm.dialects.tgi.errors import error_body, error_frame, error_status
from illm.dialects.tgi.info import info_body
from illm.dialects.tgi.requests import MAX_BEST_OF, Generation, parse_generation, with_default_limit
from illm.dialects.tgi.stream import GenerationStream

__all__ = [
    "MAX_BEST_OF",
    "Generation",
    "GenerationStream",
    "TokenCounts",
    "error_body",
    "error_frame",
    "error_status",
    "generated_body",
    "info_body",
    "parse_generation",
    "with_default_limit",
]
