"""What int8 weights cost and give: perplexity, greedy agreement and tokens a second, beside the exact model.

    python -m benchmarks.quality --model demo

Both engines run in this process, in turns, so that whatever else the machine does falls on both.  The text is the
documentation that comes with Python (`pydoc_data`), which is the same wherever that version is.
"""

import argparse
import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.engine_load import PROMPTS
from illm.backends.local.engine import Engine, SequenceRequest, engine_for
from illm.backends.local.load import TextModel, load_text
from illm.backends.local.loaders import cores
from illm.backends.local.sources import resolve_named

WINDOW = 512
STREAMS = (1, 8, 32)
_AGREEMENT_TOKENS = 64


@dataclass(frozen=True)
class Contender:
    """One engine, and the model it has taken over."""

    name: str
    model: TextModel
    engine: Engine


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="demo", help="as `illm serve --model` takes it")
    parser.add_argument("--threads", type=int, default=cores(), help="torch's threads")
    parser.add_argument("--tokens", type=int, default=3072, help="of the text whose perplexity is taken")
    parser.add_argument("--rounds", type=int, default=3, help="of the speed, each of all engines in turn")
    parser.add_argument("--length", type=int, default=48, help="tokens of a stream")
    parser.add_argument("--only", choices=("quality", "speed"), help="half of it")
    options = parser.parse_args(arguments)
    contenders = [_contender(options.model, how, options.threads) for how in ("none", "int8")]
    if options.only != "speed":
        _show_quality(contenders, options.tokens)
    if options.only != "quality":
        _show_speed(contenders, options.rounds, options.length)


def _show_quality(contenders: Sequence[Contender], tokens: int) -> None:
    exact = greedy(contenders[0])
    for one in contenders:
        text = _text(one.model, tokens)
        for body, rows in {"many": 1, "one": WINDOW}.items():
            _as_if_alone(one, rows)
            print(
                f"{one.name}: perplexity {perplexity(one, text):.3f} over {len(text)} tokens in windows of {WINDOW}, "
                f"computed as for {body} row{'s' * (body == 'many')}"
            )
        _as_if_alone(one, 1)
        same, first = agreement(exact, greedy(one))
        print(f"{one.name}: {same:.0%} of greedy tokens as exact; first difference at {first:.1f} (mean)")


def _show_speed(contenders: Sequence[Contender], rounds: int, length: int) -> None:
    for one in contenders:
        rate(one, 1, 8)  # what is done only once
    for count in STREAMS:
        rates: dict[str, list[float]] = {one.name: [] for one in contenders}
        for _ in range(rounds):
            for one in contenders:
                rates[one.name].append(rate(one, count, length))
        for name, values in rates.items():
            shown = ", ".join(f"{value:.1f}" for value in values)
            print(f"{name}: {count} streams: {statistics.median(values):.1f} tokens/s ({shown})")


def _as_if_alone(contender: Contender, rows: int) -> None:
    """Use what is meant for one row, where there is anything, for up to so many; in service it is one."""
    from illm.backends.local.engine.one_row import OneRowLinear
    from illm.backends.local.engine.scanned_head import ScannedHead

    for module in contender.model.model.modules():
        if isinstance(module, OneRowLinear | ScannedHead):
            module.most = rows
        if isinstance(module, ScannedHead):
            module.enough = rows > 1  # the engine says this anew before each step


def perplexity(contender: Contender, tokens: Sequence[int]) -> float:
    """Return the perplexity of a text, read in windows that do not overlap."""
    import torch

    model = contender.model.model
    ours = model.config._attn_implementation
    model.set_attn_implementation("sdpa")  # the engine's own works only inside its step
    loss, count = 0.0, 0
    with torch.inference_mode():
        for start in range(0, len(tokens) - 1, WINDOW):
            ids = torch.tensor([list(tokens[start : start + WINDOW])])
            logits = model(input_ids=ids, use_cache=False).logits[0, :-1].float()
            loss += float(torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum"))
            count += ids.shape[1] - 1
    model.set_attn_implementation(ours)
    return math.exp(loss / count)


def greedy(contender: Contender, length: int = _AGREEMENT_TOKENS) -> list[list[int]]:
    """Return the greedy continuation of each prompt, alone."""
    return [_write(contender, [prompt], length)[0] for prompt in PROMPTS]


def agreement(expected: Sequence[Sequence[int]], found: Sequence[Sequence[int]]) -> tuple[float, float]:
    """Return which part of the tokens is the same at the same place, and where the first difference is on average."""
    pairs = [list(zip(one, other, strict=True)) for one, other in zip(expected, found, strict=True)]
    same = statistics.fmean(one == other for row in pairs for one, other in row)
    first = [next((at for at, (one, other) in enumerate(row) if one != other), len(row)) for row in pairs]
    return same, statistics.fmean(first)


def rate(contender: Contender, streams: int, length: int) -> float:
    """Return tokens a second of so many streams at once, their prompts' time included."""
    prompts = [PROMPTS[number % len(PROMPTS)] for number in range(streams)]
    began = time.perf_counter()
    written = _write(contender, prompts, length)
    return sum(map(len, written)) / (time.perf_counter() - began)


def _write(contender: Contender, prompts: Sequence[str], length: int) -> list[list[int]]:
    encode: Any = contender.model.tokenizer.encode
    for number, prompt in enumerate(prompts):
        contender.engine.add(SequenceRequest(id=number, prompt=encode(prompt), max_new_tokens=length, temperature=0))
    written: list[list[int]] = [[] for _ in prompts]
    while contender.engine.busy:
        for output in contender.engine.step():
            written[output.id] += [int(token) for token in output.text.split()]
    return written


def _contender(name: str, quantize: str, threads: int) -> Contender:
    model = load_text(resolve_named(name, "text"), device="cpu", threads=threads, progress=lambda text, part: None)
    engine = engine_for(model.model, _spell, quantize=quantize, kv_tokens=16384)
    if engine.quantized != quantize:
        raise SystemExit(f"{quantize} cannot be used here; the log says why")
    return Contender({"none": "exact", "int8": "int8"}[quantize], model, engine)


def _spell(ids: Sequence[int]) -> str:
    """Stand in for the tokenizer: the tokens are compared, and their text need not be made."""
    return "".join(f"{token} " for token in ids)


def _text(model: TextModel, tokens: int) -> list[int]:
    from pydoc_data.topics import topics

    text = "\n\n".join(topics[name] for name in sorted(topics))
    ids: list[int] = model.tokenizer.encode(text[: 8 * tokens])
    return ids[:tokens]


if __name__ == "__main__":
    main()
