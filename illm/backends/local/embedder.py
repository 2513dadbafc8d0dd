"""Texts in, vectors out: what a sentence embedder makes of requests, and of rows.

Requests to rerank are answered too: by the cosine between the vectors of the query and of each document.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from illm.backends.local.conversion import Progress
from illm.backends.local.encoding import Outcome, Task
from illm.backends.local.fair_passes import plan
from illm.backends.local.load import load_encoder, prepare_embedder
from illm.backends.local.model_facts import DType, context_length
from illm.backends.local.packed_encoder import pack_encoder
from illm.backends.local.pooling import Head
from illm.backends.local.sentence_files import Recipe, read_recipe
from illm.backends.local.sources import Source
from illm.backends.local.token_answers import answer_tokens
from illm.backends.local.tokenising import Item, Row, Tokeniser
from illm.backends.local.work import Answered
from illm.core.events import Done, Event, Ranking, Usage, Vectors
from illm.core.requests import Detokenize, Embed, Prompt, Request, Rerank, Tokenize
from illm.errors import GatewayError, Kind

# Larger passes are no faster on a few CPU cores, and whoever comes next waits for one of them.
_BATCH_TOKENS = 1024

_QUERY, _DOCUMENT = ("query",), ("document", "passage", "corpus")
"""What sentence-transformers calls the prompts of the two sides of a search, the first that there is."""


class Embedder:
    """A sentence embedder; see `Encoder`.

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
        self._model, self._recipe, self._device = model, recipe, device
        self.batch_tokens = batch_tokens
        self._head = Head(recipe, served, device)
        self.width = self._head.width(int(model.config.get_text_config().hidden_size))
        self.limit = row_limit(model, tokenizer, recipe.limit)
        if recipe.lower:
            _lower_case(tokenizer)
        vocabulary = int(model.get_input_embeddings().weight.shape[0])
        self.tokeniser = Tokeniser(tokenizer, served, limit=self.limit, vocabulary=vocabulary)

    def task(self, request: Request) -> Task | Answered:
        """See `Encoder.task`."""
        match request:
            case Embed():
                return self._embed(request)
            case Rerank():
                return self._rerank(request)
            case Tokenize() | Detokenize():
                return Answered(token_events(self.tokeniser, request))
        raise GatewayError(Kind.CAPABILITY, f"'{self.served}' does not support {request.needs}.", param="model")

    def run(self, rows: Sequence[Row]) -> Outcome:
        """See `Encoder.run`: one vector a row, full width, float32."""
        ids, mask, _ = padded(rows, self.tokeniser.padding, self._device)
        with torch.inference_mode():
            states = self._model(input_ids=ids, attention_mask=mask).last_hidden_state.float()
            vectors = self._head(states, mask.unsqueeze(-1).float())
            if self._recipe.normalise:
                vectors = torch.nn.functional.normalize(vectors, dim=-1)
        found: Outcome = vectors.cpu().numpy()
        return found

    def embed(self, inputs: Sequence[Prompt], dimensions: int | None = None) -> tuple[list[bytes], int]:
        """Do it all at once.

        Returns:
            the vectors in the order of the inputs, each as little-endian float32, and how many tokens were read.

        Raises:
            GatewayError: `INVALID_REQUEST`, as `task`.
        """
        task = self._embed(Embed(inputs=tuple(inputs), dimensions=dimensions))
        while not task.ready:
            task.tokenise(self.tokeniser)
        outcomes: dict[int, Outcome] = {}
        for batch in plan([row.shape[1] for row in task.rows], self.batch_tokens):
            outcomes.update(zip(batch, self.run([task.rows[at] for at in batch]), strict=True))
        vectors, _ = task.finish([outcomes[at] for at in range(len(outcomes))], task.tokens)
        assert isinstance(vectors, Vectors)  # noqa: S101 - that is what it makes
        return list(vectors.rows), task.tokens

    def _embed(self, request: Embed) -> Task:
        dimensions, normalise = request.dimensions, self._recipe.normalise
        if dimensions is not None and not 1 <= dimensions <= self.width:
            raise GatewayError(
                Kind.INVALID_REQUEST,
                f"dimensions must be between 1 and {self.width}, the width of '{self.served}'.",
                param="dimensions",
            )
        items = self._with_prompt(request)

        def finish(outcomes: Sequence[Outcome], tokens: int) -> tuple[Event, ...]:
            rows = (shortened(outcome, dimensions, again=normalise) for outcome in outcomes)
            return (Vectors(tuple(row.astype("<f4", copy=False).tobytes() for row in rows)), Done(Usage(tokens)))

        return Task(items, lambda at: f"input[{at}]", self.tokeniser.room(request.cut), finish)

    def _with_prompt(self, request: Embed) -> Sequence[Item]:
        prefix = self._recipe.prefix
        if request.prompt_name is not None:
            known = self._recipe.prompts
            if request.prompt_name not in known:
                names = ", ".join(known) or "none"
                message = f"'{self.served}' has no prompt of that name; it has: {names}."
                raise GatewayError(Kind.INVALID_REQUEST, message, param="prompt_name")
            if not all(isinstance(text, str) for text in request.inputs):
                raise GatewayError(
                    Kind.INVALID_REQUEST, "A prompt can only be put before text, not token ids.", param="prompt_name"
                )
            prefix = known[request.prompt_name]
        return [prefix + text if isinstance(text, str) else text for text in request.inputs]

    def _rerank(self, request: Rerank) -> Task:
        items = [self._side(_QUERY) + request.query]
        before = self._side(_DOCUMENT)
        items += [before + document for document in request.documents]

        def finish(outcomes: Sequence[Outcome], tokens: int) -> tuple[Event, ...]:
            query, documents = outcomes[0].astype(np.float64), np.stack(outcomes[1:]).astype(np.float64)
            sizes = np.linalg.norm(documents, axis=1) * np.linalg.norm(query)
            return (Ranking(tuple((documents @ query / np.maximum(sizes, 1e-12)).tolist())), Done(Usage(tokens)))

        return Task(items, query_or_document, self.tokeniser.room(request.cut), finish)

    def _side(self, names: Sequence[str]) -> str:
        prompts = self._recipe.prompts
        return next((prompts[name] for name in names if name in prompts), self._recipe.prefix)


def query_or_document(at: int) -> str:
    """Return what an error calls the row at a place, of a request to rerank whose query comes first."""
    return f"documents[{at - 1}]" if at else "query"


def shortened(vector: Outcome, dimensions: int | None, *, again: bool) -> Outcome:
    """Return the first numbers of a vector, brought to unit length again where it had it."""
    if dimensions is None:
        return vector
    cut = vector[:dimensions]
    return cut / np.float32(max(float(np.linalg.norm(cut)), 1e-12)) if again else cut


def load_embedder(
    source: Source,
    *,
    device: str,
    dtype: DType | None = None,
    threads: int | None = None,
    progress: Progress = lambda text, part: None,
) -> Embedder:
    """Load an embedder, downloading it first if it has to be.

    Args:
        source: what to load.
        device: torch's name for it.
        dtype: of the weights; by default as `pick_dtype`.
        threads: torch's threads, for the whole process.
        progress: told what is going on.

    Raises:
        GatewayError: `MODEL_NOT_FOUND` or `MODEL_LOAD_FAILED`.
    """
    source, directory = prepare_embedder(source, progress)
    progress(f"loading {source.served}", None)
    recipe = read_recipe(directory, source.served)
    model, tokenizer = load_encoder(
        source.served, recipe.transformer, device=device, dtype=dtype, threads=threads, pickles=source.pickles
    )
    pack_encoder(model, device)
    return Embedder(source.served, model, tokenizer, recipe, device=device)


def padded(rows: Sequence[Row], padding: int, device: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return ids, attention mask and segment ids of rows, each (rows, longest), filled up on the right."""
    longest = max(row.shape[1] for row in rows)
    ids = np.full((len(rows), longest), padding, np.int64)
    mask, types = np.zeros_like(ids), np.zeros_like(ids)
    for at, row in enumerate(rows):
        length = row.shape[1]
        ids[at, :length], types[at, :length] = row
        mask[at, :length] = 1
    made = [torch.from_numpy(array).to(device) for array in (ids, mask, types)]
    return made[0], made[1], made[2]


def token_events(tokeniser: Tokeniser, request: Tokenize | Detokenize) -> tuple[Event, ...]:
    """Answer what only an encoder's tokenizer is asked."""

    def encode(text: str, special: bool) -> list[int]:
        with tokeniser.lock:
            return list(tokeniser.tokenizer.encode(text, add_special_tokens=special, verbose=False))

    return answer_tokens(
        request,
        tokenizer=tokeniser.tokenizer,
        encode=encode,
        write=None,
        vocabulary=tokeniser.vocabulary,
        limit=tokeniser.limit,
    )


def row_limit(model: Any, tokenizer: Any, said: int | None) -> int:
    """Return how many tokens a row may have: what is said or the tokenizer knows, and no more than the model has."""
    positions = context_length(model.config, tokenizer) - _position_offset(model)
    return min(positions, said or int(tokenizer.model_max_length))


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
