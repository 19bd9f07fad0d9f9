"""A model loads, or one line says why not."""

import json
import logging
import shutil

import pytest
import torch
from transformers import (
    BertConfig,
    BertForMaskedLM,
    LlamaForCausalLM,
    MambaForCausalLM,
    PreTrainedTokenizerFast,
    T5Config,
)

from worker.engine import loader
from worker.engine.errors import EngineError, ModelLoadError
from worker.engine.loader import load_model


@pytest.fixture(scope="module")
def saved(model_of, tokenizer, tmp_path_factory):
    """A directory with the random Llama, as `save_pretrained` writes it."""
    directory = tmp_path_factory.mktemp("llama")
    model_of("llama").model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


@pytest.fixture
def copy(saved, tmp_path):
    """A copy of it that a test may spoil."""
    for path in saved.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def load(directory, **extra):
    return load_model(str(directory), **{"device": "cpu", "dtype": "float32"} | extra)


def refusal(directory, **extra):
    with pytest.raises(ModelLoadError) as caught:
        load(directory, **extra)
    message = str(caught.value)
    assert "\n" not in message
    assert isinstance(caught.value, EngineError)
    return message


def edit_config(directory, **changes):
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_saved_model_answers_as_the_one_in_memory(saved, model_of, drive, ask):
    loaded = load(saved)
    expected = drive(model_of("llama")).add(ask("a", "fox")).finish()["a"]
    got = drive(loaded).add(ask("a", "fox")).finish()["a"]
    assert (got.ids, got.text) == (expected.ids, expected.text)


def test_what_the_engine_needs_is_read_from_the_model(saved, tokenizer):
    loaded = load(saved)
    assert isinstance(loaded.model, LlamaForCausalLM)
    assert isinstance(loaded.tokenizer, PreTrainedTokenizerFast)
    assert not loaded.model.training
    assert loaded.context_length == 160
    assert loaded.vocab_size == len(tokenizer)
    assert loaded.eos_ids == {tokenizer.eos_token_id}
    assert loaded.architecture == "LlamaForCausalLM"
    assert (loaded.device, loaded.dtype) == (torch.device("cpu"), torch.float32)


def test_several_eos_ids_are_all_taken(copy):
    path = copy / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token_id": [0, 7]}))
    assert load(copy).eos_ids == {0, 7}


def test_progress_is_told_in_lines(saved):
    lines = []
    load(saved, progress=lines.append)
    assert any("weights" in line for line in lines)
    assert all(line and "\n" not in line for line in lines)


def test_the_revision_is_stable_and_changes_with_weights_and_config(saved, copy):
    assert load(saved).revision == load(copy).revision
    before = load(copy).revision
    edit_config(copy, rms_norm_eps=1e-3)
    after_config = load(copy).revision
    weights = copy / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    assert len({before, after_config, load(copy).revision}) == 3


def test_the_revision_of_a_hub_snapshot_is_its_commit(saved, tmp_path):
    commit = "0123456789abcdef0123456789abcdef01234567"
    snapshot = tmp_path / "snapshots" / commit
    shutil.copytree(saved, snapshot)
    assert load(snapshot).revision == commit


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16"])
def test_a_dtype_that_is_asked_for_is_used(saved, name):
    assert load(saved, dtype=name).dtype == getattr(torch, name)


def test_auto_on_a_cpu_is_fp32_for_a_small_model_and_bf16_for_a_large_one(copy, monkeypatch):
    edit_config(copy, dtype="float16")
    assert load(copy, dtype="auto").dtype == torch.float32
    monkeypatch.setattr(loader, "FP32_BELOW_PARAMETERS", 1000)
    assert load(copy, dtype="auto").dtype == torch.bfloat16


def test_a_bf16_model_answers(saved, drive, ask):
    answer = drive(load(saved, dtype="bfloat16")).add(ask("a", "fox", temperature=1.0)).finish()
    assert len(answer["a"].ids) == 12


def test_a_dtype_that_nobody_knows_is_refused(saved):
    assert "got 'int7'" in refusal(saved, dtype="int7")


def test_a_directory_that_is_not_there_is_not_found(tmp_path):
    assert "was not found" in refusal(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["nowhere/at/all", "models/nothing", "./nowhere", "~/nowhere"])
def test_what_reads_like_a_path_is_not_asked_of_the_hub(name, tmp_path, monkeypatch):
    (tmp_path / "models").mkdir()
    monkeypatch.chdir(tmp_path)
    assert refusal(name) == f"model {name!r} was not found: there is no such directory"


def test_the_weights_are_said_to_be_int8_where_they_will_be(saved):
    lines = []
    load(saved, dtype="int8", progress=lines.append)
    assert "loading the weights as int8 onto cpu" in lines


def test_a_directory_without_a_config_is_not_found(tmp_path):
    assert "was not found" in refusal(tmp_path)


def test_a_hub_name_that_is_not_cached_is_not_found_when_offline(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "its hub cannot be reached" in refusal("nobody/nothing")


def test_a_masked_language_model_is_no_causal_one(tmp_path):
    config = BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, vocab_size=9)
    BertForMaskedLM(config).save_pretrained(tmp_path)
    assert "not a causal language model but BertForMaskedLM" in refusal(tmp_path)


def test_an_encoder_decoder_is_no_causal_model(tmp_path):
    T5Config(architectures=["T5ForConditionalGeneration"]).save_pretrained(tmp_path)
    assert "not a causal language model but T5" in refusal(tmp_path)


def test_a_model_without_its_head_is_refused(copy):
    edit_config(copy, architectures=["LlamaModel"])
    assert "not a causal language model but LlamaModel" in refusal(copy)


def test_a_recurrent_model_is_loaded(model_of, tokenizer, tmp_path):
    model_of("mamba").model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded = load(tmp_path)
    assert isinstance(loaded.model, MambaForCausalLM)
    assert loaded.context_length == tokenizer.model_max_length


def test_a_recurrent_model_that_states_no_context_length_gets_one_and_it_is_said(
    model_of, tokenizer, monkeypatch, caplog
):
    monkeypatch.setattr(tokenizer, "model_max_length", 10**30)
    with caplog.at_level(logging.WARNING):
        loaded = loader.describe(model_of("mamba").model, tokenizer, "x")
    assert loaded.context_length == loader.UNSTATED_CONTEXT_TOKENS
    assert "MambaForCausalLM states no context length: it is taken as 32768 tokens" in caplog.text


def test_remote_code_is_never_run(copy):
    edit_config(copy, model_type="other", auto_map={"AutoConfig": "evil.Config"})
    (copy / "evil.py").write_text("raise SystemExit('ran')")
    assert "needs remote code" in refusal(copy)


def test_a_model_type_of_another_version_is_named(copy):
    edit_config(copy, model_type="not_invented_yet")
    assert "config that this version cannot read" in refusal(copy)


def test_a_directory_without_a_tokenizer_is_refused(copy):
    for path in copy.glob("tokenizer*"):
        path.unlink()
    assert "tokenizer" in refusal(copy)


def test_a_directory_without_weights_is_refused(copy):
    (copy / "model.safetensors").unlink()
    assert "no usable weights" in refusal(copy)


def test_broken_weights_are_refused(copy):
    (copy / "model.safetensors").write_bytes(b"not weights")
    assert "no usable weights" in refusal(copy)


def test_missing_weights_are_refused_rather_than_made_up(copy):
    edit_config(copy, num_hidden_layers=3, layer_types=None)
    assert "lacks" in refusal(copy)


def test_a_device_that_is_not_there_is_named(saved):
    for device in ("cuda:77", "nonsense"):
        assert f"device '{device}' is not there" in refusal(saved, device=device)


def test_a_model_that_hides_its_context_length_takes_the_tokenizers(
    model_of, tokenizer, monkeypatch
):
    bloom = model_of("bloom")
    assert bloom.context_length == tokenizer.model_max_length
    monkeypatch.setattr(tokenizer, "model_max_length", 10**30)
    with pytest.raises(ModelLoadError, match="how long its context is"):
        loader.describe(bloom.model, tokenizer, "x")


def test_auto_on_a_gpu_leaves_the_dtype_to_the_checkpoint(model_of):
    config = model_of("llama").model.config
    assert loader.choose_dtype("auto", config, torch.device("cuda")) == "auto"


def test_int8_weights_are_loaded_and_named_so(saved, model_of, drive, ask):
    loaded = load(saved, dtype="int8")
    assert (loaded.precision, loaded.dtype) == ("int8", torch.bfloat16)
    assert load(saved, dtype="bfloat16").precision == "bfloat16"
    answer = drive(loaded).add(ask("a", "fox", ignore_eos=True)).finish()["a"]
    assert len(answer.ids) == 12


def test_int8_is_refused_off_the_cpu(saved):
    # A device that is there and is no CPU, on any machine.
    assert "dtype int8 runs on a CPU only, got the device 'meta'" in refusal(
        saved, device="meta", dtype="int8"
    )


def test_int8_is_refused_for_a_model_of_other_layers(model_of, tokenizer, tmp_path):
    model_of("gpt_oss").model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    message = refusal(tmp_path, dtype="int8")
    assert "cannot run in int8: only" in message
    assert "of its weights are in linear layers" in message


def test_a_model_of_whose_layers_its_config_says_too_little_is_refused(llama, monkeypatch):
    monkeypatch.setattr(llama.model.config, "layer_types", ["chunked_attention"] * 2, raising=False)
    with pytest.raises(ModelLoadError, match="a llama model does not say what its layers keep"):
        loader.unusual_layers(llama.model)
