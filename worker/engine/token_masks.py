"""Which tokens the grammars of a step's rows allow, worked out while the model runs.

The masks come as bits from llguidance, on a thread of their own, into one tensor that is used
again at every step. Rows without a grammar cost nothing.

Shape suffixes (this file): N = rows that have a grammar; W = words of 32 bits; V = vocabulary.
"""

import os
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch
from llguidance import LLExecutor
from torch import Tensor

from worker.engine.grammar import GrammarCompiler, Matcher
from worker.engine.sampler import SamplingRow

MAX_FILL_THREADS = 8


@dataclass(frozen=True, slots=True)
class RowMask:
    """What one row may draw.

    Attributes:
        allowed_V: True for each token that may come next, on the model's device. All False where
            `ends` or `error` is set.
        ends: The grammar is fulfilled, and no token may follow.
        error: Why no mask could be worked out, or that it is empty.
    """

    allowed_V: Tensor
    ends: bool = False
    error: str | None = None

    @property
    def is_open(self) -> bool:
        """Whether a token can be drawn."""
        return not self.ends and self.error is None


class TokenMasks:
    """Fills and reads the masks of one engine."""

    def __init__(
        self,
        compiler: GrammarCompiler,
        *,
        vocab_size: int,
        eos_ids: frozenset[int],
        max_rows: int,
        device: torch.device,
    ) -> None:
        """Reserve the masks.

        Args:
            compiler: Made the matchers.
            vocab_size: Columns of the logits.
            eos_ids: Ids that end a sequence as far as the model is concerned.
            max_rows: Of a step.
            device: Where the logits are.
        """
        self._end_id = compiler.end_id
        self._vocab_size = vocab_size
        self._eos_ids = eos_ids
        self._device = device
        num_words = (compiler.num_tokens + 31) // 32
        self._bits_NW = torch.zeros(
            (max_rows, num_words), dtype=torch.int32, pin_memory=device.type == "cuda"
        )
        # Of each byte: its bits, the lowest first, as eight bools that are looked up as one number.
        bits = (torch.arange(256)[:, None] >> torch.arange(8)) & 1 == 1
        self._bools_of_byte = bits.view(torch.int64).flatten().to(device)
        num_threads = max(1, min(MAX_FILL_THREADS, (os.cpu_count() or 1) // 2))
        self._executor = LLExecutor(num_threads)
        self._thread = ThreadPoolExecutor(1, "token-masks")

    def begin(self, matchers: Sequence[Matcher]) -> Future[None]:
        """Start to fill a mask for each matcher, which nobody may touch until it is done."""
        assert 0 < len(matchers) <= len(self._bits_NW)
        # As `llguidance.torch` does it, whose import compiles a kernel that is not needed here.
        num_rows, num_words = self._bits_NW.shape
        return self._thread.submit(
            self._executor.unsafe_compute_mask_ptr,
            [(matcher.inner, row) for row, matcher in enumerate(matchers)],
            self._bits_NW.data_ptr(),
            num_words * self._bits_NW.element_size(),
            num_rows,
        )

    def read(self, matchers: Sequence[Matcher], rows: Sequence[SamplingRow]) -> list[RowMask]:
        """Return what each row may draw, once `begin` is done.

        The ids that end a sequence may be drawn where the grammar may end, and eos ids only
        there; none of them before `min_tokens`.

        Args:
            matchers: Those that `begin` had, in the same order.
            rows: What else is to be known of their sequences.
        """
        bits_NW = self._bits_NW[: len(matchers)].to(self._device, non_blocking=True)
        bytes_ = bits_NW.view(torch.uint8).flatten().int()
        bools = self._bools_of_byte.index_select(0, bytes_).view(torch.bool)
        allowed_NV = bools.view(len(matchers), -1)
        may_end = allowed_NV[:, self._end_id].tolist()
        allowed_NV[:, self._end_id] = False
        allowed_NV = allowed_NV[:, : self._vocab_size]
        for allowed_V, row, ends in zip(allowed_NV, rows, may_end, strict=True):
            self._set_ends(allowed_V, row, may_end=ends)
        is_any = allowed_NV.any(dim=-1).tolist()
        return [
            _row_mask(allowed_V, matcher.error, may_end=ends, is_any=some)
            for allowed_V, matcher, ends, some in zip(
                allowed_NV, matchers, may_end, is_any, strict=True
            )
        ]

    def _set_ends(self, allowed_V: Tensor, row: SamplingRow, *, may_end: bool) -> None:
        if may_end and not row.is_short:
            barred, free = self._eos_ids - row.end_ids, row.end_ids
        else:
            barred, free = self._eos_ids | (row.end_ids if row.is_short else set()), frozenset()
        for ids, value in ((barred, False), (free, True)):
            known = [token_id for token_id in ids if token_id < self._vocab_size]
            if known:
                allowed_V[torch.tensor(known, device=allowed_V.device)] = value


def _row_mask(allowed_V: Tensor, error: str | None, *, may_end: bool, is_any: bool) -> RowMask:
    if error is not None:  # the bits are those of an end then, and mean nothing
        return RowMask(torch.zeros_like(allowed_V), error=error)
    if is_any:
        return RowMask(allowed_V)
    if may_end:
        return RowMask(allowed_V, ends=True)
    return RowMask(allowed_V, error="no token of the model fits")
