"""Adding, aborting, deadlines, priorities, and what other threads see."""

import threading

import pytest

from worker.engine.sequence import FinishReason


def test_an_engine_without_requests_has_nothing_to_do(llama, drive):
    driven = drive(llama)
    assert driven.step() == []
    engine = driven.engine
    assert (engine.has_work, engine.num_running, engine.num_waiting) == (False, 0, 0)


def test_an_abort_acts_at_the_next_step_and_frees_the_row(llama, drive, ask):
    driven = drive(llama, max_batch_size=2)
    driven.add(ask("a", "fox"), ask("b", "lazy"), ask("c", "dog")).step(3)
    assert (driven.engine.num_running, driven.engine.num_waiting) == (2, 1)
    driven.engine.abort("a", FinishReason.CANCELLED)
    outputs = driven.step()
    assert [(o.request_id, o.finish_reason, o.token_ids != ()) for o in outputs] == [
        ("a", "cancelled", False),
        ("b", None, True),
        ("c", None, True),
    ]
    assert driven["a"].last.position == 3


def test_those_that_stay_are_unaffected_by_those_that_go(model_of, drive, ask):
    for family in ("llama", "mistral", "gpt2"):
        loaded = model_of(family)
        alone = drive(loaded).add(ask("b", "lazy dog")).finish()["b"].ids
        driven = drive(loaded)
        driven.add(ask("a", "the quick brown fox"), ask("b", "lazy dog"), ask("c", "x")).step(3)
        driven.engine.abort("a", FinishReason.CANCELLED)
        driven.step(2)
        driven.engine.abort("c", FinishReason.CANCELLED)
        assert driven.finish()["b"].ids == alone


def test_an_abort_in_the_middle_of_a_prefill_frees_its_cache(llama, drive, ask):
    driven = drive(llama, prefill_budget_tokens=4).add(ask("a", [5] * 30))
    driven.step(2)
    driven.engine.abort("a", FinishReason.CANCELLED)
    driven.step()
    assert driven["a"].reason == "cancelled"
    driven.engine.check_integrity()


def test_an_abort_of_a_waiting_sequence_ends_it_there(llama, drive, ask):
    driven = drive(llama, max_batch_size=1).add(ask("a", "fox"), ask("b", "dog"))
    driven.step()
    driven.engine.abort("b", FinishReason.CANCELLED)
    driven.step()
    assert driven["b"].reason == "cancelled"
    assert driven["b"].timings.first_token_s is None
    assert driven.finish()["a"].reason == "length"


def test_an_abort_right_behind_its_request_ends_it_before_any_token(llama, drive, ask):
    driven = drive(llama).add(ask("a", "fox"))
    driven.engine.abort("a", FinishReason.CANCELLED)
    driven.finish()
    assert (driven["a"].ids, driven["a"].reason) == ([], "cancelled")


def test_an_abort_of_nobody_is_no_error(llama, drive, ask):
    driven = drive(llama).add(ask("a", "fox"))
    driven.engine.abort("nobody", FinishReason.CANCELLED)
    driven.finish()
    driven.engine.abort("a", FinishReason.CANCELLED)
    assert driven.engine.has_work
    assert driven.step() == []
    assert not driven.engine.has_work


def test_an_abort_ends_all_choices_of_its_request(llama, drive, ask):
    driven = drive(llama).add(ask("a", "fox"), ask("a", "fox", choice=1), ask("b", "fox"))
    driven.step(2)
    driven.engine.abort("a", FinishReason.CANCELLED)
    driven.step()
    assert [a.reason for a in driven.answers.values()] == ["cancelled", "cancelled", None]
    driven.finish()


def test_an_abort_keeps_the_reason_it_was_given(llama, drive, ask):
    driven = drive(llama).add(ask("a", "fox"))
    driven.engine.abort("a", FinishReason.TIMEOUT)
    assert driven.finish()["a"].reason == "timeout"


def test_an_abort_releases_text_that_was_held_back(llama, drive, ask):
    plain = drive(llama).add(ask("a", "the quick", max_tokens=5)).finish()["a"]
    stop = plain.text[-1] + "\0never"
    driven = drive(llama).add(ask("a", "the quick", max_tokens=9, stop=(stop,)))
    driven.step(5)
    driven.engine.abort("a", FinishReason.CANCELLED)
    driven.step()
    assert driven["a"].tail.endswith(plain.text[-1])
    assert driven["a"].text == plain.text


def test_a_deadline_acts_at_the_next_step(llama, drive, ask, clock):
    driven = drive(llama).add(ask("a", "fox", time_limit_s=5.0), ask("b", "fox"))
    driven.step(2)
    clock.now += 4.9
    driven.step()
    assert driven["a"].reason is None
    clock.now += 0.1
    driven.step()
    assert (driven["a"].reason, len(driven["a"].ids)) == ("timeout", 3)
    assert driven["a"].last.used_s == pytest.approx(5)
    assert driven.finish()["b"].reason == "length"


def test_waiting_does_not_count_toward_the_deadline(llama, drive, ask, clock):
    driven = drive(llama, max_batch_size=1)
    driven.add(ask("a", "fox", max_tokens=3), ask("b", "fox", time_limit_s=5.0))
    for _ in range(3):
        driven.step()
        clock.now += 60
    assert driven.finish()["b"].reason == "length"


def test_the_time_of_earlier_attempts_counts_toward_the_deadline(llama, drive, ask, clock):
    driven = drive(llama).add(ask("a", "fox", time_limit_s=5.0, used_s=4.0))
    driven.step()
    clock.now += 1
    driven.step()
    assert driven["a"].reason == "timeout"
    assert driven["a"].timings.used_s == pytest.approx(5)


def test_a_request_whose_time_is_used_up_ends_without_a_token(llama, drive, ask):
    answer = drive(llama).add(ask("a", "fox", time_limit_s=5.0, used_s=5.0)).finish()["a"]
    assert (answer.ids, answer.reason) == ([], "timeout")


def test_the_queue_goes_by_priority_and_then_by_arrival(llama, drive, ask):
    driven = drive(llama, max_batch_size=1)
    for name, priority in [("l1", 2), ("n1", 1), ("n2", 1), ("h1", 0), ("l2", 2), ("h2", 0)]:
        driven.add(ask(name, "fox", priority=priority, max_tokens=1))
    driven.finish()
    assert [name for name, _ in driven.answers] == ["h1", "h2", "n1", "n2", "l1", "l2"]


def test_a_long_prompt_does_not_stop_those_that_decode(llama, drive, ask):
    driven = drive(llama, prefill_budget_tokens=8)
    driven.add(ask("a", "fox")).step()
    driven.add(ask("long", [5] * 40, max_tokens=2))
    for _ in range(4):
        assert [output.request_id for output in driven.step()] == ["a"]
    assert [output.request_id for output in driven.step()] == ["a", "long"]
    driven.finish()


def test_short_prompts_share_the_prefill_budget_of_a_step(llama, drive, ask):
    driven = drive(llama, prefill_budget_tokens=8)
    driven.add(*(ask(str(i), [5, 6, 7]) for i in range(3)))
    assert [output.request_id for output in driven.step()] == ["0", "1"]
    assert [output.request_id for output in driven.step()] == ["0", "1", "2"]
    driven.finish()


def test_counts_tell_running_and_waiting_apart(llama, drive, ask):
    driven = drive(llama, max_batch_size=2)
    driven.add(*(ask(str(i), "fox", max_tokens=2) for i in range(3)))
    engine = driven.engine
    assert (engine.num_running, engine.num_waiting, engine.has_work) == (0, 3, True)
    driven.step()
    assert (engine.num_running, engine.num_waiting) == (2, 1)
    driven.finish()
    assert (engine.num_running, engine.num_waiting, engine.has_work) == (0, 0, False)


def test_waiting_ends_when_a_request_comes_from_another_thread(llama, drive, ask):
    driven = drive(llama)
    assert driven.engine.wait(0) is False
    thread = threading.Thread(target=driven.engine.add, args=(ask("a", "fox"),))
    thread.start()
    assert driven.engine.wait(30) is True
    thread.join()
    assert driven.finish()["a"].reason == "length"


def test_requests_from_many_threads_are_all_answered(llama, drive, ask):
    driven = drive(llama, max_batch_size=8)

    def add_some(number):
        for index in range(5):
            driven.engine.add(ask(f"{number}-{index}", "fox", max_tokens=2))

    threads = [threading.Thread(target=add_some, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    driven.step(3)  # while they add
    for thread in threads:
        thread.join()
    driven.finish()
    assert len(driven.answers) == 20
    assert {answer.reason for answer in driven.answers.values()} == {FinishReason.LENGTH}


def test_two_engines_on_one_process_share_nothing(model_of, drive, ask):
    first, second = drive(model_of("llama")), drive(model_of("gpt2"))
    alone = drive(model_of("llama")).add(ask("a", "fox")).finish()["a"].ids
    first.add(ask("a", "fox"))
    second.add(ask("a", "lazy", max_tokens=5))
    while first.engine.has_work or second.engine.has_work:
        first.step()
        second.step()
    assert first["a"].ids == alone
    assert len(second["a"].ids) == 5
