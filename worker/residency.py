"""Which of a worker's models are to be in memory: decides one step at a time, and does nothing.

Knows neither clocks nor Redis nor backends: what it decides from is handed in.

The rules, first come first:
* A model that was found on other servers takes no room, and is loaded at once.
* At the start, the first models are loaded, as many as there is room for, in their order.
* A model whose jobs wait is loaded: first those that have waited for their patience, which is
  `SWAP_AFTER_S` or `LOADS_PER_SWAP` times as long as the model takes to load, then by the highest
  class that waits, then the one that has waited longest. Where there is no room, the idle model
  that was used longest ago gives way.
* Where no model is idle, one whose jobs, running or waiting, are all of a lower class than a job
  that waits for another model gives way at once: it takes no more jobs, and hands those of the
  lower class back, to go on later. Not before it has been loaded for `LEAST_TURN_S`,
  `LOADS_PER_SWAP` times as long as loading takes, and `LOST_FACTOR` times as long as the work that
  was lost when it gave way before.
* Where none is of a lower class, and the jobs have waited for their patience, the model that has
  been loaded longest takes no more jobs; it gives way when those that run have ended.
* Room that nobody wants is given to the models of the start again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from common.schemas import JOB_CLASSES, JobClass

SWAP_AFTER_S = 10.0
LOADS_PER_SWAP = 2.0
"""So that of models that are all busy, loading takes a third of the time at most, and half of it
where they give way to higher classes."""
LEAST_TURN_S = 2.0
LOST_FACTOR = 2.0
"""So that a job which begins anew each time, as one that embeds, gets a turn that is enough."""
OUTRANK_AFTER_S = 0.5
"""Another worker that has the model loaded claims a job sooner."""

Verb = Literal["load", "unload", "hold", "yield", "resume"]


@dataclass(frozen=True, slots=True)
class Step:
    """What to do next.

    Attributes:
        verb: `hold`: let it take no more jobs; `yield`: besides, hand back those that it runs of a
            lower class than `to`; `resume`: let it take jobs again.
    """

    verb: Verb
    model: str
    to: JobClass | None = None


@dataclass(frozen=True, slots=True)
class ModelView:
    """One model as it stands. All times are of one clock, in seconds.

    Attributes:
        is_held: It is loaded and takes no more jobs.
        num_running: Jobs that it runs.
        num_waiting: Jobs in its line.
        is_yielding: It is held, and has handed back what it ran of lower classes.
        first_running, first_waiting: The highest class of these jobs; None without any, and where
            it is not known.
        used_at_s: When it last began or ended a job.
        loaded_at_s: When it was loaded.
        load_s: How long its last load took; 0 where that is not known.
        lost_s: When it last gave way: how long the job that had nothing to show for it had run.
        retry_at_s: It is not loaded before this.
        was_tried: It has been loaded, or could not be.
        has_failed: Its last load failed.
        is_found: Other servers run it, and it was found there: it takes no room.
    """

    model: str
    is_loaded: bool = False
    is_held: bool = False
    num_running: int = 0
    num_waiting: int = 0
    used_at_s: float = 0.0
    loaded_at_s: float = 0.0
    load_s: float = 0.0
    lost_s: float = 0.0
    retry_at_s: float = 0.0
    was_tried: bool = False
    has_failed: bool = False
    is_found: bool = False
    is_yielding: bool = False
    first_running: JobClass | None = None
    first_waiting: JobClass | None = None

    @property
    def rank(self) -> int:
        """Of the highest class that it runs or that waits for it: 0 is the highest."""
        return min(map(_rank, (self.first_running, self.first_waiting)))

    @property
    def patience_s(self) -> float:
        """For how long its jobs wait before busy models give way to it, whatever their class."""
        return max(SWAP_AFTER_S, LOADS_PER_SWAP * self.load_s)

    @property
    def is_idle(self) -> bool:
        """Whether it is loaded and has nothing to do."""
        return self.is_loaded and not self.num_running and not self.num_waiting


class Residency:
    """Decides for one worker.

    Args:
        models: In the order in which they are loaded at the start.
        capacity: Models that may be loaded at once.
    """

    def __init__(self, models: Sequence[str], capacity: int) -> None:
        self._capacity = capacity
        self._of_the_start = tuple(models[:capacity])
        self._waiting_since_s: dict[str, float] = {}

    def next_step(self, views: Sequence[ModelView], now_s: float) -> Step | None:
        """What to do now; None: nothing. A step has been done before the next one is asked for."""
        for view in views:
            if view.is_found and not view.is_loaded and view.retry_at_s <= now_s:
                return Step("load", view.model)
        views = [view for view in views if not view.is_found]
        self._note_waiting(views, now_s)
        wanted = self._next_wanted([view for view in views if not view.is_loaded], now_s)
        held = next((view for view in views if view.is_held), None)
        has_room = sum(view.is_loaded for view in views) < self._capacity
        if wanted is not None and has_room:
            return Step("load", wanted.model)
        if wanted is None or not wanted.num_waiting:
            return Step("resume", held.model) if held is not None else None
        if held is None:
            return self._make_room(views, wanted, now_s)
        if not held.num_running:
            return Step("unload", held.model)
        return None if held.is_yielding else self._outranked([held], views, now_s)

    def _note_waiting(self, views: Sequence[ModelView], now_s: float) -> None:
        waiting = [v.model for v in views if v.num_waiting and not v.is_loaded]
        since_s = self._waiting_since_s
        self._waiting_since_s = {model: since_s.get(model, now_s) for model in waiting}

    def _next_wanted(self, absent: Sequence[ModelView], now_s: float) -> ModelView | None:
        """The model to be loaded next, whether there is room or not."""
        able = [view for view in absent if view.retry_at_s <= now_s]
        of_the_start = [view for view in able if view.model in self._of_the_start]
        order = self._of_the_start.index
        of_the_start.sort(key=lambda view: (view.was_tried, order(view.model)))
        if of_the_start and not of_the_start[0].was_tried:
            return of_the_start[0]
        waiting = [view for view in able if view.num_waiting]
        if waiting:
            return min(waiting, key=lambda view: self._precedence(view, now_s))
        return of_the_start[0] if of_the_start else None

    def _precedence(self, view: ModelView, now_s: float) -> tuple[bool, bool, int, float]:
        since_s = self._waiting_since_s[view.model]
        is_overdue = now_s - since_s >= view.patience_s
        return view.has_failed, not is_overdue, 0 if is_overdue else view.rank, since_s

    def _outranked(
        self, loaded: Iterable[ModelView], views: Sequence[ModelView], now_s: float
    ) -> Step | None:
        """Which of the loaded models gives way to a higher class at once."""
        waiting = [
            view
            for view in views
            if view.model in self._waiting_since_s
            and now_s - self._waiting_since_s[view.model] >= OUTRANK_AFTER_S
            and view.retry_at_s <= now_s
            and not view.has_failed
        ]
        if not waiting:
            return None
        first = min(waiting, key=lambda view: view.rank)

        def has_had_its_turn(view: ModelView) -> bool:
            loads_s = LOADS_PER_SWAP * max(view.load_s, first.load_s)
            turn_s = max(LEAST_TURN_S, loads_s, LOST_FACTOR * view.lost_s)
            return now_s - view.loaded_at_s >= turn_s

        lower = [view for view in loaded if view.rank > first.rank and has_had_its_turn(view)]
        if not lower:
            return None
        model = min(lower, key=lambda view: (-view.rank, view.loaded_at_s)).model
        return Step("yield", model, first.first_waiting)

    def _make_room(
        self, views: Sequence[ModelView], wanted: ModelView, now_s: float
    ) -> Step | None:
        idle = [view for view in views if view.is_idle]
        if idle:
            return Step("unload", min(idle, key=lambda view: view.used_at_s).model)
        if wanted.has_failed:  # none that works is disturbed for one that may not
            return None
        loaded = [view for view in views if view.is_loaded]
        outranked = self._outranked(loaded, views, now_s)
        if outranked is not None:
            return outranked
        if now_s - self._waiting_since_s[wanted.model] < wanted.patience_s:
            return None
        # All of them were used just now: each in turn, so that none stays for ever.
        return Step("hold", min(loaded, key=lambda view: view.loaded_at_s).model)


def _rank(job_class: JobClass | None) -> int:
    return JOB_CLASSES.index(JOB_CLASSES[-1] if job_class is None else job_class)
