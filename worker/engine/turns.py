"""Deals the inputs of several jobs into batches, so that none of them waits for another's end.

Within a batch the job that has the fewest tokens in it is next, so that jobs share it equally;
whoever got nothing is first in the next one. Knows nothing about models or clocks.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(slots=True)
class _Queue:
    """What is left of a job: indices of inputs, the next one last."""

    lengths: Sequence[int]
    most: int | None
    left: list[int] = field(default_factory=list)


class Turns:
    """The inputs that wait, of all jobs."""

    def __init__(self) -> None:
        self._queues: dict[str, _Queue] = {}  # in the order of their turns

    def __len__(self) -> int:
        """Inputs that wait."""
        return sum(len(queue.left) for queue in self._queues.values())

    def add(self, name: str, lengths: Sequence[int], most: int | None = None) -> None:
        """Add a job, by the tokens of each of its inputs; the longest go first.

        Neighbours are then of about one length, so that little of a batch is padding.

        Args:
            name: Of the job.
            lengths: In tokens, at least one.
            most: Of its inputs in one batch; None: as many as there is room for.
        """
        order = sorted(range(len(lengths)), key=lambda i: lengths[i])
        self._queues[name] = _Queue(lengths, most, order)

    def remove(self, name: str) -> None:
        """Drop what is left of a job; one that is unknown is ignored."""
        self._queues.pop(name, None)

    def deal(self, budget: int) -> list[tuple[str, int]]:
        """Take the next batch.

        Args:
            budget: Tokens, at most; an input that is longer makes a batch of its own.

        Returns:
            Pairs of a job and the index of an input; empty where none waits.
        """
        batch: list[tuple[str, int]] = []
        counts: Counter[str] = Counter()
        total = 0
        heap = [(0, turn, name) for turn, name in enumerate(self._queues)]
        while heap:
            taken, turn, name = heapq.heappop(heap)
            queue = self._queues[name]
            length = queue.lengths[queue.left[-1]]
            if batch and total + length > budget:
                continue
            batch.append((name, queue.left.pop()))
            total += length
            counts[name] += 1
            if queue.left and counts[name] != queue.most:
                heapq.heappush(heap, (taken + length, turn, name))
        self._end_round(set(counts))
        return batch

    def _end_round(self, served: set[str]) -> None:
        rest = {name: queue for name, queue in self._queues.items() if queue.left}
        first = {name: queue for name, queue in rest.items() if name not in served}
        self._queues = first | rest
