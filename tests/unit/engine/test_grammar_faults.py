"""Grammars that fail, take long, or come with a tokenizer that they cannot be followed with."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers
from transformers import LlamaConfig, PreTrainedTokenizerFast
from transformers.models.auto import AutoModelForCausalLM

from api import grammar_probe
from tests.unit.engine.guided import (
    CASES,
    CHOICE,
    PERSON,
    SEEDS,
    SUM,
    WAIT_S,
    Guided,
    check,
    regex,
    schema,
)
from worker.engine import grammar as grammar_module
from worker.engine import grammars as grammars_module
from worker.engine.errors import RequestError
from worker.engine.grammar import GrammarCompiler
from worker.engine.loader import LoadedModel, describe
from worker.engine.sequence import FinishReason, Request, SamplingParams

EXPLODING = regex("(.*a.{20,30}){1,3}|(.*b.{20,30}){1,3}|(.*c.{20,30}){1,3}")


def test_a_step_over_its_limit_fails_its_own_request_alone(
    llama: LoadedModel,
    guided: Callable[..., Guided],
    follow: Callable[..., Request],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(grammar_module.LIMITS, "max_lexer_states", 40)
    engine = guided(llama, max_batch_size=8)
    engine.add(follow("fine", regex("[ab]{9}"), temperature=1.0), follow("free", None))
    engine.add(follow("bad", EXPLODING, temperature=1.5))
    engine.finish()
    assert engine["bad"].last.error_code == "grammar_stuck"
    assert engine["fine"].reason is FinishReason.STOP
    assert engine["free"].reason is not FinishReason.ERROR


def test_one_that_fails_over_another_s_states_is_given_a_grammar_of_its_own(
    llama: LoadedModel,
    guided: Callable[..., Guided],
    follow: Callable[..., Request],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Shared, its states grow with all that has been drawn; alone, each needs few of them.
    grammar = schema({"enum": [f"{i:x}" * 4 for i in range(0x1000, 0x1040)]})
    alone = guided(llama, max_batch_size=1)
    requests = [
        follow(f"{i}", grammar, seed=i, temperature=1.5, top_p=1.0, prompt=[9 + i])
        for i in range(16)
    ]
    expected = [alone.add(r).finish()[r.request_id].text for r in requests]
    compiled: list[bool] = []
    real = GrammarCompiler.compile

    def counted(self: GrammarCompiler, lark: str, ids: Any, *, alone: bool = False) -> Any:
        compiled.append(alone)
        return real(self, lark, ids, alone=alone)

    monkeypatch.setattr(GrammarCompiler, "compile", counted)
    monkeypatch.setitem(grammar_module.LIMITS, "max_lexer_states", 100)
    crowd = guided(llama, max_batch_size=16).add(*requests).finish()
    assert True in compiled, "the limit was not reached: the test shows nothing"
    assert [crowd[r.request_id].text for r in requests] == expected


@pytest.mark.parametrize(
    "grammar",
    [
        regex("(a"),
        regex("(?=a)b"),
        "start: missing",
        "nothing like a grammar",
        "",
        "{",
        schema({"type": "object", "properties": {"a": {"$ref": "https://example.com/x"}}}),
        schema({"type": "what"}),
    ],
)
def test_what_does_not_compile_is_refused_with_a_reason(
    llama: LoadedModel, guided: Callable[..., Guided], follow: Callable[..., Request], grammar: str
) -> None:
    engine = guided(llama).add(follow("bad", grammar), follow("good", CHOICE)).finish()
    assert engine["bad"].last.error_code == "invalid_request"
    assert "the grammar must compile" in str(engine["bad"].last.error)
    assert engine["good"].reason is FinishReason.STOP


def test_committed_ids_that_are_not_of_the_grammar_are_refused(
    llama: LoadedModel,
    guided: Callable[..., Guided],
    follow: Callable[..., Request],
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    committed = tuple(tokenizer.encode("zz"))
    answer = guided(llama).add(follow("r", regex("[ab]+"), committed_ids=committed)).finish()["r"]
    assert answer.last.error_code == "invalid_request"
    assert "committed_ids" in str(answer.last.error)


class Gate:
    """Stands in for a grammar that takes long to compile."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.entered, self.leave = threading.Event(), threading.Event()
        real = GrammarCompiler.compile

        def compile_late(*args: Any, **kwargs: Any) -> Any:
            self.entered.set()
            assert self.leave.wait(WAIT_S)
            return real(*args, **kwargs)

        monkeypatch.setattr(GrammarCompiler, "compile", compile_late)


def test_others_go_on_while_a_grammar_compiles(
    llama: LoadedModel,
    guided: Callable[..., Guided],
    follow: Callable[..., Request],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gate = Gate(monkeypatch)
    engine = guided(llama)
    engine.add(follow("slow", CHOICE), follow("free", None, max_tokens=10))
    assert engine.engine.has_work
    while ("free", 0) not in engine.answers or engine["free"].reason is None:
        engine.step()
    assert gate.entered.wait(WAIT_S)
    assert not engine.engine.has_work, "nothing can be done until it has been compiled"
    assert (engine.engine.num_waiting, engine.engine.num_running) == (1, 0)
    gate.leave.set()
    assert engine.finish()["slow"].reason is FinishReason.STOP


def test_one_can_be_cancelled_while_its_grammar_compiles(
    llama: LoadedModel,
    guided: Callable[..., Guided],
    follow: Callable[..., Request],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gate = Gate(monkeypatch)
    engine = guided(llama).add(follow("slow", CHOICE))
    engine.step()
    engine.add(follow("slow", CHOICE))
    assert engine.step()[0].error_code == "duplicate_request"
    del engine.answers["slow", 0]
    engine.engine.abort("slow", FinishReason.CANCELLED)
    engine.step()
    assert engine["slow"].reason is FinishReason.CANCELLED
    gate.leave.set()
    assert engine.engine.wait(WAIT_S), "the grammar is still delivered"
    assert engine.step() == []


def test_a_grammar_that_takes_too_long_ends_its_request(
    llama: LoadedModel,
    guided: Callable[..., Guided],
    follow: Callable[..., Request],
    monkeypatch: pytest.MonkeyPatch,
    clock: Any,
) -> None:
    gate = Gate(monkeypatch)
    engine = guided(llama).add(follow("slow", CHOICE))
    engine.step()
    assert not engine.engine.has_work
    clock.now += grammars_module.COMPILE_LIMIT_S
    assert engine.engine.has_work
    engine.step()
    assert engine["slow"].last.error_code == "invalid_request"
    gate.leave.set()


def test_the_same_grammar_is_compiled_once(
    llama: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = GrammarCompiler(llama.tokenizer.backend_tokenizer, llama.vocab_size)
    real, made = grammar_module.LLMatcher, []

    def counted(*args: Any, **kwargs: Any) -> Any:
        if args[0] is compiler._tokenizer:  # and not one that another test left to itself
            made.append(args)
        return real(*args, **kwargs)

    monkeypatch.setattr(grammar_module, "LLMatcher", counted)
    first, second = compiler.compile(CHOICE, ()), compiler.compile(CHOICE, ())
    assert len(made) == 1
    first.advance([0])
    assert first.error is not None
    assert second.error is None, "where one stands is its own"
    compiler.compile(CHOICE, (), alone=True)
    assert len(made) == 2
    monkeypatch.setattr(grammar_module, "CACHED_GRAMMARS", 1)
    compiler.compile(SUM, ())
    compiler.compile(CHOICE, ())
    assert len(made) == 4


def test_the_gateway_tries_grammars_within_the_engine_s_limits() -> None:
    assert grammar_probe.LIMITS == grammar_module.LIMITS
    assert grammar_probe.NO_FORCING == grammar_module._NO_FORCING


def sentencepiece_like() -> PreTrainedTokenizerFast:
    pieces = [" ", *"▁abcdefghijklmnopqrstuvwxyz0123456789{}[]:,.\"'+-()"]
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2}
    vocab |= {f"<0x{byte:02X}>": 3 + byte for byte in range(256)}
    vocab |= {piece: 259 + i for i, piece in enumerate(pieces)}
    backend = Tokenizer(
        models.BPE(vocab=vocab, merges=[], unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="</s>", unk_token="<unk>", model_max_length=160
    )


def test_a_llama_tokenizer_and_padded_logits_do_as_well(guided: Callable[..., Guided]) -> None:
    tokenizer = sentencepiece_like()
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=len(tokenizer) + 37,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=160,
        initializer_range=0.6,
        bos_token_id=1,
        eos_token_id=2,
    )
    loaded = describe(AutoModelForCausalLM.from_config(config).eval(), tokenizer, "test")
    engine = guided(loaded, max_batch_size=8)
    prompt = tuple(tokenizer.encode("abc"))
    for seed in SEEDS:
        for name, (grammar, _) in CASES.items():
            params = SamplingParams(100, temperature=1.5, top_p=1.0, seed=seed)
            engine.add(Request(f"{name} {seed}", prompt, params, grammar=grammar))
    engine.finish()
    for seed in SEEDS:
        for name, (_, is_valid) in CASES.items():
            check(engine[f"{name} {seed}"], is_valid)


def test_a_tokenizer_that_cannot_be_used_refuses_grammars_and_nothing_else(
    llama: LoadedModel,
    guided: Callable[..., Guided],
    follow: Callable[..., Request],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise ValueError("unknown decoder")

    monkeypatch.setattr(grammar_module, "LLTokenizer", refuse)
    engine = guided(llama).add(follow("guided", CHOICE), follow("free", None)).finish()
    assert engine["guided"].last.error_code == "invalid_request"
    assert engine["free"].reason is not FinishReason.ERROR


def test_a_compile_error_names_no_more_than_it_must(llama: LoadedModel) -> None:
    compiler = GrammarCompiler(llama.tokenizer.backend_tokenizer, llama.vocab_size)
    with pytest.raises(RequestError) as raised:
        compiler.compile("start: (" + "x " * 9999, ())
    assert len(str(raised.value)) < 400
    assert "\n" not in str(raised.value)


def test_giving_way_to_others_changes_no_token(
    llama: LoadedModel, guided: Callable[..., Guided], follow: Callable[..., Request]
) -> None:
    token_bytes = 2 * 2 * 2 * 8 * 4  # layers, keys and values, heads, size, fp32
    requests = [
        follow(f"{i}", schema(PERSON), seed=i, temperature=1.3, max_tokens=60, prompt=[9 + i] * 8)
        for i in range(6)
    ]
    calm = guided(llama, max_batch_size=6).add(*requests).finish()
    tight = guided(llama, max_batch_size=6, cache_bytes=90 * token_bytes).add(*requests).finish()
    assert tight.engine.num_preempted > 0
    assert [tight[r.request_id].ids for r in requests] == [calm[r.request_id].ids for r in requests]


def test_a_compiler_that_breaks_ends_its_request_and_nothing_waits(
    llama: LoadedModel,
    guided: Callable[..., Guided],
    follow: Callable[..., Request],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def explode(*_: object, **__: object) -> None:
        raise TypeError("spoiled by the test")

    monkeypatch.setattr(GrammarCompiler, "compile", explode)
    engine = guided(llama)
    engine.add(follow("bad", CHOICE), follow("free", None))
    engine.finish()
    assert engine["bad"].last.error_code == "engine_error"
    assert "spoiled" not in (engine["bad"].last.error or "")
    assert "spoiled by the test" in caplog.text
    assert engine["free"].reason is FinishReason.LENGTH
