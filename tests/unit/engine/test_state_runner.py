"""Models with a state give `generate`'s tokens, and what fails leaves no trace in a state."""

import dataclasses
import functools
import logging

import pytest
import torch

from tests.unit.engine.test_exactness import assert_same, mixed_prompts
from worker.engine import state_cache, state_probe
from worker.engine.errors import ModelLoadError
from worker.engine.loader import load_model, unusual_layers
from worker.engine.runner import Chunk
from worker.engine.runner_choice import choose_runner
from worker.engine.state_runner import Abilities, StateRunner

# What transformers' code of each family can do.
EXTEND, BATCH = "extend", "batch"
FAMILIES = {
    "mamba": {BATCH},
    "mamba2": {EXTEND, BATCH},
    "jamba": {BATCH},
    "bamba": {EXTEND, BATCH},
    "falcon_h1": {EXTEND, BATCH},
    "recurrent_gemma": {BATCH},
    "lfm2": {EXTEND, BATCH},
    "qwen3_next": {EXTEND, BATCH},
    "rwkv": {EXTEND},
}
MOST_OFF = 1e-3


@pytest.fixture(scope="module")
def abilities_of(model_of):
    """What the probe finds, once a family."""
    found = {}

    def find(family):
        if family not in found:
            found[family] = state_probe._Probe(model_of(family), MOST_OFF).find_abilities()
        return found[family]

    return find


@pytest.fixture
def runner_of(model_of, abilities_of):
    return lambda family, num=4, **extra: StateRunner(
        model_of(family), num, abilities_of(family), **extra
    )


@pytest.fixture
def expected(generate, usual):
    """Transformers' own tokens; a model that has its state in itself forgets the last prompt."""

    def run(loaded, request, **options):
        state_cache.ModuleStates(usual(loaded)).load(
            state_cache.DynamicCache(config=loaded.model.config)
        )
        return generate(loaded, request, **options)

    return run


@pytest.mark.parametrize("family", FAMILIES)
def test_the_probe_finds_what_a_family_can_do_and_the_log_says_it(family, model_of, caplog):
    with caplog.at_level(logging.WARNING):
        runner = choose_runner(model_of(family), 2)
    assert isinstance(runner, StateRunner)
    runner.check_integrity({})
    assert (runner.stats.queries, runner.stats.size_bytes) == (0, 0)
    assert "runs on the slower path of a cache for each sequence" in caplog.text
    can = FAMILIES[family]
    assert ("continued together" in caplog.text) == (BATCH in can)
    assert ("follow the earlier ones" in caplog.text) == (EXTEND in can)


@pytest.mark.parametrize("family", FAMILIES)
def test_prompts_of_mixed_length_arriving_at_different_steps_give_generates_tokens(
    family, model_of, runner_of, drive, ask, expected, usual
):
    loaded = model_of(family)
    prompts = mixed_prompts(loaded.vocab_size, 7)
    requests = [ask(str(i), ids, max_tokens=6 + 2 * i) for i, ids in enumerate(prompts)]
    driven = drive(loaded, max_batch_size=4, prefill_budget_tokens=16, runner=runner_of(family))
    for request in requests:
        driven.add(request).step(2)
    driven.finish()
    for request in requests:
        answer = driven[request.request_id]
        assert_same(usual(loaded), request, answer.ids, expected(loaded, request))


@pytest.mark.parametrize("family", ["mamba", "bamba", "recurrent_gemma", "rwkv"])
def test_a_prompt_cut_into_chunks_of_any_size_gives_the_same_tokens(
    family, model_of, runner_of, drive, ask, expected, usual
):
    loaded = model_of(family)
    request = ask("a", mixed_prompts(loaded.vocab_size, 7)[-1], max_tokens=5)
    tokens = expected(loaded, request)
    for budget in (1, 2, 7, 43):
        driven = drive(loaded, prefill_budget_tokens=budget, runner=runner_of(family))
        assert_same(usual(loaded), request, driven.add(request).finish()["a"].ids, tokens)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_aborted_or_resumed_in_the_middle_changes_no_other(
    family, model_of, runner_of, drive, ask, expected, usual
):
    loaded = model_of(family)
    prompts = mixed_prompts(loaded.vocab_size, 7)
    stays, resumes = ask("stays", prompts[4], max_tokens=14), ask("resumes", prompts[3])
    whole = expected(loaded, resumes)
    driven = drive(loaded, prefill_budget_tokens=8, runner=runner_of(family))
    driven.add(stays, ask("long", prompts[6]), ask("short", prompts[1], max_tokens=60)).step(4)
    driven.engine.abort("long", "cancelled")
    driven.add(dataclasses.replace(resumes, committed_ids=tuple(whole[:5]))).step(3)
    driven.engine.abort("short", "cancelled")
    driven.finish()
    assert_same(usual(loaded), stays, driven["stays"].ids, expected(loaded, stays))
    assert_same(usual(loaded), resumes, [*whole[:5], *driven["resumes"].ids], whole)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_forward_that_raises_leaves_no_trace(family, model_of, runner_of, monkeypatch):
    head = model_of(family).model.get_output_embeddings()
    runner, other = runner_of(family), runner_of(family)
    prompts = {1: list(range(5, 14)), 2: [30, 31]}
    for each in (runner, other):
        for key, ids in prompts.items():
            each.place(key, ids)
            each.run([Chunk(key, ids, 0)])
    chunks = [Chunk(1, [40], 9), Chunk(2, [41], 2)]

    def fails(*args):
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(head, "forward", fails)  # all states have been written to by then
        for failing in (chunks, chunks[:1], [Chunk(1, [40, 42, 43], 9)]):
            with pytest.raises(RuntimeError, match="out of memory"):
                runner.run(failing)
            runner.check_integrity({1: 9, 2: 2})
    torch.testing.assert_close(runner.run(chunks), other.run(chunks), rtol=1e-4, atol=1e-4)


def test_logits_of_several_tokens_are_those_of_the_whole_text(runner_of, model_of, usual):
    ids = list(range(20, 40))
    for family in ("mamba", "mamba2", "bamba"):
        runner = runner_of(family)
        runner.place(1, ids)
        got = [runner.run([Chunk(1, ids[:12], 0, num_logits=12)])]
        got.append(runner.run([Chunk(1, ids[12:], 12, num_logits=3)]))
        with torch.inference_mode():
            whole = usual(model_of(family))(torch.tensor([ids])).logits[0]
        torch.testing.assert_close(
            torch.cat(got), whole[[*range(12), 17, 18, 19]], rtol=1e-3, atol=1e-3
        )


@pytest.mark.parametrize("num_new", [2, 9])
def test_a_later_chunk_is_read_from_the_start_or_token_by_token_with_the_same_logits(
    num_new, runner_of, model_of, monkeypatch
):
    monkeypatch.setattr("worker.engine.state_runner.STEP_COST_TOKENS", 4)
    ids = list(range(20, 20 + 12 + num_new))
    runner, seen = runner_of("mamba"), []
    usual_forward = model_of("mamba").model.forward

    def forward(input_ids, **inputs):
        seen.append(input_ids.shape[1])
        return usual_forward(input_ids, **inputs)

    runner.place(1, ids)
    runner.run([Chunk(1, ids[:12], 0)])
    expected = usual_forward(torch.tensor([ids])).logits[0, -1]
    monkeypatch.setattr(model_of("mamba").model, "forward", forward)
    got = runner.run([Chunk(1, ids[12:], 12)])[0]
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
    assert seen == ([1, 1] if num_new == 2 else [12 + num_new])


def test_a_model_whose_steps_differ_from_its_forward_reads_no_prompt_in_steps(
    model_of, drive, ask, expected, caplog
):
    loaded = model_of("zamba2")
    request = ask("a", mixed_prompts(loaded.vocab_size, 3)[-1], max_tokens=8)
    tokens = expected(loaded, request)
    for budget in (1, 7, 29):
        with caplog.at_level(logging.WARNING):
            driven = drive(loaded, prefill_budget_tokens=budget)
        assert driven.add(request).finish()["a"].ids == tokens
    assert "from those of the model's forward over a whole text" in caplog.text


def test_a_model_whose_batches_are_wrong_runs_one_sequence_after_another(
    model_of, drive, ask, expected, monkeypatch, caplog
):
    def mixes_up(tensor, width):
        return torch.nn.functional.pad(tensor, (0, 0, 0, width - tensor.shape[-2]))

    monkeypatch.setattr(state_cache, "_padded", mixes_up)
    loaded = model_of("bamba")
    requests = [ask("a", "the quick brown fox"), ask("b", "fox")]
    with caplog.at_level(logging.WARNING):
        driven = drive(loaded).add(*requests).finish()
    assert "continued one after another" in caplog.text
    for request in requests:
        assert driven[request.request_id].ids == expected(loaded, request)


def test_a_model_that_is_wrong_alone_is_refused(model_of, monkeypatch):
    monkeypatch.setattr(state_cache.ModuleStates, "save", lambda self, cache: None)
    with pytest.raises(ModelLoadError, match=r"cannot be continued: its logits are off by \d+%"):
        choose_runner(model_of("recurrent_gemma"), 2)


def test_a_model_that_fails_alone_is_refused(model_of, monkeypatch):
    @functools.wraps(model_of("mamba2").model.forward)
    def fails(*args, **kwargs):
        raise ValueError("no such state\nin line 2")

    monkeypatch.setattr(model_of("mamba2").model, "forward", fails)
    with pytest.raises(ModelLoadError, match=r"cannot be continued: no such state$"):
        choose_runner(model_of("mamba2"), 2)


def test_a_model_that_transformers_itself_gets_wrong_is_refused(model_of, monkeypatch):
    model, usual = model_of("mamba2").model, model_of("mamba2").model.forward

    @functools.wraps(usual)
    def differs(*args, use_cache=None, **kwargs):
        output = usual(*args, use_cache=use_cache, **kwargs)
        return output if use_cache else dataclasses.replace(output, logits=-output.logits)

    monkeypatch.setattr(model, "forward", differs)
    with pytest.raises(ModelLoadError, match="`generate` is off by 200%"):
        choose_runner(model_of("mamba2"), 2)


def test_a_full_cache_preempts_and_changes_no_token(
    model_of, abilities_of, drive, ask, expected, usual
):
    loaded, abilities = model_of("bamba"), abilities_of("bamba")
    prompts = mixed_prompts(loaded.vocab_size, 6)
    requests = [ask(str(i), ids, max_tokens=20) for i, ids in enumerate(prompts)]
    cache_bytes = 4 * abilities.state_bytes + 70 * abilities.token_bytes
    driven = drive(loaded, cache_bytes=cache_bytes).add(*requests).finish()
    assert driven.engine.num_preempted > 0
    for request in requests:
        ids = driven[request.request_id].ids
        assert_same(usual(loaded), request, ids, expected(loaded, request))


def test_stats_and_room_count_states_and_tokens(model_of):
    loaded = model_of("bamba")
    abilities = Abilities(True, True, True, state_bytes=1000, token_bytes=10)
    runner = StateRunner(loaded, 3, abilities, cache_bytes=2500)
    assert runner.max_sequence_tokens == 150
    assert runner.place(1, [5] * 20) == 0
    assert runner.place(2, [5] * 40) is None
    assert runner.place(2, [5] * 25) == 0
    runner.run([Chunk(1, [5] * 20, 0)])
    stats = runner.stats
    assert (stats.capacity_tokens, stats.used_tokens, stats.reusable_tokens) == (50, 20, 0)
    assert (stats.size_bytes, stats.queries, stats.hits, stats.evictions) == (1200, 45, 0, 0)
    assert runner.reserve(1, 5)
    assert not runner.reserve(1, 6)
    runner.free([2, 99])
    assert runner.reserve(1, 6)
    runner.check_integrity({1: 20})
    with pytest.raises(AssertionError, match="expected"):
        runner.check_integrity({1: 21})


def test_no_more_sequences_are_placed_than_may_run(runner_of):
    runner = runner_of("mamba", 2)
    assert [runner.place(key, [5, 6]) for key in range(3)] == [0, 0, None]
    assert runner.max_sequence_tokens == 160


def test_caches_that_are_put_together_and_taken_apart_are_as_before(runner_of):
    for family in ("bamba", "recurrent_gemma", "falcon_h1"):
        runner = runner_of(family)
        lengths = {1: 3, 2: 11, 3: 6}
        for key, length in lengths.items():
            runner.place(key, [9] * length)
            runner.run([Chunk(key, [9] * length, 0)])
        caches = [runner.cache_of(key) for key in lengths]
        joined = state_cache.join(caches)
        for cache, again, length in zip(
            caches, state_cache.split(joined, list(lengths.values())), lengths.values(), strict=True
        ):
            state_cache.check_row(again, length)
            pairs = zip(state_cache._tensors(cache), state_cache._tensors(again), strict=True)
            assert all(torch.equal(one, other) for one, other in pairs)
        with pytest.raises(AssertionError):
            state_cache.check_row(joined, 11)


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_a_saved_recurrent_model_runs_with_packed_weights(
    dtype, model_of, tokenizer, tmp_path, drive, ask, caplog
):
    model_of("mamba").model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded = load_model(str(tmp_path), device="cpu", dtype=dtype)
    assert unusual_layers(loaded.model)
    with caplog.at_level(logging.WARNING):
        driven = drive(loaded).add(ask("a", "fox", ignore_eos=True), ask("b", "the")).finish()
    assert len(driven["a"].ids) == 12
    assert "continued together" in caplog.text
