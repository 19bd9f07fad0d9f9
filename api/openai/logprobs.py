r"""Log-probabilities in the two shapes that OpenAI has for them.

A token that is no whole character is written as its bytes, so that different tokens have different
names: `\xf0\x9f` in chats, which list the bytes beside it, and `bytes:\xf0\x9f` in completions.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import Any

from api.token_texts import TokenTexts
from common.token_logprobs import TokenLogprobs


def chat_logprobs(
    token_ids: Sequence[int], logprobs: Sequence[TokenLogprobs], texts: TokenTexts
) -> dict[str, Any]:
    """The `logprobs` of a choice, or of a part of it, in a chat."""
    pairs = zip(token_ids, logprobs, strict=True)
    return {"content": [_chat_token(i, each, texts) for i, each in pairs], "refusal": None}


def _chat_token(token_id: int, each: TokenLogprobs, texts: TokenTexts) -> dict[str, Any]:
    top = [_named(other, logprob, texts) for other, logprob in each.top]
    return {**_named(token_id, each.logprob, texts), "top_logprobs": top}


def _named(token_id: int, logprob: float, texts: TokenTexts) -> dict[str, Any]:
    data = texts.bytes_of(token_id)
    return {"token": _name(data, ""), "bytes": list(data), "logprob": logprob}


class CompletionLogprobs:
    """The `logprobs` of one choice of a completion, in one part or several.

    Args:
        texts: Of the model's tokens.
    """

    def __init__(self, texts: TokenTexts) -> None:
        self._texts = texts
        self._offset = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def view(
        self, token_ids: Sequence[int], logprobs: Sequence[TokenLogprobs | None]
    ) -> dict[str, Any]:
        """The next tokens: their texts, how likely they were, and where each begins in the text.

        Where there is no log-probability, as for a prompt's first token, there is a null.
        """
        names = [self._name(i) for i in token_ids]
        return {
            "tokens": names,
            "token_logprobs": [None if each is None else each.logprob for each in logprobs],
            "top_logprobs": [
                None if each is None else self._top(name, each)
                for name, each in zip(names, logprobs, strict=True)
            ],
            "text_offset": [self._begin(i) for i in token_ids],
        }

    def _top(self, name: str, each: TokenLogprobs) -> dict[str, float]:
        """The likeliest tokens, and the one that stands here, which need not be among them."""
        top = {self._name(other): logprob for other, logprob in each.top}
        return top if name in top else {**top, name: each.logprob}

    def _name(self, token_id: int) -> str:
        return _name(self._texts.bytes_of(token_id), "bytes:")

    def _begin(self, token_id: int) -> int:
        """Where a token begins; after it, the offset is where it ends."""
        begin = self._offset
        if not self._texts.is_special(token_id):
            self._offset += len(self._decoder.decode(self._texts.bytes_of(token_id)))
        return begin


def joined(*parts: dict[str, Any]) -> dict[str, Any]:
    """Several parts of a completion's log-probabilities as one."""
    return {name: [each for part in parts for each in part[name]] for name in parts[0]}


def _name(data: bytes, prefix: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return prefix + "".join(f"\\x{byte:02x}" for byte in data)
