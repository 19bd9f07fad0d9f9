"""What memory gives: the limit of a decode step, which reads every weight once."""

from __future__ import annotations

import time

import torch

NUM_BYTES = 1 << 30
"""Far more than any cache holds."""

NUM_PASSES = 3


class Reader:
    """Reads one large buffer with all threads."""

    def __init__(self) -> None:
        self._buffer = torch.ones(NUM_BYTES // 4, dtype=torch.float32)

    def gb_per_s(self) -> float:
        """The best of several passes, in 10^9 bytes a second."""
        return max(self._one_pass() for _ in range(NUM_PASSES))

    def _one_pass(self) -> float:
        began = time.perf_counter()
        self._buffer.sum()
        return NUM_BYTES / (time.perf_counter() - began) / 1e9
