import dataclasses
import json
import re
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers
from transformers import LlamaConfig, PreTrainedTokenizerFast
from transformers.models.auto import AutoModelForCausalLM

from api import grammar_probe
from common.grammar import GrammarSpec
from tests.unit.engine.conftest import Answer, Drive
from worker.engine import grammar as grammar_module
from worker.engine import grammars as grammars_module
from worker.engine.engine import Engine
from worker.engine.errors import RequestError
from worker.engine.grammar import GrammarCompiler
from worker.engine.loader import LoadedModel, describe
from worker.engine.sequence import FinishReason, Request, SamplingParams

SEEDS = range(24)
WAIT_S = 60.0

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 6},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "minItems": 1, "maxItems": 2},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}
TREE = {
    "$defs": {
        "node": {
            "type": "object",
            "properties": {"v": {"type": "boolean"}, "next": {"$ref": "#/$defs/node"}},
            "required": ["v"],
            "additionalProperties": False,
        }
    },
    "$ref": "#/$defs/node",
}
EITHER = {"anyOf": [{"type": "null"}, {"type": "integer", "multipleOf": 5, "maximum": 99}]}
CHOICES = ["a", "ab", "abc", 'größe "q"', "/x\n"]
SUM = 'start: t\nt: /[0-9]{1,3}/ | "(" t "+" t ")"'


def schema(value: object) -> str:
    return GrammarSpec("json_schema", json.dumps(value)).lark()


def regex(text: str) -> str:
    return GrammarSpec("regex", text).lark()


JSON_OBJECT = GrammarSpec("json_object").lark()
CHOICE = GrammarSpec("choice", json.dumps(CHOICES)).lark()


def is_person(text: str) -> bool:
    value = json.loads(text)
    return (
        list(value) == ["name", "age", "tags"]
        and len(value["name"]) <= 6
        and 0 <= value["age"] <= 150
        and 1 <= len(value["tags"]) <= 2
        and set(value["tags"]) <= {"a", "b"}
    )


def is_tree(text: str) -> bool:
    node = json.loads(text)
    while node is not None:
        if not set(node) <= {"v", "next"} or not isinstance(node["v"], bool):
            return False
        node = node.get("next")
    return True


def is_sum(text: str) -> bool:
    while re.search(r"\(\d{1,3}\+\d{1,3}\)", text):
        text = re.sub(r"\(\d{1,3}\+\d{1,3}\)", "0", text)
    return re.fullmatch(r"\d{1,3}", text) is not None


def is_either(text: str) -> bool:
    value = json.loads(text)
    return value is None or (isinstance(value, int) and value % 5 == 0 and value <= 99)


CASES: dict[str, tuple[str, Callable[[str], bool]]] = {
    "json object": (JSON_OBJECT, lambda text: isinstance(json.loads(text), dict)),
    "person": (schema(PERSON), is_person),
    "recursive": (schema(TREE), is_tree),
    "either": (schema(EITHER), is_either),
    "regex": (
        regex(r"(\d{3}-){2}[a-z/]{1,4}"),
        lambda text: re.fullmatch(r"([0-9]{3}-){2}[a-z/]{1,4}", text) is not None,
    ),
    "choice": (CHOICE, lambda text: text in CHOICES),
    "lark": (SUM, is_sum),
}


class Guided(Drive):
    """Steps an engine, and waits where all that is left is a grammar that compiles."""

    def finish(self) -> "Guided":
        while self.engine.num_waiting or self.engine.num_running:
            assert self.engine.has_work or self.engine.wait(WAIT_S), "no grammar came in time"
            self.step()
        return self


@pytest.fixture
def guided(make_engine: Callable[..., Engine]) -> Callable[..., Guided]:
    return lambda loaded, **extra: Guided(make_engine(loaded, **extra))


@pytest.fixture
def follow(ask: Callable[..., Request]) -> Callable[..., Request]:
    """Build a request with a grammar."""

    def build(request_id: str, grammar: str | None, **extra: Any) -> Request:
        request = ask(request_id, extra.pop("prompt", "the quick"), **{"max_tokens": 100} | extra)
        return Request(
            **{name: getattr(request, name) for name in request.__slots__} | {"grammar": grammar}
        )

    return build


def check(answer: Answer, is_valid: Callable[[str], bool]) -> bool:
    """Whether the answer came to its end; then it has to be valid."""
    if answer.reason is FinishReason.LENGTH:
        return False
    assert answer.reason is FinishReason.STOP, answer.last
    assert is_valid(answer.text), answer.text
    return True


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_what_ends_is_valid_whatever_the_model_would_rather_say(
    llama: LoadedModel,
    guided: Callable[..., Guided],
    follow: Callable[..., Request],
    name: str,
    temperature: float,
) -> None:
    grammar, is_valid = CASES[name]
    engine = guided(llama, max_batch_size=8)
    for seed in SEEDS:
        engine.add(follow(f"{seed}", grammar, seed=seed, temperature=temperature, top_p=1.0))
    engine.finish()
    ended = [check(engine[f"{seed}"], is_valid) for seed in SEEDS]
    # A greedy model may repeat itself within a string for ever; drawn ones mostly come to an end.
    assert temperature == 0 or sum(ended) > len(SEEDS) // 3


def test_a_row_without_a_grammar_is_what_it_is_without_neighbours(
    llama: LoadedModel, guided: Callable[..., Guided], follow: Callable[..., Request]
) -> None:
    free = [follow(f"free {i}", None, seed=i, temperature=0.9, prompt=[5 + i]) for i in range(4)]
    alone = guided(llama).add(*free).finish()
    mixed = guided(llama, max_batch_size=16)
    for i, (grammar, _) in enumerate(CASES.values()):
        mixed.add(follow(f"guided {i}", grammar, seed=i, temperature=1.5))
    mixed.add(*free).finish()
    assert [mixed[f.request_id].ids for f in free] == [alone[f.request_id].ids for f in free]


@pytest.mark.parametrize("name", ["person", "lark", "json object"])
def test_a_seeded_run_is_the_same_alone_in_a_batch_and_after_a_resume(
    llama: LoadedModel, guided: Callable[..., Guided], follow: Callable[..., Request], name: str
) -> None:
    grammar, _ = CASES[name]
    batch = guided(llama, max_batch_size=8)
    requests = [follow(f"{i}", grammar, seed=i, temperature=1.2, prompt=[9 + i]) for i in range(6)]
    batch.add(*requests).finish()
    for i, request in enumerate(requests):
        whole = batch[f"{i}"]
        assert guided(llama).add(request).finish()[f"{i}"].ids == whole.ids
        for cut in {1, len(whole.ids) // 2, len(whole.ids) - 1} - {0}:
            committed = tuple(whole.ids[:cut])
            extra = {"seed": i, "temperature": 1.2, "committed_ids": committed}
            resumed = follow(f"{i}", grammar, prompt=[9 + i], **extra)
            rest = guided(llama).add(resumed).finish()[f"{i}"]
            assert list(committed) + rest.ids == whole.ids
            assert rest.reason is whole.reason


def test_a_resume_from_the_whole_of_it_ends_at_once(
    llama: LoadedModel, guided: Callable[..., Guided], follow: Callable[..., Request]
) -> None:
    ids = guided(llama).add(follow("r", regex("[ab]{3}"), temperature=1.0)).finish()["r"].ids
    resumed = follow("r", regex("[ab]{3}"), committed_ids=tuple(ids), max_tokens=len(ids))
    answer = guided(llama).add(resumed).finish()["r"]
    assert (answer.ids, answer.reason) == ([], FinishReason.STOP)


def test_max_tokens_cuts_the_grammar_short(
    llama: LoadedModel, guided: Callable[..., Guided], follow: Callable[..., Request]
) -> None:
    answer = guided(llama).add(follow("r", regex("[ab]{50}"), max_tokens=5)).finish()["r"]
    assert (len(answer.ids), answer.reason) == (5, FinishReason.LENGTH)


def test_a_grammar_that_is_fulfilled_by_the_last_token_has_not_been_cut(
    llama: LoadedModel, guided: Callable[..., Guided], follow: Callable[..., Request]
) -> None:
    answer = guided(llama).add(follow("r", regex("q{5}"), max_tokens=5)).finish()["r"]
    assert (answer.text, answer.reason) == ("qqqqq", FinishReason.STOP)


def test_an_open_end_waits_for_min_tokens(
    llama: LoadedModel, guided: Callable[..., Guided], follow: Callable[..., Request]
) -> None:
    engine = guided(llama, max_batch_size=8)
    for seed in SEEDS:
        engine.add(
            follow(f"{seed}", regex("[xyz]+"), seed=seed, temperature=1.5, top_p=1.0, min_tokens=7)
        )
    engine.finish()
    for seed in SEEDS:
        answer = engine[f"{seed}"]
        assert len(answer.ids) >= 7
        assert re.fullmatch("[xyz]+", answer.text)


def test_min_tokens_beyond_the_grammar_give_way_to_it(
    llama: LoadedModel, guided: Callable[..., Guided], follow: Callable[..., Request]
) -> None:
    answer = guided(llama).add(follow("r", regex("qz"), min_tokens=50)).finish()["r"]
    assert (answer.text, answer.reason) == ("qz", FinishReason.STOP)


def test_ignore_eos_goes_on_for_as_long_as_the_grammar_does(
    llama: LoadedModel, guided: Callable[..., Guided], follow: Callable[..., Request]
) -> None:
    engine = guided(llama)
    engine.add(follow("open", regex("[xyz]+"), ignore_eos=True, temperature=1.0, max_tokens=30))
    engine.add(follow("closed", regex("[xyz]{4}"), ignore_eos=True, temperature=1.0))
    engine.finish()
    assert engine["open"].reason is FinishReason.LENGTH
    assert re.fullmatch("[xyz]+", engine["open"].text)
    assert engine["closed"].reason is FinishReason.STOP
    assert re.fullmatch("[xyz]{4}", engine["closed"].text)


def test_a_stop_string_ends_it_before_the_grammar_does(
    llama: LoadedModel, guided: Callable[..., Guided], follow: Callable[..., Request]
) -> None:
    answer = guided(llama).add(follow("r", regex("qqxqq"), stop=("x",))).finish()["r"]
    assert (answer.text, answer.reason) == ("qq", FinishReason.STOP)


def test_biases_and_penalties_choose_within_the_grammar(
    llama: LoadedModel,
    guided: Callable[..., Guided],
    follow: Callable[..., Request],
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    wanted, outside = tokenizer.encode("z")[0], tokenizer.encode("q")[0]
    bias = ((wanted, 100.0), (outside, 100.0))
    answer = (
        guided(llama)
        .add(
            follow(
                "r",
                regex("[xyz]{5}"),
                logit_bias=bias,
                repetition_penalty=1.2,
                logprobs=2,
                temperature=1.0,
            )
        )
        .finish()["r"]
    )
    assert answer.text == "zzzzz"
    # What the model thinks of a token does not depend on what it may say.
    assert all(o.logprobs[0].logprob > -9999 for o in answer.outputs if o.token_ids)


def test_an_eos_that_reads_as_text_ends_it_only_where_the_grammar_may_end(
    llama: LoadedModel,
    guided: Callable[..., Guided],
    follow: Callable[..., Request],
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    plain = tokenizer.encode("q")[0]
    loaded = dataclasses.replace(llama, eos_ids=frozenset({plain}))
    bias = ((plain, 100.0),)
    engine = guided(loaded)
    engine.add(follow("fixed", regex("[a-z]{8}"), logit_bias=bias, temperature=1.0))
    engine.add(follow("open", regex("([a-z]{2})+"), logit_bias=bias, temperature=1.0))
    engine.finish()
    assert re.fullmatch("[a-z]{8}", engine["fixed"].text)
    assert re.fullmatch("[a-z]{2}", engine["open"].text), "it ends at the first place it may"


def test_a_grammar_that_no_token_fits_fails_alone(
    llama: LoadedModel, guided: Callable[..., Guided], follow: Callable[..., Request]
) -> None:
    engine = guided(llama)
    engine.add(follow("stuck", 'start: "x" A\nA: /a/ & /b/'), follow("other", regex("[ab]{9}")))
    engine.finish()
    assert engine["stuck"].reason is FinishReason.ERROR
    assert engine["stuck"].last.error_code == "grammar_stuck"
    assert engine["stuck"].text == "x"
    assert engine["other"].reason is FinishReason.STOP


# Each of these alternatives may have begun anywhere before: their states multiply.
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
