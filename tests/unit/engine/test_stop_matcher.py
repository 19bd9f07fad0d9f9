"""A stop string is found across parts, and no more is held back than could begin one."""

import random

import pytest

from worker.engine.stop_matcher import StopMatcher


def feed(stop, parts):
    matcher = StopMatcher(stop)
    return [matcher.push(part) for part in parts], matcher.release(), matcher.matched


def test_text_without_stop_strings_passes_at_once():
    assert feed((), ["ab", "c"]) == (["ab", "c"], "", False)


def test_a_stop_string_inside_one_part_cuts_it():
    assert feed(("END",), ["one END two", "three"]) == (["one ", ""], "", True)


def test_a_stop_string_across_parts_is_never_shown():
    assert feed(("END",), ["one E", "N", "D two"]) == (["one ", "", ""], "", True)


def test_what_turns_out_not_to_be_a_stop_string_is_shown_with_the_next_part():
    assert feed(("END",), ["xE", "Nx", "y"]) == (["x", "ENx", "y"], "", False)


def test_only_the_longest_possible_beginning_is_held():
    assert feed(("aab",), ["aaa", "b"]) == (["a", ""], "", True)


def test_what_is_held_is_released_at_the_end():
    assert feed(("END",), ["oneEN"]) == (["one"], "EN", False)


def test_the_earliest_of_several_stop_strings_cuts():
    assert feed(("cd", "bc"), ["abcd"]) == (["a"], "", True)


def test_a_short_stop_string_inside_a_longer_one_ends_the_text_at_once():
    assert feed(("abcd", "bc"), ["ab", "c"]) == (["", "a"], "", True)


@pytest.mark.parametrize("seed", range(30))
def test_any_cut_of_any_text_shows_what_a_search_in_the_whole_would(seed):
    rng = random.Random(seed)
    text = "".join(rng.choices("ab", k=40))
    stop = tuple("".join(rng.choices("ab", k=rng.randint(2, 7))) for _ in range(2))
    cuts = sorted(rng.sample(range(1, 40), 12))
    parts = [text[a:b] for a, b in zip([0, *cuts], [*cuts, 40], strict=True)]
    shown, held, matched = feed(stop, parts)
    ends = [text.index(one) + len(one) for one in stop if one in text]
    assert matched == bool(ends)
    # Within one part the stop string that starts first counts, so look up to its end.
    known = next((b for b in [*cuts, 40] if ends and b >= min(ends)), 40)
    starts = [text[:known].index(one) for one in stop if one in text[:known]]
    assert "".join(shown) + held == text[: min(starts, default=40)]
