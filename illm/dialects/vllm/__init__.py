"""What vLLM serves beside OpenAI's routes: `/v1/rerank`, `/tokenize` and `/detokenize`, in its shapes.

Pure functions.  Errors and embeddings are OpenAI's, here as there.
"""

from illm.dialects.vllm.rerank import MAX_DOCUMENTS, parse_rerank, rerank_body
from illm.dialects.vllm.tokens import MAX_TOKENS, detokenized_body, parse_detokenize, parse_tokenize, tokenized_body

__all__ = [
    "MAX_DOCUMENTS",
    "MAX_TOKENS",
    "detokenized_body",
    "parse_detokenize",
    "parse_rerank",
    "parse_tokenize",
    "rerank_body",
    "tokenized_body",
]
