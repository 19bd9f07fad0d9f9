"""Our attention is used only where it gives the model's own logits."""

import dataclasses
import logging

import pytest
import torch

from worker.engine import attention, runner_choice
from worker.engine.padded_runner import PaddedRunner
from worker.engine.paged_runner import PagedRunner
from worker.engine.runner_choice import choose_runner
from worker.engine.slot_runner import SlotRunner


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2", "gemma3", "gpt2", "gpt_oss"])
def test_a_model_whose_attention_can_be_ours_runs_over_slots(family, model_of):
    runner = choose_runner(model_of(family), 2)
    assert isinstance(runner, SlotRunner)
    runner.check_integrity({})
    assert runner.stats.queries == 0


@pytest.mark.parametrize("family", ["mistral", "gemma2", "gemma3", "gpt2", "gpt_oss"])
def test_a_model_whose_attention_can_be_ours_may_run_over_blocks(family, model_of, monkeypatch):
    monkeypatch.setattr(runner_choice, "SLOT_DEVICES", frozenset())
    assert isinstance(choose_runner(model_of(family), 2), PagedRunner)


@pytest.mark.parametrize(
    ("cache_bytes", "num_tokens"), [(None, 2 * 160), (0, 16), (48 * 256 - 1, 32), (48 * 256, 48)]
)
def test_where_memory_is_not_free_before_it_is_written_it_runs_over_blocks(
    cache_bytes, num_tokens, llama, monkeypatch
):
    monkeypatch.setattr(runner_choice, "SLOT_DEVICES", frozenset())
    runner = choose_runner(llama, 2, cache_bytes)
    assert isinstance(runner, PagedRunner)
    runner.check_integrity({})
    assert runner.stats.queries == 0
    assert runner.stats.capacity_tokens == num_tokens
    assert runner.max_sequence_tokens == min(num_tokens, 160)


def test_a_model_whose_attention_cannot_be_replaced_runs_padded_and_it_is_said(model_of, caplog):
    with caplog.at_level(logging.WARNING):
        assert isinstance(choose_runner(model_of("bloom"), 2), PaddedRunner)
    assert "its attention cannot be replaced" in caplog.text


@pytest.mark.parametrize("change", [{"scaling": 0.1}, {"sliding_window": 3}, {"softcap": 0.5}])
def test_a_model_whose_logits_would_differ_runs_padded(llama, monkeypatch, caplog, change):
    def differently(*args, **kwargs):
        return attention.attend(*args, **(kwargs | change))

    monkeypatch.setitem(attention.AttentionInterface._global_mapping, attention.NAME, differently)
    with caplog.at_level(logging.WARNING):
        assert isinstance(choose_runner(llama, 2), PaddedRunner)
    assert "are off by" in caplog.text


def test_a_model_that_cannot_call_it_runs_padded(llama, monkeypatch, caplog):
    def fails(*args, **kwargs):
        raise TypeError("no such argument")

    monkeypatch.setitem(attention.AttentionInterface._global_mapping, attention.NAME, fails)
    with caplog.at_level(logging.WARNING):
        assert isinstance(choose_runner(llama, 2), PaddedRunner)
    assert "no such argument" in caplog.text


def test_a_window_of_which_the_attention_is_not_told_is_not_missed(model_of, monkeypatch, caplog):
    loaded = model_of("gemma3")
    config = loaded.model.config
    # Longer than the probe, so that no logit shows it.
    monkeypatch.setattr(config, "sliding_window", 100)

    def untold(*args, **kwargs):
        return attention.attend(*args, **(kwargs | {"sliding_window": None}))

    for layer in loaded.model.model.layers:
        monkeypatch.setattr(layer.self_attn, "sliding_window", None)
    monkeypatch.setitem(attention.AttentionInterface._global_mapping, attention.NAME, untold)
    with caplog.at_level(logging.WARNING):
        assert isinstance(choose_runner(loaded, 2), PaddedRunner)
    assert "of which its attention is not told" in caplog.text


def test_layers_of_an_unknown_kind_are_not_tried(llama, monkeypatch):
    monkeypatch.setattr(llama.model.config, "attention_chunk_size", 8, raising=False)
    monkeypatch.setattr(llama.model.config, "layer_types", ["chunked_attention"] * 2, raising=False)
    assert isinstance(choose_runner(llama, 2), PaddedRunner)


def test_a_model_in_bf16_passes_the_probe(model_of):
    loaded = model_of("qwen3")
    import copy

    model = copy.deepcopy(loaded.model).to(torch.bfloat16)
    small = dataclasses.replace(loaded, model=model, dtype=torch.bfloat16)
    assert isinstance(choose_runner(small, 2), SlotRunner)
