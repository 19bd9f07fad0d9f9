"""A sequence cut off anywhere goes on as if nothing had happened."""

import dataclasses

import pytest

HOT = {"temperature": 1.6, "top_p": 1.0, "max_tokens": 14, "seed": 3}
KINDS = {
    "greedy": {"max_tokens": 14},
    "sampled": HOT,
    "penalised": HOT | {"repetition_penalty": 1.2, "frequency_penalty": 0.4, "presence_penalty": 1},
    "biased": HOT | {"logit_bias": ((40, 5.0), (41, -100.0)), "logprobs": 2, "min_p": 0.01},
    "filtered": HOT | {"top_k": 20, "min_p": 0.02, "top_p": 0.9, "choice": 2},
}


def resumed(request, whole, position):
    return dataclasses.replace(request, committed_ids=tuple(whole.ids[:position]))


def check_continues(drive, loaded, request, whole, position):
    again = resumed(request, whole, position)
    driven = drive(loaded).add(again).finish()
    answer = driven.answers[request.request_id, request.choice]
    assert [*again.committed_ids, *answer.ids] == whole.ids
    assert answer.outputs[0].position == position
    assert answer.reason == whole.reason
    replayed = driven.engine.text_of_committed(again)
    assert replayed == "".join(whole.texts[:position])
    assert answer.texts == whole.texts[position:]
    assert replayed + answer.text == whole.text


@pytest.mark.parametrize("kind", KINDS)
def test_a_resume_at_every_position_gives_the_undisturbed_answer(llama, drive, ask, kind):
    request = ask("a", "the quick brown", **KINDS[kind])
    whole = drive(llama).add(request).finish().answers["a", request.choice]
    for position in range(len(whole.ids)):
        check_continues(drive, llama, request, whole, position)


def test_a_resume_inside_a_batch_gives_the_undisturbed_answer(llama, drive, ask):
    request = ask("a", "the quick brown", **HOT)
    whole = drive(llama).add(request).finish()["a"]
    driven = drive(llama, prefill_budget_tokens=5)
    driven.add(ask("b", "over", **HOT)).step(3)
    driven.add(resumed(request, whole, 6)).finish()
    assert driven["a"].ids == whole.ids[6:]


def test_text_held_back_at_the_crash_comes_after_the_resume(llama, drive, ask):
    plain = drive(llama).add(ask("a", "the quick", **HOT)).finish()["a"]
    for position in range(1, len(plain.ids)):
        shown = "".join(plain.texts[:position])
        if not shown:
            continue
        # The last character may begin this stop string, so it is held at the crash.
        request = ask("a", "the quick", **HOT, stop=(shown[-1] + "\0never",))
        whole = drive(llama).add(request).finish()["a"]
        assert "".join(whole.texts[:position]) != shown, "held back"
        check_continues(drive, llama, request, whole, position)


def test_a_stop_string_that_spans_the_crash_is_found(llama, drive, ask):
    plain = drive(llama).add(ask("a", "the quick", max_tokens=14)).finish()["a"]
    middle = len(plain.text) // 2
    request = ask("a", "the quick", max_tokens=14, stop=(plain.text[middle : middle + 4],))
    whole = drive(llama).add(request).finish()["a"]
    assert whole.reason == "stop"
    for position in range(len(whole.ids)):
        check_continues(drive, llama, request, whole, position)


def test_an_unfinished_character_at_the_crash_is_finished_after_it(llama, drive, ask, tokenizer):
    ids = tokenizer.convert_tokens_to_ids(["a", *"ðŁĻĤ"])  # F0 9F 99 82, a byte each
    request = ask("a", "fox", max_tokens=5)
    driven = drive(llama)
    texts = [
        driven.engine.text_of_committed(dataclasses.replace(request, committed_ids=tuple(ids[:n])))
        for n in range(6)
    ]
    assert texts == ["", "a", "a", "a", "a", "a🙂"]


def ended(kind, llama, drive, ask):
    if kind == "length":
        request = ask("a", "the quick", max_tokens=6)
    else:
        plain = drive(llama).add(ask("a", "the quick", max_tokens=12)).finish()["a"]
        if kind == "stop string":
            request = ask("a", "the quick", max_tokens=12, stop=(plain.text[6:9],))
        else:
            request = ask("a", "the quick", max_tokens=12, stop_token_ids=(plain.ids[4],))
    return request, drive(llama).add(request).finish()["a"]


@pytest.mark.parametrize("kind", ["length", "stop string", "stop id"])
def test_a_replay_that_is_complete_ends_before_any_forward(llama, drive, ask, kind):
    request, whole = ended(kind, llama, drive, ask)
    driven = drive(llama, runner=NoForward()).add(resumed(request, whole, len(whole.ids)))
    (output,) = driven.step()
    assert output.finish_reason == whole.reason
    assert (output.token_ids, output.texts) == ((), ())
    assert output.position == len(whole.ids)
    replayed = driven.engine.text_of_committed(resumed(request, whole, len(whole.ids)))
    assert replayed + output.tail == whole.text


class NoForward:
    """A runner that must never be asked to run."""

    max_sequence_tokens = 160

    def run(self, chunks):
        raise AssertionError(f"a forward ran: {chunks}")

    def free(self, keys):
        pass

    def check_integrity(self, lengths):
        assert not lengths


@pytest.mark.parametrize("kind", ["length", "stop string", "stop id"])
def test_committed_ids_that_go_on_after_an_end_are_refused(llama, drive, ask, kind):
    request, whole = ended(kind, llama, drive, ask)
    wrong = dataclasses.replace(request, committed_ids=(*whole.ids, 7))
    answer = drive(llama).add(wrong).finish()["a"]
    assert (answer.reason, answer.last.error_code) == ("error", "invalid_request")
    assert "committed_ids" in (answer.last.error or "")


def test_min_tokens_counts_the_replayed_tokens(llama, drive, ask):
    plain = drive(llama).add(ask("a", "fox", max_tokens=12)).finish()["a"]
    request = ask("a", "fox", max_tokens=12, stop_token_ids=(plain.ids[0],), min_tokens=6)
    whole = drive(llama).add(request).finish()["a"]
    for position in range(len(whole.ids)):
        check_continues(drive, llama, request, whole, position)
