"""What the engine knows of its tokens' probabilities, as a client is told it, and prompts that are echoed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from illm.backends.local.engine import Score
from illm.backends.local.token_bytes import TokenBytes
from illm.core.detokenizer import Detokenizer
from illm.core.events import Delta, Logprob
from illm.core.requests import Prompt

if TYPE_CHECKING:
    from illm.backends.local.load import TextModel


@dataclass(frozen=True, slots=True)
class Echo:
    """A prompt to repeat: its text, and what each token adds to it where the tokens are shown."""

    text: str
    pieces: tuple[str, ...] = ()


class TokenTeller:
    """One model's tokens, told to clients.

    Args:
        model: the loaded model.
    """

    def __init__(self, model: "TextModel") -> None:
        self._decode = model.renderer.decode
        self._bytes = TokenBytes(model.tokenizer)
        self._special = model.eos | frozenset(model.tokenizer.all_special_ids)

    def echo(self, prompt: Prompt, ids: Sequence[int], *, pieces: bool) -> Echo:
        """Return how to repeat a prompt.

        Args:
            prompt: as the client gave it.
            ids: as the model gets it.
            pieces: whether its tokens will be told one by one.
        """
        text = prompt if isinstance(prompt, str) else self._decode(ids)
        if not pieces:
            return Echo(text)
        detokenizer = Detokenizer(self._decode)
        told = [detokenizer.feed((token,)) for token in ids]
        told[-1] += detokenizer.close()
        return Echo(text, tuple(told))

    def echoed(self, index: int, echo: Echo, ids: Sequence[int], scores: Sequence[Score]) -> Delta:
        """Return an echoed prompt, and how likely its tokens were, the first of which nobody can say.

        Args:
            index: the choice's.
            echo: of `echo`.
            ids: the prompt.
            scores: of all its tokens but the first; none where the client did not ask.
        """
        if not echo.pieces:
            return Delta(index, echo.text)
        first = self._told(ids[0], None, (), echo.pieces[0], ids[0] in self._special)
        others = (
            self._told(score.token, score.logprob, score.top, piece, score.token in self._special, appears=True)
            for score, piece in zip(scores, echo.pieces[1:], strict=True)
        )
        return Delta(index, echo.text, 0, (first, *others))

    def chosen(self, score: Score, *, appears: bool = False) -> Logprob:
        """Return a generated token.

        Args:
            score: the engine's.
            appears: whether it is one of its own alternatives in any case, as completions have it.
        """
        special = score.ends or score.token in self._special
        return self._told(score.token, score.logprob, score.top, score.text, special, appears=appears)

    def _told(
        self,
        token: int,
        logprob: float | None,
        alternatives: Sequence[tuple[int, float]],
        piece: str,
        special: bool,
        *,
        appears: bool = False,
    ) -> Logprob:
        raw = self._bytes(token)
        # A special token has a name, which is no part of the text; of the others, the text is what they added to it.
        text = raw.decode(errors="replace") if special else piece
        top = [Logprob(self._bytes.text(other), known, self._bytes(other), id=other) for other, known in alternatives]
        if appears and logprob is not None and all(other != token for other, _ in alternatives):
            top.append(Logprob(self._bytes.text(token), logprob, raw, id=token))
        return Logprob(text, logprob, raw, tuple(top), token, special)
