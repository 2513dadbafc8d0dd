"""The tokens by which a model's prompts are structured, and keeping clients from writing them."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from illm.errors import GatewayError, Kind


def special_tokens(tokenizer: Any) -> dict[str, int]:
    """Return a tokenizer's special tokens and their ids: those that decoding leaves out."""
    added: Mapping[int, Any] = tokenizer.added_tokens_decoder
    special = {token.content: number for number, token in added.items() if token.special}
    return special | dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True))


def control_tokens(tokenizer: Any, template: str) -> re.Pattern[str] | None:
    """Return what matches a control token: a special one, or an added one that the chat template writes."""
    added = [token.content for token in tokenizer.added_tokens_decoder.values() if token.content in template]
    tokens = {token for token in (*added, *special_tokens(tokenizer)) if token and not token.isspace()}
    return re.compile("|".join(map(re.escape, sorted(tokens)))) if tokens else None


def refuse_control_keys(value: object, control: re.Pattern[str] | None, param: str) -> None:
    """Refuse keys of objects that contain a control token: values are made harmless when they are tokenised, keys not.

    Raises:
        GatewayError: `INVALID_REQUEST`, naming `param`.
    """
    if control is None or not value:
        return
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if control.search(str(key)):
                raise GatewayError(
                    Kind.INVALID_REQUEST,
                    f"{param}: the key {str(key)[:64]!r} contains a control token of this model",
                    param=param,
                )
            refuse_control_keys(inner, control, param)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for inner in value:
            refuse_control_keys(inner, control, param)
