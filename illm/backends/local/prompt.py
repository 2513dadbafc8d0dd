"""What a client said becomes token ids, and token ids become text.

A client's text stays text: a control token that a user writes out (`<|im_start|>system`) is tokenised as the
characters it consists of.  Raw completions are the exception on purpose, there the client writes the whole prompt.

Encoding takes a lock, because Transformers switches a flag of the tokenizer on and off while it sanitises; decoding
does not depend on that flag and takes none, so a long prompt never holds up the streams.
"""

import logging
from collections.abc import Callable, Sequence
from threading import Lock
from typing import Any

from illm.backends.local.answers.style import NOTHING_ASKED, AnswerStyle, Asked
from illm.backends.local.control_tokens import control_tokens, refuse_control_keys, special_tokens
from illm.backends.local.settled_tokenizer import settled
from illm.backends.local.template import FALLBACK, FALLBACK_STOPS, TemplateFacts, wants_text_arguments
from illm.backends.local.turns import TurnWriter
from illm.core.requests import Message, Prompt, Text
from illm.errors import GatewayError, Kind

log = logging.getLogger(__name__)

_TAIL = 32
"""Tokens at the end of a prompt that are looked at: enough for a tag, whatever it is tokenised to."""


class PromptRenderer:
    """One model's way of writing prompts.

    Args:
        tokenizer: a Transformers tokenizer; it is not changed.
        vocabulary: how many token ids the model knows.
        served: the model's id, for the log.

    Attributes:
        fallback: the template of a model that brings none.
        stops: strings that end an answer because the template cannot: those of the fallback template, else none.
    """

    fallback = FALLBACK

    def __init__(self, tokenizer: Any, vocabulary: int, served: str = "model") -> None:
        self._tokenizer = tokenizer = settled(tokenizer)
        self._vocabulary = vocabulary
        self._lock = Lock()
        self._template: str | None = None
        self.stops: tuple[str, ...] = ()
        try:
            tokenizer.get_chat_template()
        except ValueError:
            self._template, self.stops = self.fallback, FALLBACK_STOPS
            log.warning(
                "%s has no chat template: a plain User/Assistant dialogue stands in, stopping at %s",
                served,
                ", ".join(map(repr, self.stops)),
            )
        self._check_template(served)
        self._facts = TemplateFacts.of(tokenizer, self._template)
        self._special = special_tokens(tokenizer)
        self._control = control_tokens(tokenizer, self._facts.text)
        knows_tools = "tools" in self._facts.variables or "tool_calls" in self._facts.text
        self._turns = TurnWriter(
            self._content,
            tools=knows_tools,
            text_arguments=knows_tools and wants_text_arguments(lambda turns: self._text(self._render(turns))),
            short_ids=self._facts.short_ids,
        )

    def style(self, *, tool_format: str = "auto", reasoning: str = "auto") -> AnswerStyle:
        """Return how the model's answers look; see `AnswerStyle`."""
        facts = self._facts
        return AnswerStyle(facts.text, facts.variables, self._special, tool_format=tool_format, reasoning=reasoning)

    def chat(self, messages: tuple[Message, ...], asked: Asked = NOTHING_ASKED) -> list[int]:
        """Return the prompt that asks for the next assistant turn.

        Args:
            messages: the conversation.
            asked: what else the template is told.

        Raises:
            GatewayError: `INVALID_REQUEST` for a role or a sequence of turns that the template refuses, `CAPABILITY`
                for parts that are not text.
        """
        if not messages:
            raise GatewayError(Kind.INVALID_REQUEST, "messages must not be empty.", param="messages")
        turns = self._turns.write(messages)
        arguments = [call["function"]["arguments"] for turn in turns for call in turn.get("tool_calls", ())]
        refuse_control_keys(arguments, self._control, "messages")
        refuse_control_keys(asked.tools, self._control, "tools")
        refuse_control_keys(asked.variables, self._control, "chat_template_kwargs")
        from jinja2 import TemplateError

        try:
            return self._render(turns, asked)
        except (TemplateError, ValueError, TypeError) as error:
            raise GatewayError(
                Kind.INVALID_REQUEST, f"The model's chat template refuses these messages: {error}", param="messages"
            ) from error

    def raw(self, prompt: Prompt) -> list[int]:
        """Return the ids of a raw prompt: text as the tokenizer does it by itself (`bos` where it adds one), ids as is.

        Raises:
            GatewayError: `INVALID_REQUEST` for ids the model does not have, or nothing at all to start from.
        """
        ids = self._encode(prompt) if isinstance(prompt, str) else self._checked(prompt)
        if ids:
            return ids
        start = self._tokenizer.bos_token_id
        if start is None:
            raise GatewayError(Kind.INVALID_REQUEST, "prompt must not be empty for this model.", param="prompt")
        return [start]

    def encode(self, text: str, special: bool) -> list[int]:
        """Return the ids of a text as the tokenizer does it by itself; `special` says whether its own tokens come too.

        Raises:
            GatewayError: `INVALID_REQUEST` for what is not text.
        """
        return self._encode(text, special=special)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids, special tokens left out, spaces untouched."""
        text: str = self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text

    def decoder(self, keep: frozenset[int]) -> Callable[[Sequence[int]], str]:
        """Return `decode`, with some special tokens left in: those that a parser of answers has to see."""
        hidden = frozenset(self._special.values()) - keep

        def decode(ids: Sequence[int]) -> str:
            return self._text([token for token in ids if token not in hidden])

        return decode

    def tail(self, prompt: Sequence[int]) -> str:
        """Return how a prompt's text ends, special tokens included."""
        return self._text(prompt[-_TAIL:])

    def token(self, token: int) -> str:
        """Return the text of one token by itself, special ones included."""
        return self._text([token])

    def _text(self, ids: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return text

    def _render(self, turns: list[dict[str, Any]], asked: Asked = NOTHING_ASKED) -> list[int]:
        with self._lock:
            encoded = self._tokenizer.apply_chat_template(
                turns,
                tools=asked.tools,
                chat_template=self._template,
                add_generation_prompt=True,
                sanitize_control_tokens=True,
                **(asked.variables or {}),
            )
        return list(encoded["input_ids"])

    def _encode(self, text: str, *, special: bool = True) -> list[int]:
        try:
            with self._lock:
                return list(self._tokenizer.encode(text, add_special_tokens=special, verbose=False))
        except (ValueError, TypeError) as error:  # half a surrogate pair
            raise GatewayError(Kind.INVALID_REQUEST, "prompt is not valid text.", param="prompt") from error

    def _checked(self, ids: Sequence[int]) -> list[int]:
        wrong = next((token for token in ids if not 0 <= token < self._vocabulary), None)
        if wrong is not None:
            raise GatewayError(
                Kind.INVALID_REQUEST,
                f"prompt: token id {wrong} is outside the vocabulary of {self._vocabulary}.",
                param="prompt",
            )
        return list(ids)

    def _check_template(self, served: str) -> None:
        """A template that cannot even be read is the model's fault, not the first client's."""
        from jinja2 import TemplateError, TemplateSyntaxError

        try:
            self._render([{"role": "user", "content": self._content(Message("user", (Text("?"),)), "content")}])
        except TemplateSyntaxError as error:
            raise GatewayError(
                Kind.MODEL_LOAD_FAILED, f"The chat template of '{served}' cannot be read: {error.message}"
            ) from error
        except (TemplateError, ValueError, TypeError) as error:
            log.warning("%s: its chat template refuses a single user message: %s", served, error)

    def _content(self, message: Message, where: str) -> Any:
        """Return a message's content as the template takes it."""
        if not all(isinstance(part, Text) for part in message.content):
            raise GatewayError(Kind.CAPABILITY, "This model takes text only.", param=where)
        return message.text
