"""The scorer that was used last stays in memory, until its files change or another one is used."""

from __future__ import annotations

import logging
import threading

from common.errors import ScorerError
from worker.scoring.score import Scorer, load_scorer
from worker.scoring.storage import ScorerFiles

log = logging.getLogger(__name__)


class ScorerShelf:
    """Loads scorers for the jobs of one worker. Thread-safe."""

    def __init__(self, files: ScorerFiles) -> None:
        self._files = files
        self._lock = threading.Lock()
        self._scorer: Scorer | None = None
        self._key: tuple[str, str] | None = None
        self._stamp: tuple[int, ...] = ()

    def get(self, name: str, device: str) -> Scorer:
        """The scorer of a name, as its files are now.

        Where they have become broken, the one in memory is used on, and the error log says so.

        Args:
            name: Of the scorer.
            device: Where it computes.

        Raises:
            ScorerNotFoundError: There is no such scorer.
            ScorerError: It cannot be used, and is not in memory.
        """
        with self._lock:
            key = name, device
            kept = self._scorer if self._key == key else None
            try:
                stamp = self._files.stamp(name)
                if kept is not None and stamp == self._stamp:
                    return kept
                scorer = load_scorer(self._files, name, device)
            except ScorerError as error:
                if kept is None:
                    raise
                log.error("%s; the one in memory is used on", error.message)
                return kept
            self._scorer, self._key, self._stamp = scorer, key, stamp
            return scorer
