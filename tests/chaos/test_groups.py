"""What is wrong with a group has to be seen."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from common.events import TokenEvent
from tests.chaos.groups import FollowedGroup, draw_groups, group_problems
from tests.chaos.store import StoredJob, put_together

CHOICES = [
    {"text": "AB", "token_ids": [1, 2], "finish_reason": "length"},
    {"text": "C", "token_ids": [3], "finish_reason": "stop"},
]
FIELDS = {
    **{"status": "completed", "key": "k", "model": "m", "class": "normal", "stream_token": "t"},
    **{"params": '{"time_limit_s":1,"seed":1,"n":2}', "request_id": "r", "created_ms": "1"},
    **{"attempts": "2", "eid": "2"},
}
EVENTS = [
    TokenEvent(0, (1,), ("A",)).pack(),
    TokenEvent(0, (3,), ("C",), 1).pack(),
    TokenEvent(1, (2,), ("B",)).pack(),
]
GROUP = replace(draw_groups(1, 1)[0], prompts=("a", "b"))


def stored(
    job_id: str, choices: Any = CHOICES, events: list[str] = EVENTS, **fields: str
) -> StoredJob:
    named = [(f"{i}-0", event) for i, event in enumerate(events, 1)]
    record = FIELDS | {"result": json.dumps(choices)} | fields
    return StoredJob(job_id, record, named, put_together(events))


def problems(job: StoredJob | None, has_ended: bool = True) -> list[str]:
    """With this as the second job of the group, in the run with faults."""
    before = FollowedGroup(GROUP, ("r-0", "r-1"), True)
    followed = FollowedGroup(GROUP, ("f-0", "f-1"), has_ended)
    found = {name: stored(name) for name in ("r-0", "r-1", "f-0")}
    return list(group_problems([before], [followed], found | ({"f-1": job} if job else {})))


def test_a_group_as_without_faults_has_no_problem() -> None:
    assert problems(stored("f-1")) == []


@pytest.mark.parametrize(
    ("job", "expected"),
    [
        (None, "job f-1 is not in Redis"),
        (stored("f-1", status="failed"), "ended as failed and not as completed"),
        (
            stored("f-1", [CHOICES[0], CHOICES[1] | {"finish_reason": "length"}]),
            "choice 1 ended by length",
        ),
        (stored("f-1", [CHOICES[0] | {"text": "AC"}, CHOICES[1]]), "choice 0 has another text"),
        (stored("f-1", events=EVENTS[:2]), "choice 0: its events"),
        (stored("f-1", events=[EVENTS[0], EVENTS[2]]), "choice 1: its events"),
        (
            stored("f-1", [CHOICES[0] | {"token_ids": [1]}, CHOICES[1]], EVENTS[:2]),
            "choice 0: tokens: Difference(lost=1",
        ),
    ],
)
def test_a_job_that_differs_is_named(job: StoredJob | None, expected: str) -> None:
    [problem] = problems(job)
    assert problem.startswith("group 0: ")
    assert expected in problem


def test_a_group_that_did_not_end_is_lost() -> None:
    assert problems(None, has_ended=False) == ["group 0 was accepted and did not end"]


def test_the_same_seed_gives_the_same_groups_of_several_choices() -> None:
    groups = draw_groups(7, 30)
    assert groups == draw_groups(7, 30) != draw_groups(8, 30)
    assert groups[:9] == draw_groups(7, 9)
    assert {group.sampling.n for group in groups} == {2, 3}
    assert {len(group.prompts) for group in groups} == {1, 2, 3}
