"""How many jobs each model of a worker takes, and what the worker says of it."""

from __future__ import annotations

import threading

import pytest

from common.errors import ModelLoadError
from common.fleet import FleetWriter, ServedModel
from common.model_catalog import CatalogEntry
from tests.fakes import FakeBackend
from worker.held_jobs import HeldJobs
from worker.host import EngineHost
from worker.registry import FIRST_RETRY_S, MAX_RETRY_S, ModelBusy, ModelRegistry


class Cards(FleetWriter):
    """Takes cards without a Redis."""

    def __init__(self) -> None:
        pass

    def publish_card(self, card: object, tokenizer_json: str) -> None:
        pass


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def entry(model: str, room: int = 2) -> CatalogEntry:
    return CatalogEntry(model, (), model, "transformers", "", model, max_batch_size=room)


def host(model: str, backend: FakeBackend | None = None) -> EngineHost:
    host = EngineHost(backend or FakeBackend(model), HeldJobs())
    assert host.load(Cards(), threading.Event())
    return host


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def models(clock: Clock) -> ModelRegistry:
    return ModelRegistry([entry("a", 2), entry("b", 3), entry("c", 5)], 2, clock)


def test_a_worker_has_places_for_any_models_that_may_be_loaded_together(
    models: ModelRegistry,
) -> None:
    assert models.num_slots == 5 + 3


def test_a_model_takes_as_many_jobs_as_it_has_places_whatever_the_others_do(
    models: ModelRegistry,
) -> None:
    models.put("a", host("a"), 1)
    models.put("b", host("b"), 1)
    with models.use("a"):
        assert models.is_open("a")
        with models.use("a"):
            assert not models.is_open("a")
            assert models.is_open("b")
            with pytest.raises(ModelBusy), models.use("a"):
                pass
            with models.use("b"):
                pass
        assert models.is_open("a")


def test_an_unloaded_unknown_or_held_model_takes_no_job(models: ModelRegistry) -> None:
    models.put("a", host("a"), 1)
    models.hold("a", is_held=True)
    for model in ("a", "b", "nobody"):
        with pytest.raises(ModelBusy), models.use(model):
            pass
    assert not models.is_open("a")
    models.hold("a", is_held=False)
    assert models.is_open("a")


def test_a_model_is_not_taken_out_while_a_job_uses_it(models: ModelRegistry) -> None:
    loaded = host("a")
    models.put("a", loaded, 1)
    with models.use("a"):
        assert models.take_out("a") is None
    assert models.take_out("a") is loaded
    assert models.loaded == []


def test_using_a_model_is_noted_at_its_begin_and_its_end(
    models: ModelRegistry, clock: Clock
) -> None:
    models.put("a", host("a"), 7)
    clock.now_s = 101
    with models.use("a"):
        clock.now_s = 102
    [a, *_] = models.views({"a": {"normal": 1, "low": 3}}, {"a": "low"})
    assert (a.loaded_at_s, a.load_s, a.used_at_s, a.num_waiting) == (100, 7, 102, 4)
    assert (a.first_running, a.first_waiting) == ("low", "normal")


def test_each_model_is_announced_as_it_stands(models: ModelRegistry) -> None:
    def states(is_consuming: bool = True) -> list[str]:
        return [s.state for s in models.announcements(is_consuming=is_consuming).values()]

    assert states() == ["loading", "loading", "unloaded"]  # two of them will be loaded now
    models.put("a", host("a"), 1)
    assert states(is_consuming=False) == ["loading", "loading", "unloaded"]
    models.note_failure("b", ModelLoadError("no such folder"))
    assert states() == ["ready", "error", "unloaded"]
    models.note_loading("c")
    assert states() == ["ready", "error", "loading"]
    assert models.announcements(is_consuming=True)["a"].revision == "r1:float32"
    assert models.announcements(is_consuming=True)["b"] == ServedModel("error", "no such folder")
    models.take_out("a")
    assert states() == ["unloaded", "error", "loading"]


def test_a_failure_that_may_pass_is_an_error_only_when_it_comes_again_and_again(
    models: ModelRegistry,
) -> None:
    for num_errors in (0, 0, 1):
        models.note_failure("a", ModelLoadError("out of memory", may_pass=True))
        assert len(models.errors()) == num_errors
    models.put("a", host("a"), 1)
    assert models.errors() == {}


def test_a_model_that_fails_is_tried_again_ever_later_until_it_is_loaded(
    models: ModelRegistry, clock: Clock
) -> None:
    error = ModelLoadError("no such folder")
    pauses = [models.note_failure("a", error) for _ in range(6)]
    assert pauses == [FIRST_RETRY_S, 10, 20, 40, MAX_RETRY_S, MAX_RETRY_S]
    assert models.views({}, {})[0].retry_at_s == clock.now_s + MAX_RETRY_S
    models.put("a", host("a"), 1)
    assert models.note_failure("a", error) == FIRST_RETRY_S


def test_a_model_that_jobs_have_loaded_again_is_no_error_while_it_is_tried(
    models: ModelRegistry,
) -> None:
    models.note_failure("c", ModelLoadError("no such folder"))
    assert list(models.errors()) == ["c"]
    models.note_loading("c")
    assert list(models.errors()) == []


def test_the_longest_step_of_all_engines_counts_for_the_heartbeat(models: ModelRegistry) -> None:
    assert models.step_s == 0
    for model, step_s in (("a", 3.0), ("b", 31.0)):
        backend = FakeBackend(model)
        backend.step_s = step_s
        models.put(model, host(model, backend), 1)
    assert models.step_s == 31


def test_an_abort_reaches_the_engine_that_runs_the_job(models: ModelRegistry) -> None:
    backend = FakeBackend("b")
    models.put("a", host("a"), 1)
    models.put("b", host("b", backend), 1)
    models.abort("run")
    assert backend.aborted.get_nowait() == "run"


def test_only_a_model_beside_others_is_ever_crowded(models: ModelRegistry) -> None:
    models.put("a", host("a"), 1)
    alone = ModelRegistry([entry("a", 1)], 1)
    alone.put("a", host("a"), 1)
    with models.use("a"), alone.use("a"):
        assert not models.is_crowded("a")
        with models.use("a"):
            assert models.is_crowded("a")
        assert not alone.is_crowded("a")


def found(model: str) -> CatalogEntry:
    return CatalogEntry(model, (), model, "ollama", "", model)


def test_before_anybody_has_looked_nothing_is_said_of_what_was_found(models: ModelRegistry) -> None:
    assert models.found is None
    models.note_found([])
    assert models.found == ()


def test_a_model_that_was_found_is_served_and_takes_none_of_the_room(
    models: ModelRegistry, clock: Clock
) -> None:
    assert models.note_found([found("a"), found("x")]) == ["x"]
    assert models.found == ("x",)
    assert [view.model for view in models.views({}, {}) if view.is_found] == ["x"]
    assert not models.has_room_for_all  # for a, b and c
    models.put("x", host("x"), 1)
    assert models.announcements(is_consuming=True)["x"].state == "ready"


def test_a_model_that_is_found_no_more_fails_its_jobs_and_is_not_loaded_again(
    models: ModelRegistry,
) -> None:
    models.note_found([found("x")])
    models.note_found([])
    assert models.found == ()
    served = models.announcements(is_consuming=True)["x"]
    assert served.state == "error"
    assert "`ollama pull x`" in (served.reason or "")
    assert [*models.errors()] == ["x"]
    assert "x" not in [view.model for view in models.views({}, {})]


def test_a_model_that_is_found_again_is_loaded_at_once(models: ModelRegistry, clock: Clock) -> None:
    models.note_found([found("x")])
    models.note_failure("x", ModelLoadError("no"))
    models.note_found([])
    assert models.note_found([found("x")]) == []
    assert models.found == ("x",)
    assert [*models.errors()] == []
    assert {view.model: view.retry_at_s for view in models.views({}, {})}["x"] == 0


def test_a_failure_of_a_model_that_stays_where_it_was_found_is_not_forgotten(
    models: ModelRegistry,
) -> None:
    models.note_found([found("x")])
    models.note_failure("x", ModelLoadError("no"))
    models.note_found([found("x")])
    assert [*models.errors()] == ["x"]


def test_a_configured_model_that_appears_on_the_servers_is_tried_again_at_once(
    models: ModelRegistry, clock: Clock
) -> None:
    models.note_found([])
    models.note_failure("a", ModelLoadError("not pulled"))
    models.note_found([found("a")])
    assert [*models.errors()] == []
    assert {view.model: view.retry_at_s for view in models.views({}, {})}["a"] == 0


def test_a_loaded_model_whose_servers_have_it_no_more_is_lost(models: ModelRegistry) -> None:
    backend = FakeBackend("a")
    models.put("a", host("a", backend), 1)
    assert models.lost() == []
    backend.is_lost = True
    assert models.lost() == ["a"]
