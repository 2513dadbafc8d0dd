"""A query and a document in, one number out: what a cross-encoder makes of requests, and of rows."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from illm.backends.local.conversion import Progress
from illm.backends.local.embedder import padded, row_limit, token_events
from illm.backends.local.encoding import Outcome, Task
from illm.backends.local.load import load_encoder, prepare_embedder
from illm.backends.local.model_facts import DType
from illm.backends.local.packed_encoder import pack_encoder
from illm.backends.local.pooling import ACTIVATIONS
from illm.backends.local.sources import Source, read_json
from illm.backends.local.tokenising import Row, Tokeniser
from illm.backends.local.work import Answered
from illm.core.events import Done, Event, Ranking, Usage
from illm.core.requests import Detokenize, Request, Rerank, Tokenize
from illm.errors import GatewayError, Kind

_BATCH_TOKENS = 1024


class CrossEncoder:
    """A cross-encoder; see `Encoder`.

    Args:
        served: the id clients use.
        model: a Transformers model with a classification head of one label.
        tokenizer: its tokenizer.
        activation: what is done to the one logit.
        device: where it runs.
    """

    def __init__(self, served: str, model: Any, tokenizer: Any, activation: Any, *, device: str) -> None:
        self.served = served
        self._model, self._activation, self._device = model, activation, device
        self.batch_tokens = _BATCH_TOKENS
        vocabulary = int(model.get_input_embeddings().weight.shape[0])
        limit = row_limit(model, tokenizer, None)
        self.tokeniser = Tokeniser(tokenizer, served, limit=limit, vocabulary=vocabulary)
        if getattr(model.config, "pad_token_id", None) is None:
            model.config.pad_token_id = self.tokeniser.padding  # decoders look for their last token by it
        # One kind of text: a model that tells no segments apart has no use for their ids.
        self._segments = "token_type_ids" in tokenizer.model_input_names

    def task(self, request: Request) -> Task | Answered:
        """See `Encoder.task`."""
        match request:
            case Rerank():
                pairs = [(request.query, document) for document in request.documents]
                return Task(pairs, lambda at: f"documents[{at}]", self.tokeniser.room(request.cut), _ranked)
            case Tokenize() | Detokenize():
                return Answered(token_events(self.tokeniser, request))
        raise GatewayError(Kind.CAPABILITY, f"'{self.served}' does not support {request.needs}.", param="model")

    def run(self, rows: Sequence[Row]) -> Outcome:
        """See `Encoder.run`: one score a row, shape (rows, 1)."""
        ids, mask, types = padded(rows, self.tokeniser.padding, self._device)
        segments = {"token_type_ids": types} if self._segments else {}
        with torch.inference_mode():
            logits = self._model(input_ids=ids, attention_mask=mask, **segments).logits.float()
            found: Outcome = self._activation(logits).cpu().numpy()
        return found


def load_cross_encoder(
    source: Source, *, device: str, dtype: DType | None = None, threads: int | None = None, progress: Progress
) -> CrossEncoder:
    """Load a cross-encoder.  Arguments and errors as `load_embedder`."""
    source, directory = prepare_embedder(source, progress)
    progress(f"loading {source.served}", None)
    activation = _activation(directory, source.served)
    model, tokenizer = load_encoder(
        source.served,
        directory,
        device=device,
        dtype=dtype,
        threads=threads,
        pickles=source.pickles,
        head="AutoModelForSequenceClassification",
    )
    encoder = CrossEncoder(source.served, model, tokenizer, activation, device=device)
    pack_encoder(model, device)  # now that a decoder knows its padding, and can be tried
    return encoder


def _ranked(outcomes: Sequence[Outcome], tokens: int) -> tuple[Event, ...]:
    return (Ranking(tuple(np.concatenate(outcomes).astype(np.float64).tolist())), Done(Usage(tokens)))


def _activation(directory: Any, served: str) -> Any:
    """Return what the files say is done to the logit, in either of sentence-transformers' spellings; else a sigmoid."""
    config, said = read_json(directory / "config.json"), read_json(directory / "config_sentence_transformers.json")
    nested = config.get("sentence_transformers")
    name = (
        (nested.get("activation_fn") if isinstance(nested, dict) else None)
        or config.get("sbert_ce_default_activation_function")
        or said.get("activation_fn")
        or "Sigmoid"
    )
    made = ACTIVATIONS.get(str(name).rpartition(".")[2])
    if made is None or said.get("default_prompt_name") is not None:
        raise GatewayError(
            Kind.MODEL_LOAD_FAILED, f"The cross-encoder '{served}' ends in something that is not supported."
        )
    return made()
