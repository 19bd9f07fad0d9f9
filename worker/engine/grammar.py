"""Compile grammars and follow them token by token, with llguidance; nothing here is a tensor.

A grammar is a text in llguidance's dialect of Lark, in which a regex is `start: /.../` and a JSON
schema `start: %json {...}`. Compiling one takes from a millisecond to a second and is meant for a
thread of its own; llguidance lets the interpreter lock go meanwhile. What it may cost is bounded
by `LIMITS`, but not in every case: a grammar from a stranger is to be tried in another process
first, which can be killed.

Source:
    llguidance, docs/syntax.md and parser/src/api.rs (`ParserLimits`).
"""

import json
import threading
from collections import OrderedDict
from collections.abc import Sequence

from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from tokenizers import Tokenizer

from worker.engine.errors import RequestError

LIMITS = {
    "max_items_in_row": 2_000,
    "initial_lexer_fuel": 500_000,
    "step_lexer_fuel": 200_000,
    "step_max_items": 10_000,
    "max_lexer_states": 50_000,
    "max_grammar_size": 200_000,
}
"""Below llguidance's own in what a step may cost: 50,000 items took 230 ms, these take 45 ms."""

CACHED_GRAMMARS = 64
COMPILED_AT_ONCE = 2
MAX_ERROR_CHARS = 300

_END = "<|end of the grammar|>"
_NO_FORCING = '\n%llguidance {"no_forcing": true}\n'
"""Else a text that must follow is tokenized anew at each step: 60 ms each for one of 60 KB, and
0.7 s for `/a{1000000}/`."""


class Matcher:
    """Where one sequence is in its grammar.

    Attributes:
        is_shared: Other sequences have used, and may use, what it has worked out so far. When one
            of them goes over a limit, all of them fail with it.
    """

    def __init__(self, inner: LLMatcher, *, is_shared: bool) -> None:
        """Stand at the grammar's beginning."""
        self._inner = inner
        self.is_shared = is_shared

    @property
    def inner(self) -> LLMatcher:
        """For whoever fills masks."""
        return self._inner

    @property
    def is_complete(self) -> bool:
        """Whether the grammar is fulfilled, and nothing can follow."""
        return self._inner.is_stopped() and not self._inner.is_error()

    @property
    def error(self) -> str | None:
        """Why it cannot go on, in one line; None while it can."""
        return _one_line(self._inner.get_error()) if self._inner.is_error() else None

    def advance(self, token_ids: Sequence[int]) -> None:
        """Go on by these tokens. One that does not fit is an error, see `error`."""
        # One call each: it holds the interpreter lock, which others must get between.
        for token_id in token_ids:
            self._inner.consume_token(token_id)


class GrammarCompiler:
    """Makes matchers for one tokenizer; safe to use from several threads.

    Attributes:
        num_tokens: Ids that a mask is about: those of the model, and `end_id`.
        end_id: Stands in a mask for the grammar's end, and is no token of the model: which ids
            may end a sequence is for the caller to say.
    """

    def __init__(self, tokenizer: Tokenizer, vocab_size: int) -> None:
        """Read the tokenizer, which takes about a second for 150,000 tokens.

        Args:
            tokenizer: Of the model; it is not changed.
            vocab_size: The model's, padding counted.

        Raises:
            ValueError: It is of a kind that llguidance does not know.
        """
        copy = Tokenizer.from_str(tokenizer.to_str())
        copy.no_padding()
        copy.no_truncation()
        copy.add_special_tokens([_END])
        end_id = copy.token_to_id(_END)
        assert end_id is not None
        self.end_id = end_id
        self.num_tokens = max(vocab_size, copy.get_vocab_size(), end_id + 1)
        self._tokenizer = LLTokenizer(copy.to_str(), n_vocab=self.num_tokens, eos_token=end_id)
        self._limits = LLParserLimits(
            **LIMITS,
            # It is not bounded by the step limits, and it walks the whole vocabulary.
            precompute_large_lexemes=False,
            verbose_errors=False,
        )
        self._cache: OrderedDict[str, LLMatcher] = OrderedDict()
        self._cache_lock = threading.Lock()
        self._slots = threading.BoundedSemaphore(COMPILED_AT_ONCE)

    def compile(self, lark: str, committed_ids: Sequence[int], *, alone: bool = False) -> Matcher:
        """Return a matcher that has read the committed ids.

        Args:
            lark: The grammar.
            committed_ids: Completion tokens that it has already led to.
            alone: Share nothing with other sequences.

        Raises:
            RequestError: `invalid_request`: the grammar cannot be compiled, or the committed ids
                are not of it.
        """
        matcher = Matcher(self._fresh(lark) if alone else self._copy(lark), is_shared=not alone)
        matcher.advance(committed_ids)
        if matcher.error is not None and matcher.is_shared:
            self.forget(lark)
            return self.compile(lark, committed_ids, alone=True)
        if matcher.error is not None:
            raise RequestError(
                "invalid_request", f"committed_ids must follow the grammar: {matcher.error}"
            )
        return matcher

    def forget(self, lark: str) -> None:
        """Compile this grammar anew when it is next asked for."""
        with self._cache_lock:
            self._cache.pop(lark, None)

    def _copy(self, lark: str) -> LLMatcher:
        found = self._cached(lark)
        if found is None:
            found = self._fresh(lark)
            with self._cache_lock:
                self._cache[lark] = found
                while len(self._cache) > CACHED_GRAMMARS:
                    self._cache.popitem(last=False)
        return found.deep_copy()

    def _cached(self, lark: str) -> LLMatcher | None:
        with self._cache_lock:
            if lark in self._cache:
                self._cache.move_to_end(lark)
            return self._cache.get(lark)

    def _fresh(self, lark: str) -> LLMatcher:
        # As a list of one, for a text that begins with a brace would be read as a list itself.
        grammar = json.dumps({"grammars": [{"lark_grammar": lark + _NO_FORCING}]})
        with self._slots:
            matcher = LLMatcher(self._tokenizer, grammar, log_level=0, limits=self._limits)
        if matcher.is_error():
            error = _one_line(matcher.get_error())
            raise RequestError("invalid_request", f"the grammar must compile, got: {error}")
        return matcher


def _one_line(error: str) -> str:
    line = next((line.strip() for line in error.splitlines() if line.strip()), "no reason given")
    return line[:MAX_ERROR_CHARS]
