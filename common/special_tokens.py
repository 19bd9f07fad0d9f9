"""Keeps the special tokens that a chat template writes apart from texts that only look like them.

A rendered chat is one text, in which a user's `<|im_start|>` reads as the template's own. So what
comes from messages is broken by a mark before the template sees it (`disarmed`). In what the
template makes of it (`encode`), whole ones are the template's own: they get new names, the marks go
out, and the text is encoded in one piece by a copy of the tokenizer that knows the new names alone.
Whatever a tokenizer does beside its special tokens stays as it is, and a broken one is text like
any other.

Special is what the model's makers declare so. Other tokens that were added to a vocabulary, such as
`<think>` in many models, belong in texts, and templates look for them there.
"""

from __future__ import annotations

import json
import re
import secrets
import threading
from collections.abc import Iterable, Mapping
from itertools import groupby, takewhile
from typing import Any

from tokenizers import AddedToken, Tokenizer

from common.errors import InvalidRequestError

_PRIVATE_USE = range(0xE000, 0xF8FF)


def _unguessable() -> str:
    """A text that no client writes: with it one could write a token under its new name."""
    return "".join(chr(secrets.choice(_PRIVATE_USE)) for _ in range(12))


_MARK = _unguessable()
# A template may ask `tojson` for ASCII, also of what it has made by `tojson`.
_MARKS = re.compile(_MARK + "|" + json.dumps(_MARK)[1:-1].replace("\\", r"\\+"))


class SpecialTokens:
    """Those of one tokenizer. Thread-safe.

    Args:
        tokenizer: Not modified.

    Attributes:
        match_variants: The tokenizer finds some of them in normalized text, so that other texts may
            read as they do: then every chat is to be encoded here.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._added = tokenizer.get_added_tokens_decoder()
        special = [token for token in self._added.values() if token.special]
        contents = [token.content for token in special]
        self._special = _any_of(contents)
        self._any = _any_of(token.content for token in self._added.values())
        self._beginnings = tuple({text[:i] for text in contents for i in range(1, len(text))})
        self.match_variants = tokenizer.normalizer is not None and any(
            token.normalized for token in special
        )
        self._copy: _Copy | None = None
        self._copying = threading.Lock()

    @property
    def is_ready(self) -> bool:
        """Whether the copy has been made, which takes as long as reading the tokenizer."""
        return self._copy is not None

    def disarmed(self, value: Any) -> Any:
        """A value of JSON's types whose texts, and names, hold no special token; not modified."""
        if isinstance(value, str):
            return self._broken(value)
        if isinstance(value, Mapping):
            return {self.disarmed(name): self.disarmed(each) for name, each in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(map(self.disarmed, value))
        return value

    def encode(self, text: str) -> list[int]:
        """The token ids of what a template made of disarmed values; adds no special tokens.

        Raises:
            InvalidRequestError: There are special tokens in the values, and the tokenizer cannot
                read them as text.
        """
        copy = self._made_copy()
        if copy.is_faithful:
            renamed = self._any.sub(lambda found: copy.names.get(found[0], found[0]), text)
            return copy.encode(_MARKS.sub("", renamed))
        plain = _MARKS.sub("", text)
        if len(self._special.findall(plain)) != len(self._special.findall(text)):
            raise InvalidRequestError(
                "The messages contain special tokens of the model, which its tokenizer cannot read "
                "as text: expected texts without them.",
                param="messages",
            )
        [encoding] = self._tokenizer.encode_batch([plain], add_special_tokens=False)
        return list(encoding.ids)

    def _broken(self, text: str) -> str:
        # Again, for a token that overlaps a broken one may be whole.
        while self._special.search(text):
            text = self._special.sub(lambda found: found[0][0] + _MARK + found[0][1:], text)
        end = text.rstrip()
        if end.endswith(self._beginnings):  # the next part of the content may bring the rest
            text = end + _MARK + text[len(end) :]
        return text

    def _made_copy(self) -> _Copy:
        with self._copying:
            if self._copy is None:
                self._copy = _Copy(self._tokenizer, self._added)
            return self._copy


class _Copy:
    """A tokenizer that knows special tokens by new names alone.

    Attributes:
        names: The new ones by the old ones.
        is_faithful: Whether the new names give what the old ones gave, and the old ones text.
    """

    def __init__(self, tokenizer: Tokenizer, added: Mapping[int, AddedToken]) -> None:
        self._tokenizer = Tokenizer.from_str(tokenizer.to_str())
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._tokenizer.encode_special_tokens = True  # by their old names, as text
        special = {token_id: token for token_id, token in added.items() if token.special}
        self.names = {token.content: _unguessable() for token in special.values()}
        self._tokenizer.add_tokens([_renamed(token, self.names) for token in special.values()])
        self._ids = {
            self._tokenizer.token_to_id(self.names[token.content]): token_id
            for token_id, token in special.items()
        }
        self.is_faithful = all(
            self.encode(before + self.names[token.content] + after)
            == tokenizer.encode(before + token.content + after, add_special_tokens=False).ids
            and token_id not in self.encode(before + token.content + after)
            for token_id, token in special.items()
            # Some are tokens only where no word is beside them; then a new name would stay as text.
            for before, after in (("", ""), ("a ", " b"), ("a", "b"))
        )

    def encode(self, text: str) -> list[int]:
        """The ids that the original has for these tokens."""
        # As a batch, which holds no interpreter lock.
        [encoding] = self._tokenizer.encode_batch([text], add_special_tokens=False)
        return [self._ids.get(token_id, token_id) for token_id in encoding.ids]


def _renamed(token: AddedToken, names: Mapping[str, str]) -> AddedToken:
    return AddedToken(
        names[token.content],
        single_word=token.single_word,
        lstrip=token.lstrip,
        rstrip=token.rstrip,
        normalized=token.normalized,
        special=False,
    )


def _any_of(texts: Iterable[str]) -> re.Pattern[str]:
    """Finds the longest of some texts, as tokenizers do, but none that a mark behind it breaks."""
    known = sorted({text for text in texts if text})
    choice = _choice(known) if known else r"(?!)"
    return re.compile(f"(?:{choice})(?!{_MARK})")


def _choice(texts: list[str]) -> str:
    """A pattern of some sorted texts, the longest first, that reads what they share only once.

    Many models have hundreds of tokens with one beginning.
    """
    pairs = zip(texts[0], texts[-1], strict=False)  # sorted, so all between share it too
    shared = "".join(a for a, _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    rests = [text[len(shared) :] for text in texts]
    branches = [_choice(list(group)) for first, group in groupby(rests, _first) if first]
    if not branches:
        return re.escape(shared)
    return f"{re.escape(shared)}(?:{'|'.join(branches)}){'?' if '' in rests else ''}"


def _first(text: str) -> str:
    return text[:1]
