"""llama.cpp, driven by its batches as its own server does: many sequences in one decode."""

from __future__ import annotations

import contextlib
import ctypes
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import llama_cpp
import numpy

CHUNK_TOKENS = 512
"""Of a prompt's batch: llama.cpp's own default."""

_Token = tuple[int, int, int, bool]  # id, position, sequence, whether its logits are wanted


@llama_cpp.llama_log_callback
def _no_log(level: int, text: bytes, data: ctypes.c_void_p) -> None:
    """Be quiet."""


class LlamaCpp:
    """A model with a cache for a number of sequences, each with its own part of it."""

    name = "llama.cpp"

    def __init__(self, path: Path, *, num_threads: int) -> None:
        llama_cpp.llama_log_set(_no_log, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        self._model = llama_cpp.llama_model_load_from_file(
            str(path).encode(), llama_cpp.llama_model_default_params()
        )
        assert self._model, f"llama.cpp cannot load {path}"
        vocab = llama_cpp.llama_model_get_vocab(self._model)
        self._vocab_size = llama_cpp.llama_vocab_n_tokens(vocab)
        self._num_threads = num_threads

    def run(self, prompts: Sequence[Sequence[int]], num_new: int) -> list[list[float]]:
        """Answer all prompts greedily; the times of each one's tokens."""
        with _Context(self._model, self._num_threads, prompts, num_new) as context:
            tokens = context.prefill(prompts, self._vocab_size)
            stamps = [[time.perf_counter()] for _ in prompts]
            position = len(prompts[0])
            for step in range(num_new - 1):
                batch = [(t, position + step, i, True) for i, t in enumerate(tokens)]
                context.decode(batch)
                tokens = [context.best(row, self._vocab_size) for row in range(len(prompts))]
                now = time.perf_counter()
                for stamp in stamps:
                    stamp.append(now)
        return stamps

    def last_logits(self, prompt: Sequence[int]) -> numpy.ndarray:
        """The logits after a prompt, to compare with those of the others."""
        with _Context(self._model, self._num_threads, [prompt], 1) as context:
            context.prefill([prompt], self._vocab_size)
            return context.logits(-1, self._vocab_size).copy()


class _Context(contextlib.AbstractContextManager["_Context"]):
    def __init__(
        self,
        model: llama_cpp.llama_model_p,
        num_threads: int,
        prompts: Sequence[Sequence[int]],
        num_new: int,
    ) -> None:
        params = llama_cpp.llama_context_default_params()
        # Its cache is padded to 256 tokens a sequence.
        per_sequence = -(-(len(prompts[0]) + num_new) // 256) * 256
        params.n_ctx = per_sequence * len(prompts)
        params.n_batch = params.n_ubatch = CHUNK_TOKENS
        params.n_seq_max = len(prompts)
        params.n_threads = params.n_threads_batch = num_threads
        params.kv_unified = False  # faster where the sequences share nothing
        params.no_perf = True
        self._context = llama_cpp.llama_init_from_model(model, params)
        assert self._context, "llama.cpp makes no context"
        self._batch = llama_cpp.llama_batch_init(CHUNK_TOKENS, 0, 1)

    def __exit__(self, *_: object) -> None:
        llama_cpp.llama_batch_free(self._batch)
        llama_cpp.llama_free(self._context)

    def prefill(self, prompts: Sequence[Sequence[int]], vocab_size: int) -> list[int]:
        """Read all prompts in; the first new token of each."""
        firsts: list[int] = []
        tokens = [
            (token, position, index, position == len(prompt) - 1)
            for index, prompt in enumerate(prompts)
            for position, token in enumerate(prompt)
        ]
        for start in range(0, len(tokens), CHUNK_TOKENS):
            chunk = tokens[start : start + CHUNK_TOKENS]
            self.decode(chunk)
            rows = [row for row, (*_, wanted) in enumerate(chunk) if wanted]
            firsts += [self.best(row, vocab_size) for row in rows]
        return firsts

    def decode(self, tokens: Iterable[_Token]) -> None:
        """Run some tokens."""
        batch, count = self._batch, 0
        for row, (token, position, sequence, wanted) in enumerate(tokens):
            batch.token[row] = token
            batch.pos[row] = position
            batch.n_seq_id[row] = 1
            batch.seq_id[row][0] = sequence
            batch.logits[row] = wanted
            count = row + 1
        batch.n_tokens = count
        status = llama_cpp.llama_decode(self._context, batch)
        assert status == 0, f"llama_decode failed with {status}"

    def logits(self, row: int, vocab_size: int) -> numpy.ndarray:
        """The logits of one row of the last batch, valid until the next one."""
        pointer = llama_cpp.llama_get_logits_ith(self._context, row)
        return numpy.ctypeslib.as_array(pointer, (vocab_size,))

    def best(self, row: int, vocab_size: int) -> int:
        """The greedy token; its own sampler would sort structs of the whole vocabulary first."""
        return int(self.logits(row, vocab_size).argmax())
