"""The engine: schedule, run, sample, and turn tokens into text, one step at a time."""

import inspect
import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from illm.backends.local.engine import selfcheck
from illm.backends.local.engine.architecture import UnsupportedModel, attention_of, position_limit, supports
from illm.backends.local.engine.attempts import Attempts
from illm.backends.local.engine.attention import NAME
from illm.backends.local.engine.blocks import BLOCK, BlockPool
from illm.backends.local.engine.constraint import allowed
from illm.backends.local.engine.flat_decode import flat_decode
from illm.backends.local.engine.flat_forward import flat_forward
from illm.backends.local.engine.illustrated import PictureError
from illm.backends.local.engine.int8 import head_for, quantize_head
from illm.backends.local.engine.joined import join
from illm.backends.local.engine.kv import KVSlab, default_tokens
from illm.backends.local.engine.norms import fuse_norms, loosen_norms
from illm.backends.local.engine.one_row import lighten
from illm.backends.local.engine.packed import pack
from illm.backends.local.engine.parts import layers_of
from illm.backends.local.engine.runner import Forward, Runner
from illm.backends.local.engine.sampler import sample
from illm.backends.local.engine.scanned_head import ScannedHead, scan, suffices
from illm.backends.local.engine.scheduler import Scheduler
from illm.backends.local.engine.scores import score
from illm.backends.local.engine.sequence import FAILED, LiveSequence, RequestTooLarge, SequenceOutput, SequenceRequest
from illm.backends.local.engine.stats import Stats

_log = logging.getLogger(__name__)
UNSAID_CONTEXT = 8192  # where a model names no limit: what the default memory is sized for


class Engine:
    """Continuous batching over one causal language model.

    Make it and use it in one thread, the one that loaded the model.  The model becomes the engine's: its attention
    function is replaced, and its linear layers may be.

    Args:
        model: a Transformers model for causal language modelling, in eval mode, on its device.
        decode: token ids to text, special tokens left out.
        kv_tokens: how many tokens the KV memory holds; by default a part of what is free.
        max_sequences: how many sequences may be in the batch.
        busy_chunk: prompt tokens a step while other sequences decode; it bounds their pauses.
        idle_chunk: prompt tokens a step while none does.
        prefix_cache: keep what was computed, and begin sequences after what is known of their prompts.
        packed: lay bfloat16 weights out for the CPU, where it can.
        check: compare the engine's logits with the model's own first.
        quantize: `none`, or `int8` for int8 weights, of the head always and of the body for one row, where that can be.

    Raises:
        UnsupportedModel: the engine cannot drive this model.

    Attributes:
        loop: which forward drives the model: `packed`, or `transformers` where that does not fit it.
        loop_reason: why the packed one does not.
        quantized: what the weights are: `none` or `int8`.
        context: how many tokens fit, prompt and answer together.
    """

    loop = "packed"
    loop_reason: str | None = None
    quantized = "none"
    _scanned: ScannedHead | None = None

    def __init__(
        self,
        model: Any,
        decode: Callable[[Sequence[int]], str],
        *,
        kv_tokens: int | None = None,
        max_sequences: int = 64,
        busy_chunk: int = 40,
        idle_chunk: int = 512,
        prefix_cache: bool = True,
        packed: bool = True,
        check: bool = True,
        quantize: str = "none",
    ) -> None:
        if (reason := supports(model.config)) is not None:
            raise UnsupportedModel(reason)
        if "logits_to_keep" not in inspect.signature(model.forward).parameters:
            raise UnsupportedModel("its head cannot be applied to chosen positions")
        expected = selfcheck.reference(model) if check else None
        model.set_attn_implementation(attention_of(model.config, NAME))
        shapes = selfcheck.probe(model)
        limit = position_limit(model.config)
        if kv_tokens is None:
            kv_tokens = default_tokens(shapes, model.device, limit or UNSAID_CONTEXT, max_sequences)
        kv = KVSlab(shapes, kv_tokens, model.device)
        head = head_for(model, quantize)
        layers = pack(model, but=head) if packed else 0
        fuse_norms(model)
        join(layers_of(model))
        runner = Runner(model, kv)
        pool = BlockPool(kv.blocks, cache=prefix_cache)
        if expected is not None:
            selfcheck.check(runner, pool, expected)
        self._quantize(model, head)  # after the check, whose tolerance is for rounding only
        if layers or head is not None:
            ways = (flat_decode(model, runner, pool) if head is not None else None, flat_forward(model, runner, pool))
            runner.written = [way for way in ways if way is not None]
        self._open(
            model, decode, runner, pool, limit,
            max_sequences=max_sequences, busy_chunk=busy_chunk, idle_chunk=idle_chunk,
        )  # fmt: skip
        _log.info(
            "engine ready: KV memory for %d tokens, context %d, %d packed layers", kv.tokens, self.context, layers
        )

    def _quantize(self, model: Any, head: Any) -> None:
        if head is not None:
            quantize_head(model, head)
            lighten(model)
            loosen_norms(model)
            self._scanned = scan(model, head)
            self.quantized = "int8"

    def _open(
        self,
        model: Any,
        decode: Callable[[Sequence[int]], str],
        runner: Forward,
        pool: BlockPool,
        limit: int | None,
        *,
        max_sequences: int,
        busy_chunk: int,
        idle_chunk: int,
    ) -> None:
        """Begin to serve, over whichever forward was found to fit the model."""
        self._decode = decode
        self._vocabulary = model.get_input_embeddings().num_embeddings
        self._runner = runner
        self._kv_total = pool.total * BLOCK
        self.context = min(limit or self._kv_total, self._kv_total)
        self._scheduler = Scheduler(pool, max_sequences=max_sequences, busy_chunk=busy_chunk, idle_chunk=idle_chunk)
        self._sequences: dict[int, LiveSequence] = {}
        self._steps = self._prompt_tokens = self._generated = self._recomputed = self._finished = self._aborted = 0

    @property
    def busy(self) -> bool:
        """Whether `step` has something to do."""
        return bool(self._sequences)

    @property
    def stats(self) -> Stats:
        """A snapshot of the counters; any thread may ask."""
        scheduler = self._scheduler
        return Stats(
            steps=self._steps,
            prompt_tokens=self._prompt_tokens,
            generated_tokens=self._generated,
            recomputed_tokens=self._recomputed,
            running=len(scheduler.running),
            waiting=len(scheduler.waiting),
            finished=self._finished,
            aborted=self._aborted,
            preemptions=scheduler.preemptions,
            kv_used=scheduler.kv_used,
            kv_cached=scheduler.kv_cached,
            kv_total=self._kv_total,
            prefix_hits=scheduler.prefix_hits,
            prefix_tokens=scheduler.prefix_tokens,
            evicted_blocks=scheduler.evictions,
        )

    def add(self, request: SequenceRequest) -> None:
        """Queue a sequence; it joins the batch at one of the next steps.

        Raises:
            RequestTooLarge: prompt and answer together exceed `context`.
            ValueError: the id is taken, or a token is not in the vocabulary.
        """
        wanted = len(request.prompt) + request.max_new_tokens
        if wanted > self.context:
            raise RequestTooLarge(
                f"{len(request.prompt)} prompt tokens and {request.max_new_tokens} new ones are {wanted}, "
                f"more than the {self.context} there is room for"
            )
        if request.id in self._sequences:
            raise ValueError(f"sequence {request.id} is already here")
        if min(request.prompt) < 0 or max(request.prompt) >= self._vocabulary:
            raise ValueError(f"token ids are from 0 to {self._vocabulary - 1}")
        sequence = LiveSequence(request, self._decode)
        self._sequences[request.id] = sequence
        self._scheduler.add(sequence)

    def abort(self, id: int) -> None:  # noqa: A002
        """Take a sequence out, whatever its state, and free its memory; an unknown id is ignored."""
        sequence = self._sequences.pop(id, None)
        if sequence is not None:
            self._scheduler.remove(sequence)
            self._aborted += 1

    def step(self) -> list[SequenceOutput]:
        """Run one forward and return what it added to each sequence that got a token; [] when idle."""
        pieces, copies = self._scheduler.plan()
        if not pieces:
            return []
        self._runner.copy(copies)
        if self._scanned is not None:
            self._scanned.enough = suffices(pieces)
        try:
            sampling, logits = self._runner.run(pieces)
        except PictureError as error:
            _log.error("a picture cannot be used", exc_info=error)
            self.abort(error.id)  # nothing was computed: the others are planned again
            return [SequenceOutput(error.id, "", 0, FAILED)]
        self._scheduler.settle(pieces)
        self._steps += 1
        for sequence, start, size, _ in pieces:
            fresh = min(max(start, sequence.reached), start + size)
            sequence.reached = max(sequence.reached, start + size)
            self._recomputed += fresh - start
            self._prompt_tokens += max(0, min(start + size, len(sequence.request.prompt)) - fresh)
        outputs = []
        attempts = Attempts()
        masks: list[torch.Tensor | None] = []
        for sequence in sampling:
            masks += attempts.of(sequence, partial(allowed, [sequence], logits.shape[1], logits.device)) or [None]
        drawn = sample(logits, sampling, masks) if sampling else []
        tokens = [
            token if (settled := attempts.of(sequence, partial(sequence.settle, token))) is None else settled
            for sequence, token in zip(sampling, drawn, strict=True)
        ]
        scores = score(logits, sampling, tokens)
        for sequence, token, known in zip(sampling, tokens, scores, strict=True):
            speak = partial(sequence.accept, token, known) if sequence.request.max_new_tokens else sequence.end
            output = attempts.of(sequence, speak) or SequenceOutput(sequence.request.id, "", 0, FAILED)
            self._generated += output.tokens
            if output.finish is not None:
                del self._sequences[output.id]
                self._scheduler.remove(sequence)
                self._finished += 1
            outputs.append(output)
        return outputs
