"""Groups of jobs of several choices, beside the other jobs of a run.

The native endpoints offer neither, so these are submitted as a gateway does it, and read from Redis
at the end. Their tokens depend on no fault either, nor on the batch (see `model`).
"""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from common.connection import AsyncRedis
from common.errors import RedisUnavailableError
from common.job_store import Idempotency, Submissions
from common.model_catalog import ModelCatalog
from common.sampling import SamplingSpec
from common.schemas import JobRecord, JobSpec, Prompt, member_ids
from common.settings import Settings
from tests.chaos.clients import RETRY_S, Progress
from tests.chaos.comparison import compare
from tests.chaos.model import LETTERS
from tests.chaos.store import StoredJob

KEY_ID = "groups"
JOBS_PER_GROUP = 8
"""One group is submitted after so many of the other jobs."""
POLL_S = 0.2


@dataclass(frozen=True)
class ChaosGroup:
    """Some prompts that are submitted together, each for several choices."""

    number: int
    prompts: tuple[str, ...]
    sampling: SamplingSpec


@dataclass
class FollowedGroup:
    """A group and the ids of its jobs; none until they are accepted."""

    group: ChaosGroup
    job_ids: tuple[str, ...] = ()
    has_ended: bool = field(default=False)


def draw_groups(seed: int, count: int) -> list[ChaosGroup]:
    """Draw the groups of a run; the same seed and count give the same ones."""
    rng = random.Random(f"groups {seed}")
    return [_draw_group(rng, number) for number in range(count)]


def _draw_group(rng: random.Random, number: int) -> ChaosGroup:
    prompts = ("".join(rng.choices(LETTERS, k=rng.randint(4, 40))) for _ in range(3))
    sampling = SamplingSpec(
        max_tokens=rng.randint(40, 250),
        time_limit_s=600.0,
        seed=rng.randrange(2**32),
        temperature=1.0,
        frequency_penalty=0.05,
        ignore_eos=True,
        # They are found sooner in one choice than in another.
        stop=tuple(rng.sample(LETTERS, 1)) if rng.random() < 0.5 else (),
        n=rng.choice((2, 3)),
    )
    return ChaosGroup(number, tuple(prompts)[: rng.randint(1, 3)], sampling)


class GroupClients:
    """Who submits the groups and waits for their ends. None of them gives up.

    Args:
        client: To Redis; nothing breaks this connection, but Redis itself may be away.
        settings: Those of the service.
        phase: Keeps the idempotency keys of two phases apart.
        progress: Told of all that comes on.
    """

    def __init__(
        self, client: AsyncRedis, settings: Settings, phase: str, progress: Progress
    ) -> None:
        self._submissions = Submissions(client, settings)
        entry = ModelCatalog(settings).resolve(None)
        self._model, self._is_upstream = entry.model, entry.is_upstream
        self._phase = phase
        self._progress = progress

    async def follow(self, followed: FollowedGroup) -> None:
        """Submit a group and stay with it until every job has ended."""
        specs = self._specs(followed.group)
        name = f"{self._phase}-{followed.group.number}"
        while not followed.job_ids:
            try:
                await self._submissions.submit(*specs, idempotency=Idempotency(name, name))
            except RedisUnavailableError:
                await asyncio.sleep(RETRY_S)
            else:
                followed.job_ids = tuple(spec.job_id for spec in specs)
        num_tokens = 0
        while not followed.has_ended:
            await asyncio.sleep(POLL_S)
            records = await self._records(followed.job_ids)
            came = sum(record.completion_tokens for record in records)
            followed.has_ended = len(records) == len(specs) and all(
                record.status.is_final for record in records
            )
            if came > num_tokens or followed.has_ended:
                num_tokens = came
                self._progress.note()

    def _specs(self, group: ChaosGroup) -> list[JobSpec]:
        ids = member_ids(str(uuid.uuid4()), len(group.prompts))
        return [
            JobSpec(
                *(job_id, KEY_ID, self._model, "normal", self._sampling(group), "token", "request"),
                prompt_ids=None if self._is_upstream else _ids_of(prompt),
                prompt=Prompt(text=prompt, raw=True) if self._is_upstream else None,
                metadata={"phase": self._phase, "group": str(group.number)},
            )
            for job_id, prompt in zip(ids, group.prompts, strict=True)
        ]

    def _sampling(self, group: ChaosGroup) -> SamplingSpec:
        return replace(group.sampling, ignore_eos=not self._is_upstream)

    async def _records(self, job_ids: Sequence[str]) -> list[JobRecord]:
        """Those that Redis tells of; none while it is away."""
        try:
            found = [await self._submissions.find(job_id) for job_id in job_ids]
        except RedisUnavailableError:
            return []
        return [record for record in found if record is not None]


def _ids_of(prompt: str) -> tuple[int, ...]:
    return tuple(LETTERS.index(letter) + 1 for letter in prompt)


def group_problems(
    before: Sequence[FollowedGroup],
    followed: Sequence[FollowedGroup],
    stored: Mapping[str, StoredJob],
) -> Iterator[str]:
    """What is wrong with the groups of the run with faults, in words.

    Args:
        before: The same groups without faults.
        followed: With faults.
        stored: Every job that Redis holds at the end.
    """
    reference = {each.group.number: each for each in before}
    for each in followed:
        name = f"group {each.group.number}"
        if not each.has_ended:
            yield f"{name} was {'accepted and did not end' if each.job_ids else 'never accepted'}"
            continue
        pairs = zip(reference[each.group.number].job_ids, each.job_ids, strict=True)
        for expected_id, job_id in pairs:
            if expected_id not in stored or job_id not in stored:
                yield f"{name}: job {job_id} is not in Redis"
                continue
            for problem in _job_problems(stored[expected_id], stored[job_id]):
                yield f"{name}: job {job_id}: {problem}"


def _job_problems(expected: StoredJob, got: StoredJob) -> Iterator[str]:
    if got.fields["status"] != expected.fields["status"]:
        yield f"it ended as {got.fields['status']} and not as {expected.fields['status']}"
    for index, (wanted, choice) in enumerate(zip(expected.choices, got.choices, strict=True)):
        if choice.finish_reason != wanted.finish_reason:
            yield f"choice {index} ended by {choice.finish_reason}, not by {wanted.finish_reason}"
        if difference := compare(wanted.token_ids, choice.token_ids):
            yield f"choice {index}: tokens: {difference}"
        if choice.text != wanted.text:
            yield f"choice {index} has another text"
        if got.streamed_ids(index) != choice.token_ids:
            yield f"choice {index}: its events in Redis are not its result"
