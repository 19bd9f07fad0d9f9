"""The engine's grammars: sequences that wait for theirs, and the masks of a step.

Everything here belongs to the engine's thread, except for the compiling.
"""

import logging
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cached_property

from worker.engine.errors import RequestError
from worker.engine.grammar import GrammarCompiler, Matcher
from worker.engine.live_sequence import LiveSequence
from worker.engine.loader import LoadedModel
from worker.engine.token_masks import RowMask, TokenMasks

logger = logging.getLogger(__name__)

COMPILE_LIMIT_S = 30.0
"""A grammar that takes longer ends its request. The thread goes on, for it cannot be stopped."""


@dataclass(frozen=True, slots=True)
class Compiled:
    """What became of one sequence's grammar."""

    key: int
    result: Matcher | RequestError


class Grammars:
    """Iterates over the sequences that wait for their grammar."""

    def __init__(
        self, loaded: LoadedModel, max_rows: int, deliver: Callable[[Compiled], None]
    ) -> None:
        """Read the model's tokenizer; one that llguidance does not know is only reported.

        Args:
            loaded: The model.
            max_rows: Sequences of a step at most.
            deliver: Called on another thread when a grammar is ready, or has failed.
        """
        self._loaded = loaded
        self._max_rows = max_rows
        self._deliver = deliver
        self._waiting: dict[int, tuple[LiveSequence, float]] = {}
        self._filling: tuple[list[LiveSequence], Future[None]] | None = None
        self._compiler: GrammarCompiler | None = None
        try:
            backend = loaded.tokenizer.backend_tokenizer
            self._compiler = GrammarCompiler(backend, loaded.vocab_size)
        except ValueError as error:
            logger.warning("this model's output cannot follow a grammar: %s", error)

    def __len__(self) -> int:
        """How many sequences wait."""
        return len(self._waiting)

    def __iter__(self) -> Iterator[LiveSequence]:
        """Iterate over a copy."""
        return iter([sequence for sequence, _ in self._waiting.values()])

    def compile(self, sequence: LiveSequence, now: float, *, alone: bool = False) -> None:
        """Let a sequence wait for its grammar, which is compiled on a thread of its own.

        Args:
            sequence: Has a grammar, and is in no batch.
            now: The clock, in seconds.
            alone: Share nothing with other sequences of the same grammar.

        Raises:
            RequestError: The model's tokenizer cannot be used for it.
        """
        compiler, lark = self._compiler, sequence.request.grammar
        assert lark is not None
        if compiler is None:
            raise RequestError("invalid_request", "this model's output cannot follow a grammar")
        key, ids = sequence.key, tuple(sequence.transcript.token_ids)
        if alone:
            compiler.forget(lark)

        def run() -> None:
            try:
                result: Matcher | RequestError = compiler.compile(lark, ids, alone=alone)
            except RequestError as error:
                result = error
            except Exception:
                # Nobody else would hear of it, and the sequence would wait in vain.
                logger.exception("a grammar could not be compiled")
                result = RequestError("engine_error", "the grammar could not be compiled")
            self._deliver(Compiled(key, result))

        threading.Thread(target=run, name="grammar", daemon=True).start()
        self._waiting[key] = (sequence, now)

    def take(self, key: int) -> LiveSequence | None:
        """Let a sequence wait no longer; None where it has ended meanwhile."""
        sequence, _ = self._waiting.pop(key, (None, 0.0))
        return sequence

    def remove(self, sequences: Collection[LiveSequence]) -> list[LiveSequence]:
        """Take out those that wait here, and return the others."""
        return [sequence for sequence in sequences if self.take(sequence.key) is None]

    def overdue(self, now: float) -> list[LiveSequence]:
        """Return the sequences whose grammar takes too long."""
        waiting = list(self._waiting.values())
        return [sequence for sequence, since in waiting if now - since >= COMPILE_LIMIT_S]

    def begin_masks(self, sequences: Sequence[LiveSequence]) -> None:
        """Start to work out what these may draw next; those without a grammar are left out."""
        assert self._filling is None
        guided = [sequence for sequence in sequences if sequence.matcher is not None]
        if guided:
            self._filling = guided, self._masks.begin([s.matcher for s in guided if s.matcher])

    def take_masks(self) -> dict[int, RowMask]:
        """Wait for what `begin_masks` began, and return it by the sequences' keys."""
        if self._filling is None:
            return {}
        (guided, filling), self._filling = self._filling, None
        filling.result()
        matchers = [s.matcher for s in guided if s.matcher]
        masks = self._masks.read(matchers, [s.sampling_row for s in guided])
        return {s.key: mask for s, mask in zip(guided, masks, strict=True)}

    @cached_property
    def _masks(self) -> TokenMasks:
        assert self._compiler is not None
        return TokenMasks(
            self._compiler,
            vocab_size=self._loaded.vocab_size,
            eos_ids=self._loaded.eos_ids,
            max_rows=self._max_rows,
            device=self._loaded.device,
        )
