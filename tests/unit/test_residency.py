"""Which models a worker loads and unloads, decided by hand-made views."""

from __future__ import annotations

from dataclasses import replace

import pytest

from common.schemas import JobClass
from worker.residency import (
    LEAST_TURN_S,
    LOADS_PER_SWAP,
    LOST_FACTOR,
    OUTRANK_AFTER_S,
    SWAP_AFTER_S,
    ModelView,
    Residency,
    Step,
)


def unloaded(model: str, waiting: int = 0, **changes: object) -> ModelView:
    """A model that was loaded once."""
    return ModelView(model, num_waiting=waiting, **({"was_tried": True} | changes))  # type: ignore[arg-type]


def loaded(model: str, running: int = 0, **changes: object) -> ModelView:
    return ModelView(model, is_loaded=True, was_tried=True, num_running=running, **changes)  # type: ignore[arg-type]


def test_at_the_start_models_are_loaded_in_order_as_many_as_there_is_room_for() -> None:
    residency = Residency(["a", "b", "c"], 2)
    a, b, c = (ModelView(model) for model in "abc")
    assert residency.next_step([a, b, c], 0) == Step("load", "a")
    assert residency.next_step([loaded("a"), b, c], 0) == Step("load", "b")
    assert residency.next_step([loaded("a"), loaded("b"), c], 0) is None


def test_a_model_that_cannot_be_loaded_does_not_hold_up_the_next_one_and_is_tried_again() -> None:
    residency = Residency(["a", "b"], 2)
    a = unloaded("a", has_failed=True, retry_at_s=5)
    assert residency.next_step([a, ModelView("b")], 0) == Step("load", "b")
    assert residency.next_step([a, loaded("b")], 4) is None
    assert residency.next_step([a, loaded("b")], 5) == Step("load", "a")


def test_a_model_is_loaded_when_its_first_job_waits() -> None:
    residency = Residency(["a", "b"], 2)
    assert residency.next_step([loaded("a"), unloaded("b", waiting=1)], 0) == Step("load", "b")


def test_the_idle_model_that_was_used_longest_ago_gives_way() -> None:
    residency = Residency(["a", "b", "c", "d"], 3)
    views = [
        loaded("a", running=1, used_at_s=1),
        loaded("b", used_at_s=3),
        loaded("c", used_at_s=2),
        unloaded("d", waiting=1),
    ]
    assert residency.next_step(views, 4) == Step("unload", "c")
    views[2] = unloaded("c")
    assert residency.next_step(views, 4) == Step("load", "d")


def test_a_model_whose_jobs_wait_is_not_idle() -> None:
    residency = Residency(["a", "b"], 1)
    views = [loaded("a", num_waiting=1), unloaded("b", waiting=1)]
    assert residency.next_step(views, 0) is None


def test_a_busy_model_is_held_only_when_another_has_waited_long_and_unloaded_when_it_is_done() -> (
    None
):
    residency = Residency(["a", "b"], 1)
    a, b = loaded("a", running=2, num_waiting=9), unloaded("b", waiting=1)
    assert residency.next_step([a, b], 100) is None
    assert residency.next_step([a, b], 100 + SWAP_AFTER_S - 0.1) is None
    assert residency.next_step([a, b], 100 + SWAP_AFTER_S) == Step("hold", "a")
    held = loaded("a", running=1, num_waiting=9, is_held=True)
    assert residency.next_step([held, b], 111) is None
    held = loaded("a", running=0, num_waiting=9, is_held=True)
    assert residency.next_step([held, b], 112) == Step("unload", "a")
    a = unloaded("a", waiting=9)
    assert residency.next_step([a, b], 112) == Step("load", "b")
    # Then its turn comes again, counted from here.
    b = loaded("b", running=1, loaded_at_s=113)
    assert residency.next_step([a, b], 112 + SWAP_AFTER_S - 0.1) is None
    assert residency.next_step([a, b], 112 + SWAP_AFTER_S) == Step("hold", "b")


def test_a_model_that_loads_slowly_is_swapped_in_seldom() -> None:
    residency = Residency(["a", "b"], 1)
    views = [loaded("a", running=1), unloaded("b", waiting=1, load_s=60)]
    assert residency.next_step(views, 0) is None
    assert residency.next_step(views, LOADS_PER_SWAP * 60 - 1) is None
    assert residency.next_step(views, LOADS_PER_SWAP * 60) == Step("hold", "a")


def test_of_busy_models_the_one_that_has_been_loaded_longest_gives_way() -> None:
    residency = Residency(["a", "b", "c"], 2)
    views = [
        loaded("a", running=1, loaded_at_s=7, used_at_s=8),
        loaded("b", running=1, loaded_at_s=6, used_at_s=9),
        unloaded("c", waiting=1),
    ]
    residency.next_step(views, 10)
    assert residency.next_step(views, 10 + SWAP_AFTER_S) == Step("hold", "b")


def test_a_held_model_takes_jobs_again_when_nobody_waits_for_its_room_any_more() -> None:
    residency = Residency(["a", "b"], 1)
    views = [loaded("a", running=1, is_held=True), unloaded("b")]
    assert residency.next_step(views, 0) == Step("resume", "a")


def test_the_model_that_has_waited_longest_is_loaded_first() -> None:
    residency = Residency(["a", "b", "c"], 1)
    busy = loaded("a", running=1)
    residency.next_step([busy, unloaded("b"), unloaded("c", waiting=1)], 0)
    residency.next_step([busy, unloaded("b", waiting=5), unloaded("c", waiting=1)], 1)
    views = [unloaded("a"), unloaded("b", waiting=5), unloaded("c", waiting=1)]
    assert residency.next_step(views, 2) == Step("load", "c")


def test_no_busy_model_gives_way_to_one_whose_last_load_failed() -> None:
    residency = Residency(["a", "b", "c"], 1)
    busy = loaded("a", running=1)
    failed = unloaded("b", waiting=1, has_failed=True)
    for now_s in (0, 1000):
        assert residency.next_step([busy, failed, unloaded("c")], now_s) is None
    # Nor does it hold up another one that waits behind it.
    views = [busy, failed, unloaded("c", waiting=1)]
    residency.next_step(views, 1001)
    assert residency.next_step(views, 1001 + SWAP_AFTER_S) == Step("hold", "a")


def test_an_idle_model_stays_where_the_one_that_waits_is_not_to_be_tried_yet() -> None:
    residency = Residency(["a", "b"], 1)
    views = [loaded("a"), unloaded("b", waiting=1, has_failed=True, retry_at_s=9)]
    assert residency.next_step(views, 8) is None
    assert residency.next_step(views, 9) == Step("unload", "a")


def test_room_that_nobody_wants_is_given_to_the_models_of_the_start() -> None:
    residency = Residency(["a", "b"], 1)
    assert residency.next_step([unloaded("a"), unloaded("b")], 0) == Step("load", "a")


def outranked_at(residency: Residency, views: list[ModelView], now_s: float) -> Step | None:
    """What is done once a job has waited for as long as another worker might take to claim it."""
    assert residency.next_step(views, now_s) is None
    assert residency.next_step(views, now_s + OUTRANK_AFTER_S / 2) is None
    return residency.next_step(views, now_s + OUTRANK_AFTER_S)


@pytest.mark.parametrize(
    ("running", "waiting", "other"),
    [("low", "low", "normal"), ("low", None, "high"), ("normal", "low", "high")],
)
def test_a_model_gives_way_at_once_to_a_class_above_all_that_it_runs_and_has_waiting(
    running: JobClass, waiting: JobClass | None, other: JobClass
) -> None:
    a = loaded("a", 2, first_running=running, first_waiting=waiting, num_waiting=9)
    b = unloaded("b", 1, first_waiting=other)
    assert outranked_at(Residency(["a", "b"], 1), [a, b], 100) == Step("yield", "a", other)


@pytest.mark.parametrize(
    ("running", "waiting", "other"),
    [("normal", "low", "normal"), ("low", "normal", "normal"), (None, None, "low")],
)
def test_a_model_with_anything_of_the_same_class_keeps_its_place_for_now(
    running: JobClass | None, waiting: JobClass | None, other: JobClass
) -> None:
    a = loaded("a", 2, first_running=running, first_waiting=waiting, num_waiting=9)
    b = unloaded("b", 1, first_waiting=other)
    assert outranked_at(Residency(["a", "b"], 1), [a, b], 100) is None


def test_of_outranked_models_the_one_of_the_lowest_class_gives_way() -> None:
    views = [
        loaded("a", 1, first_running="normal", loaded_at_s=1),
        loaded("b", 1, first_running="low", loaded_at_s=2),
        unloaded("c", 1, first_waiting="high"),
    ]
    step = outranked_at(Residency(["a", "b", "c"], 2), views, 100)
    assert step == Step("yield", "b", "high")


def test_a_model_that_gives_way_is_asked_once_and_unloaded_when_nothing_runs() -> None:
    residency = Residency(["a", "b"], 1)
    b = unloaded("b", 1, first_waiting="normal")
    a = loaded("a", 2, first_running="low", is_held=True)
    assert outranked_at(residency, [a, b], 100) == Step("yield", "a", "normal")
    a = loaded("a", 2, first_running="low", is_held=True, is_yielding=True)
    assert residency.next_step([a, b], 102) is None
    a = loaded("a", 0, num_waiting=2, first_waiting="low", is_held=True, is_yielding=True)
    assert residency.next_step([a, b], 103) == Step("unload", "a")


@pytest.mark.parametrize("load_s", [0.0, 30.0])
def test_a_model_that_was_just_loaded_has_its_turn_first(load_s: float) -> None:
    residency = Residency(["a", "b"], 1)
    a = loaded("a", 2, first_running="low", loaded_at_s=100, load_s=load_s)
    b = unloaded("b", 1, first_waiting="high", load_s=load_s)
    turn_s = max(LEAST_TURN_S, LOADS_PER_SWAP * load_s)
    assert residency.next_step([a, b], 100) is None
    assert residency.next_step([a, b], 100 + turn_s - 0.1) is None
    assert residency.next_step([a, b], 100 + turn_s) == Step("yield", "a", "high")


def test_a_turn_is_longer_than_the_last_one_in_which_work_was_lost() -> None:
    residency = Residency(["a", "b"], 1)
    a = loaded("a", 1, first_running="low", loaded_at_s=100, lost_s=4.0)
    b = unloaded("b", 1, first_waiting="normal")
    assert residency.next_step([a, b], 100) is None
    assert residency.next_step([a, b], 100 + LOST_FACTOR * 4 - 0.1) is None
    assert residency.next_step([a, b], 100 + LOST_FACTOR * 4) == Step("yield", "a", "normal")


@pytest.mark.parametrize("work_s", [1.0, 27.0, 100.0])
def test_a_low_job_that_begins_anew_each_time_ends_beside_normal_ones_that_never_end(
    work_s: float,
) -> None:
    residency, place, since_s, lost_s, is_held = Residency(["a", "b"], 1), "b", 0.0, 0.0, False
    for tick in range(4000):
        now_s = tick / 4
        if place == "a" and now_s - since_s >= work_s:
            return
        a, b = unloaded("a", 1, first_waiting="low"), unloaded("b", 9, first_waiting="normal")
        if place == "a":
            a = loaded("a", 1, first_running="low", loaded_at_s=since_s, is_held=is_held)
            a = replace(a, lost_s=lost_s)
        else:
            b = replace(b, is_loaded=True, num_running=1, loaded_at_s=since_s)
        step = residency.next_step([a, b], now_s)
        if step == Step("hold", "a"):  # its job runs on
            is_held = True
        elif step is not None:
            assert step.verb in ("hold", "yield")
            lost_s = now_s - since_s if step.verb == "yield" else lost_s
            place, since_s, is_held = "b" if place == "a" else "a", now_s, False
    pytest.fail("it never ended")


def test_models_are_loaded_by_the_highest_class_that_waits_until_one_has_waited_long() -> None:
    residency = Residency(["a", "b", "c"], 1)
    a, b = loaded("a", 1, first_running="high"), unloaded("b", 1, first_waiting="low")
    residency.next_step([a, b, unloaded("c")], 0)
    waiting = [unloaded("a"), b, unloaded("c", 1, first_waiting="normal")]
    assert residency.next_step(waiting, SWAP_AFTER_S - 1) == Step("load", "c")
    assert residency.next_step(waiting, SWAP_AFTER_S) == Step("load", "b")


def test_no_model_gives_way_to_a_higher_class_whose_last_load_failed() -> None:
    a = loaded("a", 1, first_running="low")
    b = unloaded("b", 1, first_waiting="high", has_failed=True)
    assert outranked_at(Residency(["a", "b"], 1), [a, b], 100) is None


def test_low_jobs_beside_normal_ones_that_never_end_keep_getting_turns() -> None:
    classes: dict[str, JobClass] = {"a": "low", "b": "normal"}
    residency, place, since_s = Residency(["a", "b"], 1), "a", 0.0
    turns: dict[str, list[float]] = {"a": [], "b": []}
    for tick in range(1000):
        now_s = tick / 4
        views = [
            loaded(model, 1, first_running=of, num_waiting=9, loaded_at_s=since_s)
            if model == place
            else unloaded(model, 9, first_waiting=of)
            for model, of in classes.items()
        ]
        step = residency.next_step(views, now_s)
        if step is not None:  # its jobs end, or are handed back, and the other one is loaded
            assert step.verb in ("hold", "yield")
            turns[place].append(now_s - since_s)
            place, since_s = "b" if place == "a" else "a", now_s
    assert len(turns["a"]) > 15
    assert all(turn_s >= LEAST_TURN_S for turn_s in turns["a"])
    assert all(turn_s <= SWAP_AFTER_S + 1 for turn_s in turns["b"])


@pytest.mark.parametrize("capacity", [1, 2])
def test_never_are_more_models_loaded_than_there_is_room_for(capacity: int) -> None:
    residency = Residency(["a", "b", "c"], capacity)
    views = {model: ModelView(model, num_waiting=1) for model in "abc"}
    for now_s in range(200):
        step = residency.next_step(list(views.values()), now_s)
        if step is not None and step.verb == "load":
            views[step.model] = loaded(step.model, num_waiting=1, loaded_at_s=now_s)
        elif step is not None and step.verb == "unload":
            views[step.model] = unloaded(step.model, waiting=1)
        elif step is not None:
            views[step.model] = loaded(step.model, num_waiting=1, is_held=True)
        assert sum(view.is_loaded for view in views.values()) <= capacity


def test_a_model_that_was_found_is_loaded_at_once_whether_there_is_room_or_not() -> None:
    residency = Residency(["a"], 1)
    found = unloaded("x", is_found=True)
    assert residency.next_step([loaded("a"), found], 0) == Step("load", "x")
    late = unloaded("x", is_found=True, retry_at_s=5)
    assert residency.next_step([loaded("a"), late], 0) is None
    assert residency.next_step([loaded("a"), late], 5) == Step("load", "x")


def test_a_model_that_was_found_leaves_the_room_to_the_others() -> None:
    residency = Residency(["a"], 1)
    assert residency.next_step([unloaded("a"), loaded("x", is_found=True)], 0) == Step("load", "a")
