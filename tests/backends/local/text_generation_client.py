"""The `text-generation` package against a server whose address is the only argument.

Run as a script, by a Python that has the package.  Says what it has seen, a word each.
"""

import asyncio
import sys

from text_generation import AsyncClient, Client
from text_generation.errors import ValidationError


def say(word: str) -> None:
    """Tell the test."""
    sys.stdout.write(f"{word}\n")


def whole(client: Client) -> str:
    """Answer in one piece, with everything that can be asked for."""
    answer = client.generate("Hello", max_new_tokens=6, top_n_tokens=2)
    details = answer.details
    assert details is not None
    assert details.finish_reason.value == "length"
    assert details.generated_tokens == len(details.tokens) == len(details.top_tokens or ()) == 6
    assert "".join(token.text for token in details.tokens) == answer.generated_text
    assert client.generate("Hello", max_new_tokens=6, return_full_text=True).generated_text.startswith("Hello")
    best = client.generate("Hello", max_new_tokens=6, do_sample=True, best_of=2)
    assert best.details is not None
    assert len(best.details.best_of_sequences or ()) == 1
    return answer.generated_text


def stream(client: Client, text: str) -> None:
    """Answer token by token."""
    events = list(client.generate_stream("Hello", max_new_tokens=6))
    assert "".join(event.token.text for event in events if not event.token.special) == text
    assert [event.generated_text for event in events] == [None] * 5 + [text]
    assert events[-1].details is not None
    assert events[-1].details.generated_tokens == 6
    again = list(client.generate_stream("Hello", max_new_tokens=6, do_sample=True, seed=3))
    assert again[-1].details is not None
    assert again[-1].details.seed == 3


def stopped(client: Client, text: str) -> None:
    """End at a stop string, which stays."""
    answer = client.generate("Hello", max_new_tokens=6, stop_sequences=[text[1:3]])
    assert answer.details is not None
    assert answer.details.finish_reason.value == "stop_sequence"
    assert answer.generated_text.endswith(text[1:3])
    assert text.startswith(answer.generated_text)


def refusals(client: Client) -> None:
    """Learn what is not allowed as the exception that it is."""
    for act in (client.generate, client.generate_stream):
        message = ""
        try:
            list(act("x" * 500, max_new_tokens=6))
        except ValidationError as error:
            message = str(error)
        assert "`inputs`" in message


async def asynchronous(url: str, text: str) -> None:
    """The same over aiohttp."""
    client = AsyncClient(url)
    assert (await client.generate("Hello", max_new_tokens=6)).generated_text == text
    events = [event async for event in client.generate_stream("Hello", max_new_tokens=6)]
    assert events[-1].generated_text == text


def main(url: str) -> None:
    """Drive them all."""
    client = Client(url)
    text = whole(client)
    say("whole")
    stream(client, text)
    say("stream")
    stopped(client, text)
    say("stop")
    refusals(client)
    say("refusals")
    asyncio.run(asynchronous(url, text))
    say("asynchronous")


if __name__ == "__main__":
    main(sys.argv[1])
