"""Which tokens of a choice its text is made of, for the log-probabilities beside the text.

A stop string is cut from the text, and its tokens with it; one that the cut goes through stays.
Records and usage keep all tokens. Knows nothing about the shapes of answers.
"""

from __future__ import annotations

import codecs
from collections import deque
from collections.abc import Sequence

from api.token_texts import TokenTexts
from common.sampling import SamplingSpec
from common.token_logprobs import TokenLogprobs

Tokens = tuple[tuple[int, ...], tuple[TokenLogprobs, ...]]


class ShownTokens:
    """Takes a choice's tokens, in pieces or at once, and lets go those that its text shows.

    While a text may still be cut, a token waits until some of its text was shown.

    Args:
        sampling: Of the job.
        texts: Of the model's tokens; None where no log-probabilities were asked for.
    """

    def __init__(self, sampling: SamplingSpec, texts: TokenTexts | None) -> None:
        self._stop = sampling.stop
        self._skips_special = sampling.skip_special_tokens
        self._texts = texts
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._generated = ""  # the text of all tokens
        self._shown = ""  # of that, what the client has
        # Where in the generated text each token begins that was not let go.
        self._waiting: deque[tuple[int, int, TokenLogprobs]] = deque()

    def take(
        self,
        text: str,
        token_ids: Sequence[int],
        logprobs: Sequence[TokenLogprobs],
        *,
        is_last: bool = False,
    ) -> Tokens:
        """The tokens to tell of beside a piece of text, with their log-probabilities.

        Args:
            text: What is shown from now on.
            token_ids: What came with it.
            logprobs: One for each; none where they were not asked for.
            is_last: Nothing comes after this.
        """
        if self._texts is None or not self._stop or len(logprobs) != len(token_ids):
            return tuple(token_ids), tuple(logprobs)
        self._shown += text
        for token_id, each in zip(token_ids, logprobs, strict=True):
            self._waiting.append((len(self._generated), token_id, each))
            self._generated += self._text_of(token_id, self._texts)
        end: float = len(self._shown)
        if is_last:
            self._generated += self._decoder.decode(b"", final=True)
            end = self._cut()
        told = []
        while self._waiting and self._waiting[0][0] < end:
            told.append(self._waiting.popleft())
        return tuple(token_id for _, token_id, _ in told), tuple(each for _, _, each in told)

    def _text_of(self, token_id: int, texts: TokenTexts) -> str:
        if not texts.is_special(token_id):
            return self._decoder.decode(texts.bytes_of(token_id))
        if self._skips_special:
            return ""
        return self._decoder.decode(b"", final=True) + texts.bytes_of(token_id).decode()

    def _cut(self) -> float:
        """Where in the generated text a stop string was cut off; infinite where none was."""
        for start in (0, 1):  # some tokenizers leave out a space before the first word
            end = start + len(self._shown)
            is_shown = self._generated.startswith(self._shown, start)
            if is_shown and self._generated.startswith(self._stop, end):
                return end
        return float("inf")
