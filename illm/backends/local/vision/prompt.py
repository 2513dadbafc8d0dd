"""A chat with images becomes a prompt: the template writes one placeholder an image, which its tokens then replace.

The template's placeholders are the only ones: what a client writes out is text, as everywhere (`PromptRenderer`).
"""

import json
from binascii import Error, a2b_base64
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from illm.backends.local.answers.style import NOTHING_ASKED, Asked
from illm.backends.local.engine.illustrated import Illustrated, Tower
from illm.backends.local.prompt import PromptRenderer
from illm.backends.local.vision.reader import Looked, PictureReader
from illm.core.requests import Image, Message, Text
from illm.errors import GatewayError, Kind

TOGETHER = 4
"""How many times the pixels of the largest image all images of a request may have.  They are decoded one after another
in one thread, where other requests with images wait meanwhile; a small file may hold very many."""

_FALLBACK = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{{ message['role'] | capitalize }}: "
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ IMAGE }}{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{{ '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)

RopeIndex = Callable[..., tuple[torch.Tensor, torch.Tensor]]
"""`get_rope_index` of a model whose pictures stand in a grid."""


class VisionRenderer(PromptRenderer):
    """See `PromptRenderer`; its prompts are `Illustrated` where there are images.

    Args:
        tokenizer: with the processor's chat template.
        vocabulary: how many token ids the model knows.
        served: the model's id, for the log.
        reader: reads images for this model.
        tower: will make their rows.
        context: how many tokens the model takes, so that reading can stop when there are more.
        max_pixels: of one image.
        rope: where the model has one.
    """

    def __init__(
        self,
        tokenizer: Any,
        vocabulary: int,
        served: str,
        *,
        reader: PictureReader,
        tower: Tower,
        context: int,
        max_pixels: int,
        rope: RopeIndex | None,
    ) -> None:
        self._reader, self._tower, self._rope = reader, tower, rope
        self._context, self._max_pixels = context, max_pixels
        # In the template's own text, since what comes in as a variable is a client's.
        token = json.dumps(tokenizer.convert_ids_to_tokens(reader.placeholder))
        self.fallback = _FALLBACK.replace("IMAGE", token)
        super().__init__(tokenizer, vocabulary, served)

    def chat(self, messages: tuple[Message, ...], asked: Asked = NOTHING_ASKED) -> list[int]:
        """See `PromptRenderer.chat`.

        Raises:
            GatewayError: also `INVALID_REQUEST` for an image that cannot be read, with its place; `CONTEXT_LENGTH`
                where the images alone are too long.
        """
        ids = super().chat(messages, asked)
        images = list(_images(messages))
        placeholder = self._reader.placeholder
        if ids.count(placeholder) != len(images):
            raise GatewayError(
                Kind.INVALID_REQUEST, "The model's chat template has no place for these images.", param="messages"
            )
        if not images:
            return ids
        looked = self._read(images)
        rest = iter(looked)
        whole = [one for token in ids for one in (next(rest).ids if token == placeholder else (token,))]
        return Illustrated(
            whole,
            placeholder=placeholder,
            pictures=[picture for one in looked for picture in one.pictures],
            tower=self._tower,
            positions=self._positions(whole, looked),
        )

    def look(self, data: bytes, *, max_pixels: int) -> Looked:
        """Read one image file; see `PictureReader.read`."""

        def encode(text: str) -> list[int]:
            with self._lock:
                return list(self._tokenizer.encode(text, add_special_tokens=False))

        return self._reader.read(data, encode, max_pixels=max_pixels)

    def _content(self, message: Message, where: str) -> Any:
        if not all(isinstance(part, Text | Image) for part in message.content):
            raise GatewayError(Kind.CAPABILITY, "This model takes text and images only.", param=where)
        return [
            {"type": "text", "text": part.text} if isinstance(part, Text) else {"type": "image"}
            for part in message.content
        ]

    def _read(self, images: list[tuple[str, Image]]) -> list[Looked]:
        looked: list[Looked] = []
        tokens, left = 0, TOGETHER * self._max_pixels
        for where, image in images:
            try:
                one = self.look(_file(image), max_pixels=min(left, self._max_pixels))
            except GatewayError as error:
                raise GatewayError(error.kind, f"{where}: {error.message}", param=where) from error
            tokens, left = tokens + len(one.ids), left - one.pixels
            if tokens > self._context:
                raise GatewayError(
                    Kind.CONTEXT_LENGTH,
                    f"This model's context is {self._context} tokens: the images up to {where} have {tokens}",
                    param="messages",
                )
            looked.append(one)
        return looked

    def _positions(self, ids: list[int], looked: Sequence[Looked]) -> torch.Tensor | None:
        if self._rope is None:
            return None
        tokens = torch.tensor([ids])
        grids = torch.cat([one.inputs["image_grid_thw"] for one in looked])
        kinds = (tokens == self._reader.placeholder).int()
        positions, _ = self._rope(input_ids=tokens, mm_token_type_ids=kinds, image_grid_thw=grids)
        return positions[:, 0]


def _images(messages: Sequence[Message]) -> Iterator[tuple[str, Image]]:
    for at, message in enumerate(messages):
        for part_at, part in enumerate(message.content):
            if isinstance(part, Image):
                yield f"messages[{at}].content[{part_at}]", part


def _file(image: Image) -> bytes:
    """Return the bytes of an image that came by value; addresses have been fetched long before, or never will be."""
    text = image.base64
    if text is None:
        head, comma, text = (image.url or "").partition(",")
        if not (comma and head.lower().startswith("data:") and head.lower().endswith(";base64")):
            raise GatewayError(Kind.INVALID_REQUEST, "expected an image by value")
    try:
        return a2b_base64(text)
    except (Error, ValueError) as error:
        raise GatewayError(Kind.INVALID_REQUEST, "expected an image as base64") from error
