"""Texts in, vectors out, in steps that a thread can interleave with other work.

Two halves.  `prepare` tokenises and checks; it needs no torch and raises everything a client can be blamed for.
`batches` runs the model, one pass a step: inputs of like length go together, so little is spent on padding, and the
caller puts the rows back in order (`embed` does).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any

import torch

from illm.backends.local.conversion import Progress
from illm.backends.local.load import context_length, load_encoder, prepare_embedder
from illm.backends.local.pooling import Head
from illm.backends.local.sentence_files import Recipe, read_recipe
from illm.backends.local.sources import Source
from illm.core.requests import Prompt
from illm.errors import GatewayError, Kind

# A pass of this size takes a small model a fraction of a second on a few CPU cores; others wait no longer than that.
_BATCH_TOKENS = 2048


@dataclass(frozen=True, slots=True)
class Prepared:
    """Inputs that are ready to run.

    Args:
        inputs: token ids, one row an input.
        dimensions: how many numbers of each vector are wanted.
    """

    inputs: tuple[tuple[int, ...], ...]
    dimensions: int

    @property
    def prompt_tokens(self) -> int:
        """How many tokens will be read, special ones included."""
        return sum(map(len, self.inputs))


class Embedder:
    """A sentence embedder.  `prepare` may be called from any thread, the rest from the one that loaded the model.

    Args:
        served: the id clients use.
        model: a Transformers model without a head.
        tokenizer: its tokenizer.
        recipe: how its token states become a vector.
        device: where it runs.
        batch_tokens: the size of a pass in tokens, padding included.

    Attributes:
        width: numbers in a full vector.
        limit: the longest input in tokens.
    """

    def __init__(
        self, served: str, model: Any, tokenizer: Any, recipe: Recipe, *, device: str, batch_tokens: int = _BATCH_TOKENS
    ) -> None:
        self.served = served
        self._model, self._tokenizer, self._recipe = model, tokenizer, recipe
        self._device, self._batch_tokens = device, batch_tokens
        self._head = Head(recipe, served, device)
        self._lock = Lock()
        self._vocabulary = int(model.get_input_embeddings().weight.shape[0])
        self.width = self._head.width(int(model.config.get_text_config().hidden_size))
        self.limit = _limit(model, tokenizer, recipe)
        if recipe.lower:
            _lower_case(tokenizer)

    def prepare(self, inputs: Sequence[Prompt], dimensions: int | None = None) -> Prepared:
        """Tokenise and check.

        Args:
            inputs: texts, or token ids that are taken as they are (special tokens are the client's affair then).
            dimensions: keep only this many numbers of each vector.

        Raises:
            GatewayError: `INVALID_REQUEST` (param `input` or `dimensions`) for what cannot be embedded whole: nothing
                is cut off silently.
        """
        if dimensions is not None and not 1 <= dimensions <= self.width:
            raise GatewayError(
                Kind.INVALID_REQUEST,
                f"dimensions must be between 1 and {self.width}, the width of '{self.served}'.",
                param="dimensions",
            )
        rows = tuple(self._row(index, item) for index, item in enumerate(inputs))
        return Prepared(rows, dimensions or self.width)

    def batches(self, prepared: Prepared) -> Iterator[list[tuple[int, bytes]]]:
        """Run one pass of the model a step; stop iterating to give up.

        Yields:
            for the inputs of one pass: the input's index, and its vector as little-endian float32.
        """
        for indices in plan([len(row) for row in prepared.inputs], self._batch_tokens):
            vectors = self._vectors([prepared.inputs[index] for index in indices], prepared.dimensions)
            yield [(index, vector.tobytes()) for index, vector in zip(indices, vectors, strict=True)]

    def embed(self, inputs: Sequence[Prompt], dimensions: int | None = None) -> tuple[list[bytes], int]:
        """Do it all at once.

        Returns:
            the vectors in the order of the inputs, each as little-endian float32, and how many tokens were read.

        Raises:
            GatewayError: as `prepare`.
        """
        prepared = self.prepare(inputs, dimensions)
        rows = dict(row for batch in self.batches(prepared) for row in batch)
        return [rows[index] for index in range(len(prepared.inputs))], prepared.prompt_tokens

    def _row(self, index: int, item: Prompt) -> tuple[int, ...]:
        ids = self._encode(item) if isinstance(item, str) else tuple(item)
        if not ids:
            raise GatewayError(Kind.INVALID_REQUEST, f"input[{index}] is empty for this model.", param="input")
        if len(ids) > self.limit:
            raise GatewayError(
                Kind.INVALID_REQUEST,
                f"input[{index}] has {len(ids)} tokens; '{self.served}' takes at most {self.limit}.",
                param="input",
            )
        wrong = next((token for token in ids if not 0 <= token < self._vocabulary), None)
        if wrong is not None:
            raise GatewayError(
                Kind.INVALID_REQUEST,
                f"input[{index}]: token id {wrong} is outside the vocabulary of {self._vocabulary}.",
                param="input",
            )
        return ids

    def _encode(self, text: str) -> tuple[int, ...]:
        tokenizer = self._tokenizer
        try:
            with self._lock:
                ids = tuple(tokenizer.encode(self._recipe.prefix + text, verbose=False))
        except (ValueError, TypeError) as error:  # half a surrogate pair
            raise GatewayError(Kind.INVALID_REQUEST, "input is not valid text.", param="input") from error
        if ids:
            return ids
        # The empty text is a text; a tokenizer that adds nothing of its own still needs one token to look at.
        start = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
        return tuple(token for token in start if token is not None)[:1]

    def _vectors(self, rows: list[tuple[int, ...]], dimensions: int) -> Any:
        longest = max(map(len, rows))
        pad = self._tokenizer.pad_token_id or 0
        ids = torch.tensor([row + (pad,) * (longest - len(row)) for row in rows], device=self._device)
        lengths = torch.tensor([len(row) for row in rows], device=self._device)
        mask = (torch.arange(longest, device=self._device) < lengths[:, None]).long()
        with torch.inference_mode():
            states = self._model(input_ids=ids, attention_mask=mask).last_hidden_state.float()
            vectors = self._head(states, mask.unsqueeze(-1).float())[:, :dimensions]
            if self._recipe.normalise:
                vectors = torch.nn.functional.normalize(vectors, dim=-1)
        return vectors.cpu().numpy().astype("<f4")


def load_embedder(
    source: Source, *, device: str, threads: int | None = None, progress: Progress = lambda text, part: None
) -> Embedder:
    """Load an embedder, downloading it first if it has to be.

    Args:
        source: what to load.
        device: torch's name for it.
        threads: torch's threads, for the whole process.
        progress: told what is going on.

    Raises:
        GatewayError: `MODEL_NOT_FOUND` or `MODEL_LOAD_FAILED`.
    """
    source, directory = prepare_embedder(source, progress)
    progress(f"loading {source.served}", None)
    recipe = read_recipe(directory, source.served)
    model, tokenizer = load_encoder(
        source.served, recipe.transformer, device=device, threads=threads, pickles=source.pickles
    )
    return Embedder(source.served, model, tokenizer, recipe, device=device)


def plan(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Sort inputs into passes: indices of like length together, padded size within the budget, at least one a pass."""
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and (len(batch) + 1) * lengths[index] > budget:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def _limit(model: Any, tokenizer: Any, recipe: Recipe) -> int:
    positions = context_length(model.config, tokenizer) - _position_offset(model)
    return min(positions, recipe.limit or int(tokenizer.model_max_length))


def _position_offset(model: Any) -> int:
    """RoBERTa and its kin count positions from just behind the padding id, so the first few are never used."""
    for module in model.modules():
        padding = getattr(module, "padding_idx", None)
        if isinstance(padding, int) and getattr(module, "position_embeddings", None) is not None:
            return padding + 1
    return 0


def _lower_case(tokenizer: Any) -> None:
    """Put lower-casing before whatever the tokenizer does to text, so that its special tokens are still recognised."""
    from tokenizers import normalizers

    backend = tokenizer.backend_tokenizer
    steps = [normalizers.Lowercase(), *([backend.normalizer] if backend.normalizer is not None else [])]
    backend.normalizer = normalizers.Sequence(steps)
