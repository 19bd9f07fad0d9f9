"""What comes out of a step: one token per running sequence, with its text and times."""

import random

import pytest

PROMPTS = ["the quick", "grüße, 世界", "lazy", "jumps over the lazy dog"]


def sampled(ask, name, prompt, **extra):
    return ask(name, prompt, **{"temperature": 1.3, "top_p": 0.95, "max_tokens": 16} | extra)


def test_a_step_gives_every_running_sequence_one_token(llama, drive, ask):
    driven = drive(llama).add(*(ask(str(i), p) for i, p in enumerate(PROMPTS)))
    for step in range(12):
        outputs = driven.step()
        assert [len(output.token_ids) for output in outputs] == [1] * 4
        assert [output.position for output in outputs] == [step] * 4
    assert not driven.engine.has_work


def test_all_texts_and_the_tail_are_the_decoded_answer(llama, drive, ask, tokenizer):
    requests = [
        sampled(ask, str(i), prompt, seed=i, temperature=3.0, top_p=1.0, max_tokens=60)
        for i, prompt in enumerate(PROMPTS)
    ]
    driven = drive(llama).add(*requests).finish()
    for request in requests:
        answer = driven[request.request_id]
        assert len(answer.texts) == len(answer.ids)
        assert answer.text == tokenizer.decode(answer.ids, skip_special_tokens=True)


def test_the_length_ends_an_answer(llama, drive, ask):
    answer = drive(llama).add(ask("a", "fox", max_tokens=3)).finish()["a"]
    assert (len(answer.ids), answer.reason) == (3, "length")


def test_one_token_can_be_all_that_is_asked_for(llama, drive, ask):
    driven = drive(llama).add(ask("a", "fox", max_tokens=1))
    (output,) = driven.step()
    assert (output.finish_reason, len(output.token_ids)) == ("length", 1)


def test_an_answer_may_fill_the_context_to_its_last_token(llama, drive, ask, generate):
    prompt = [5] * (llama.context_length - 3)
    request = ask("a", prompt, max_tokens=3)
    assert drive(llama).add(request).finish()["a"].ids == generate(llama, request)


def test_a_seeded_answer_is_the_same_alone_and_in_any_batch(model_of, drive, ask):
    for family in ("llama", "mistral"):
        loaded = model_of(family)
        requests = [sampled(ask, str(i), p, seed=7 + i) for i, p in enumerate(PROMPTS)]
        alone = {r.request_id: drive(loaded).add(r).finish()[r.request_id].ids for r in requests}
        for order in range(3):
            shuffled = random.Random(order).sample(requests, len(requests))
            driven = drive(loaded, max_batch_size=3)
            for request in shuffled:
                driven.add(request).step(order)
            driven.finish()
            assert {name: driven[name].ids for name in alone} == alone


def test_another_seed_or_choice_gives_another_answer(llama, drive, ask):
    requests = [
        sampled(ask, "a", "fox", seed=1),
        sampled(ask, "a", "fox", seed=1, choice=1),
        sampled(ask, "b", "fox", seed=2),
        sampled(ask, "c", "fox", seed=1),
    ]
    driven = drive(llama).add(*requests).finish()
    ids = [driven.answers[r.request_id, r.choice].ids for r in requests]
    assert ids[0] == ids[3]
    assert ids[0] != ids[1]
    assert ids[0] != ids[2]


def test_each_sequence_keeps_its_own_parameters(llama, drive, ask):
    asked = [
        {"temperature": 0.0},
        {"temperature": 2.0, "seed": 5},
        {"temperature": 0.0, "frequency_penalty": 1.5, "max_tokens": 5},
        {"temperature": 1.0, "top_k": 3, "min_p": 0.1, "seed": 9},
    ]
    requests = [ask(str(i), "the lazy dog", **extra) for i, extra in enumerate(asked)]
    together = drive(llama).add(*requests).finish()
    for request in requests:
        alone = drive(llama).add(request).finish()
        assert together[request.request_id].ids == alone[request.request_id].ids


def test_top_k_1_and_top_p_0_are_greedy(llama, drive, ask):
    greedy = drive(llama).add(ask("a", "fox")).finish()["a"].ids
    for extra in ({"top_k": 1}, {"top_p": 0.0}):
        answer = drive(llama).add(ask("a", "fox", temperature=5.0, **extra)).finish()["a"]
        assert answer.ids == greedy


@pytest.mark.parametrize("ignores", [False, True])
def test_an_eos_of_the_model_ends_the_answer_unless_it_is_ignored(
    llama, drive, ask, tokenizer, ignores
):
    # So hot that each token is about equally likely; the draw hits eos at some seed.
    for seed in range(60):
        request = ask(
            "a", "fox", temperature=1e4, top_p=1.0, max_tokens=20, seed=seed, ignore_eos=ignores
        )
        answer = drive(llama).add(request).finish()["a"]
        if tokenizer.eos_token_id in answer.ids[:-1] or answer.reason == "stop":
            break
    position = answer.ids.index(tokenizer.eos_token_id)
    assert answer.texts[position] == ""
    assert (answer.reason, len(answer.ids) == 20) == (
        ("length", True) if ignores else ("stop", False)
    )
    if not ignores:
        assert position == len(answer.ids) - 1


def test_a_stop_string_across_tokens_is_cut_and_its_ids_stay(llama, drive, ask):
    plain = drive(llama).add(ask("a", "the quick", max_tokens=30)).finish()["a"]
    text = plain.text
    # A stop string that begins inside one token and ends inside a later one.
    for start in range(4, len(text) - 6):
        stop = text[start : start + 5]
        cut = text.index(stop)
        answer = drive(llama).add(ask("a", "the quick", max_tokens=30, stop=(stop,))).finish()["a"]
        assert answer.text == text[:cut]
        assert answer.tail == ""
        assert answer.reason == "stop"
        assert answer.ids == plain.ids[: len(answer.ids)]
        shown = "".join(plain.texts[: len(answer.ids)])
        assert stop in shown, "the ids that made the stop string stay"
        assert stop not in "".join(plain.texts[: len(answer.ids) - 1]), "it ended at once"


def test_text_that_might_begin_a_stop_string_comes_with_the_tail(llama, drive, ask):
    plain = drive(llama).add(ask("a", "the quick", max_tokens=6)).finish()["a"]
    stop = plain.text[-1] + "\0never"
    answer = drive(llama).add(ask("a", "the quick", max_tokens=6, stop=(stop,))).finish()["a"]
    assert answer.tail.endswith(plain.text[-1])
    assert answer.text == plain.text


def test_a_stop_string_counts_only_after_min_tokens(llama, drive, ask):
    plain = drive(llama).add(ask("a", "the quick", max_tokens=12)).finish()["a"]
    at = next(i for i, text in enumerate(plain.texts) if i > 2 and text)
    stop = (plain.texts[at],)
    lengths = [
        len(drive(llama).add(ask("a", "the quick", stop=stop, min_tokens=n)).finish()["a"].ids)
        for n in (at, at + 1)
    ]
    assert lengths[0] == at + 1
    assert lengths[1] > at + 1


def test_the_text_of_an_id_that_ends_the_answer_is_not_shown(llama, drive, ask):
    plain = drive(llama).add(ask("a", "the quick", max_tokens=12)).finish()["a"]
    at = next(
        i for i, text in enumerate(plain.texts) if text and plain.ids.index(plain.ids[i]) == i
    )
    request = ask("a", "the quick", stop_token_ids=(plain.ids[at],))
    answer = drive(llama).add(request).finish()["a"]
    assert answer.ids == plain.ids[: at + 1]
    assert answer.texts == [*plain.texts[:at], ""]


def test_timings_tell_waiting_prefill_and_decode_apart(llama, drive, ask, clock):
    driven = drive(llama, max_batch_size=1, prefill_budget_tokens=4)
    driven.add(ask("a", [7] * 8, max_tokens=3, used_s=10.0), ask("b", [7], max_tokens=1))
    clock.now += 2  # both wait
    for _ in range(4):  # two chunks of a's prompt, then two more tokens
        driven.step()
        clock.now += 1
    driven.step()
    timings = driven["a"].timings
    assert (timings.queue_s, timings.prefill_s, timings.decode_s) == (2, 1, 2)
    assert (timings.used_s, timings.first_token_s, timings.batch_size) == (13, 3, 1)
    assert [output.used_s for output in driven["a"].outputs] == [11, 12, 13]
    assert driven["b"].timings.queue_s == 6


def test_the_batch_size_reported_is_the_largest_it_ran_in(llama, drive, ask):
    driven = drive(llama)
    driven.add(ask("a", "fox", max_tokens=9)).step()
    driven.add(ask("b", "fox", max_tokens=2), ask("c", "fox", max_tokens=2)).finish()
    assert driven["a"].timings.batch_size == 3


def test_the_token_that_ends_a_sequence_has_no_text_even_where_special_ones_have(
    llama, drive, ask, tokenizer
):
    pad = tokenizer.pad_token_id
    forced = {"logit_bias": ((pad, 100.0),), "skip_special_tokens": False}
    answer = drive(llama).add(ask("a", "fox", max_tokens=3, **forced)).finish()["a"]
    assert answer.text == "<pad>" * 3
    answer = drive(llama).add(ask("a", "fox", stop_token_ids=(pad,), **forced)).finish()["a"]
    assert (answer.ids, answer.text, answer.reason) == ([pad], "", "stop")
