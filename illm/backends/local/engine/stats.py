"""What the engine has done and what it holds, as numbers."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """A snapshot.

    Args:
        steps: forwards so far.
        prompt_tokens: tokens of prompts that went through the model, without those computed a second time.
        generated_tokens: tokens sampled.
        recomputed_tokens: tokens that went through the model again after a preemption.
        running: sequences that hold KV memory.
        waiting: sequences that do not yet, or no longer.
        finished: sequences that came to their end.
        aborted: sequences that were taken out before.
        preemptions: how often a sequence lost its memory to an older one.
        kv_used: tokens' worth of KV memory that sequences hold.
        kv_cached: tokens' worth of KV memory that none does, kept for whoever asks the same again.
        kv_total: tokens' worth of KV memory there is.
        prefix_hits: sequences that found a part of their prompt computed.
        prefix_tokens: tokens of prompts that therefore did not go through the model.
        evicted_blocks: blocks of kept KV memory that were forgotten to make room.
    """

    steps: int
    prompt_tokens: int
    generated_tokens: int
    recomputed_tokens: int
    running: int
    waiting: int
    finished: int
    aborted: int
    preemptions: int
    kv_used: int
    kv_cached: int
    kv_total: int
    prefix_hits: int
    prefix_tokens: int
    evicted_blocks: int
