"""What a job asks for reaches the engine, and what the engine tells reaches the job."""

from __future__ import annotations

import math
import threading
import weakref
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from common.chat_template import STAND_INS
from common.errors import ModelLoadError
from common.model_card import ModelCard
from common.model_catalog import CatalogEntry
from common.sampling import SamplingSpec
from common.settings import Settings
from tests.tiny_model import write_tiny_model
from worker.backends.base import BackendJob, Delta, MemoryShare
from worker.backends.transformers import TransformersBackend, _card
from worker.engine.loader import LoadedModel

BIASED = 66


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_tiny_model(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture(scope="module")
def backend(source: str) -> TransformersBackend:
    settings = Settings(_env_file=None, device="cpu", kv_cache_gib=0.1)
    backend = TransformersBackend(
        CatalogEntry("tiny", (), source, "transformers", "a tiny one", "Tiny"), settings
    )
    backend.load(lambda line: None)
    return backend


def run(backend: TransformersBackend, **extra: Any) -> list[Delta]:
    """Run one job to its end."""
    values = {"max_tokens": 6, "time_limit_s": 60, "seed": 1, "temperature": 0.0}
    backend.submit(BackendJob("run", (5, 6, 7), SamplingSpec(**values | extra), "normal"))
    deltas: list[Delta] = []
    stop = threading.Event()

    def deliver(new: Sequence[Delta]) -> None:
        deltas.extend(new)
        if any(delta.end is not None for delta in new):
            stop.set()

    backend.run(deliver, stop)
    return deltas


def test_logprobs_come_one_for_each_token_rounded_for_the_record(
    backend: TransformersBackend,
) -> None:
    deltas = run(backend, logprobs=3)
    for delta in deltas:
        [(token_id, found)] = zip(delta.token_ids, delta.logprobs, strict=True)
        assert (token_id, found.logprob) == found.top[0], "greedy takes the likeliest"
        assert len(found.top) == 3
        assert found.logprob < 0 or math.copysign(1, found.logprob) == 1, "no -0.0"
        assert all(value == round(value, 6) for _, value in found.top)
    plain = run(backend)
    assert all(delta.logprobs == () for delta in plain)
    assert [d.token_ids for d in plain] == [d.token_ids for d in deltas]


def test_a_logit_bias_and_stop_ids_are_obeyed(backend: TransformersBackend) -> None:
    [*_, last] = deltas = run(backend, logit_bias=((BIASED, 100.0),))
    assert [delta.token_ids for delta in deltas] == [(BIASED,)] * 6
    assert last.end is not None
    assert last.end.finish_reason == "length"
    [only] = run(backend, logit_bias=((BIASED, 100.0),), stop_token_ids=(BIASED,))
    assert (only.token_ids, only.texts) == ((BIASED,), ("",))
    assert only.end is not None
    assert only.end.finish_reason == "stop"


def test_a_token_that_the_model_lacks_fails_the_job_as_a_bad_request(
    backend: TransformersBackend,
) -> None:
    [only] = run(backend, logit_bias=((10**6, 1.0),))
    assert only.end is not None
    assert only.end.error_type == "InvalidRequestError"
    assert "logit_bias must be in [0, 257), got 1000000" in (only.end.error_message or "")


def test_a_closed_backend_gives_back_its_weights_and_its_cache(source: str) -> None:
    settings = Settings(_env_file=None, device="cpu")
    entry = CatalogEntry("tiny", (), source, "transformers", "", "Tiny", kv_cache_gib=0.1)
    backend = TransformersBackend(entry, settings, MemoryShare(3, 1))
    backend.load(lambda line: None)
    run(backend)
    engine = backend._engine
    assert engine is not None
    kept = [
        weakref.ref(part) for part in (engine, engine._runner, *engine._loaded.model.parameters())
    ]
    del engine
    backend.close()
    assert [part() for part in kept] == [None] * len(kept)
    backend.abort("run")  # as one that was on its way meanwhile


def test_a_model_has_its_own_dtype(source: str) -> None:
    settings = Settings(_env_file=None, device="cpu", dtype="float32", kv_cache_gib=0.1)
    entry = CatalogEntry("tiny", (), source, "transformers", "", "Tiny", dtype="bfloat16")
    card, _ = TransformersBackend(entry, settings).load(lambda line: None)
    assert card.dtype == "bfloat16"


def test_the_engine_tells_what_it_did_once_it_has_done_it(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    source = str(write_tiny_model(tmp_path_factory.mktemp("models") / "tiny"))
    settings = Settings(_env_file=None, device="cpu", kv_cache_gib=0.1)
    backend = TransformersBackend(
        CatalogEntry("tiny", (), source, "transformers", "", "Tiny"), settings
    )
    assert backend.stats() is None, "before the model is loaded"
    backend.load(lambda line: None)
    idle = backend.stats()
    assert idle is not None
    assert (idle.num_steps, idle.num_tokens, idle.num_running) == (0, 0, 0)
    run(backend)
    run(backend)
    threading.Thread(target=backend.run, args=(lambda deltas: None, stop := IdleThenStop())).start()
    assert stop.is_idle.wait(30)
    found = backend.stats()
    assert found is not None
    assert (found.num_tokens, found.num_running, found.num_waiting) == (12, 0, 0)
    assert found.num_steps >= 12
    cache = found.cache
    assert cache is not None
    assert (cache.hits + cache.misses, cache.used_tokens) == (6, 0)
    assert 2 <= cache.hits <= cache.reusable_tokens <= cache.capacity_tokens
    assert cache.num_entries >= 1
    assert cache.size_bytes > 0


class IdleThenStop(threading.Event):
    """Stops a backend at its second look, which comes after it was idle once."""

    def __init__(self) -> None:
        super().__init__()
        self.is_idle = threading.Event()
        self._num_looks = 0

    def is_set(self) -> bool:
        self._num_looks += 1
        if self._num_looks > 1:
            self.is_idle.set()
        return self._num_looks > 1


def run_choices(backend: TransformersBackend, jobs: list[BackendJob]) -> dict[int, list[Delta]]:
    """Run some choices of one job to their ends; the deltas of each."""
    found: dict[int, list[Delta]] = {job.choice: [] for job in jobs}
    stop = threading.Event()

    def deliver(new: Sequence[Delta]) -> None:
        for delta in new:
            found[delta.choice].append(delta)
        if all(deltas and deltas[-1].end is not None for deltas in found.values()):
            stop.set()

    for job in jobs:
        backend.submit(job)
    backend.run(deliver, stop)
    return found


def test_the_choices_of_a_job_differ_and_each_is_the_same_alone(
    backend: TransformersBackend,
) -> None:
    sampling = SamplingSpec(max_tokens=8, time_limit_s=60, seed=4, temperature=1.5, n=3)
    jobs = [BackendJob("run", (5, 6, 7), sampling, "normal", choice=c) for c in range(3)]
    together = run_choices(backend, jobs)
    ids = [tuple(i for d in together[c] for i in d.token_ids) for c in range(3)]
    assert len(set(ids)) == 3
    for job in jobs:
        [alone] = run_choices(backend, [job]).values()
        assert tuple(i for d in alone for i in d.token_ids) == ids[job.choice]


def test_the_logprobs_of_the_prompt_come_once_with_the_first_choice(
    backend: TransformersBackend,
) -> None:
    sampling = SamplingSpec(max_tokens=2, time_limit_s=60, seed=4, n=2, prompt_logprobs=1)
    jobs = [BackendJob("run", (5, 6, 7), sampling, "normal", choice=c) for c in range(2)]
    found = run_choices(backend, jobs)
    assert [len(delta.prompt_logprobs) for delta in found[0]] == [2, 0]
    assert [len(delta.prompt_logprobs) for delta in found[1]] == [0, 0]
    scored = run_choices(backend, [replace(jobs[0], sampling=replace(sampling, max_tokens=0))])
    [only] = scored[0]
    assert (only.token_ids, only.prompt_logprobs) == ((), found[0][0].prompt_logprobs)
    assert only.end is not None
    assert (only.end.status, only.end.finish_reason) == ("completed", "length")


@pytest.mark.parametrize("is_there", [True, False])
def test_where_a_model_lies_is_for_the_log_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, *, is_there: bool
) -> None:
    folder = tmp_path / "secret" / "weights"
    if is_there:
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{")
    entry = CatalogEntry("tiny", (), str(folder), "transformers", "", "Tiny")
    backend = TransformersBackend(entry, Settings(_env_file=None, device="cpu"))
    with pytest.raises(ModelLoadError) as raised:
        backend.load(lambda line: None)
    assert "secret" not in raised.value.message
    assert "'tiny'" in raised.value.message
    assert str(folder) in caplog.text


def test_a_time_limit_that_is_over_is_named(backend: TransformersBackend) -> None:
    *_, last = run(backend, time_limit_s=1e-6)
    assert last.end is not None
    assert (last.end.status, last.end.error_type) == ("expired", "DeadlineExceededError")
    assert "its time limit is 1e-06 s" in (last.end.error_message or "")


def card_of(*tokens: str, chat_template: Any = None) -> ModelCard:
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.BPE(vocab={}, merges=[])), chat_template=chat_template
    )
    tokenizer.add_tokens(list(tokens))
    loaded = SimpleNamespace(
        tokenizer=tokenizer, revision="r", architecture="A", vocab_size=9, precision="float32"
    )
    return _card("m", cast(LoadedModel, loaded), "{}", 8)


def test_a_llama_3_without_a_template_gets_our_own() -> None:
    template = card_of(*STAND_INS["llama3"]).chat_template
    assert template is not None
    assert "<|start_header_id|>" in template


def test_a_models_own_template_is_preferred_to_ours() -> None:
    assert card_of(*STAND_INS["llama3"], chat_template="own").chat_template == "own"


def test_a_model_without_a_template_and_without_these_tokens_has_none() -> None:
    assert card_of("<|eot_id|>").chat_template is None


def test_of_named_templates_the_default_and_the_one_for_tools_are_kept() -> None:
    card = card_of(chat_template={"default": "d", "tool_use": "t", "rag": "r"})
    assert (card.chat_template, card.tool_template) == ("d", "t")
