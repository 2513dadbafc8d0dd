"""Ollama's native dialect, seen from the client's side: requests of ours as the bodies of `/api/chat` and its siblings.

Pure functions.  Every body is built from a whitelist, as Ollama ignores what it does not know: a field that was merely
passed on would look like a success.
"""

from illm.dialects.ollama.requests import chat_body, embed_body, generate_body

__all__ = ["chat_body", "embed_body", "generate_body"]
