"""Who is there: the workers that are alive, the models they have, and the service's counters.

Two disjoint halves: `FleetWriter` is the worker's (blocking), `FleetReader` the gateway's
(asynchronous). A worker announces itself in its heartbeat (`job_store.Claims.heartbeat`); what is
written here is what changes only when a model has been loaded.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any, Literal, Self, cast

from redis.exceptions import NoPermissionError

from common import keys
from common.connection import AsyncRedis, SyncRedis, translated_errors
from common.known_fields import of_known
from common.model_card import ModelCard
from common.schemas import JOB_CLASSES, JobClass, JobStatus
from common.scorers import ScorerCard
from common.tallies import Tally, read_tally
from common.vitals import Vitals

ModelState = Literal["ready", "loading", "unloaded", "error"]
"""`unloaded`: it is loaded when a job for it comes."""


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model on one worker.

    Attributes:
        reason: In one line, why it cannot be loaded, or why its jobs wait though it is.
        revision: Of what is loaded (`model_card.ModelCard.fingerprint`).
    """

    state: ModelState
    reason: str | None = None
    revision: str | None = None


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """What a worker announces of itself with every heartbeat.

    Attributes:
        slots: Jobs that it runs at once, at most.
        running: Jobs that it runs now.
        gpu_memory: Bytes `used` and `total` of its GPU; None on a CPU.
        vitals: How it, its machine and its engines are; None from a worker that does not tell.
        found: Models that it found on other servers, beside the configured ones; None where it
            does not look, or has not yet.
        scorers: Those that it has, by name: in one line why one cannot be used, None where it can.
    """

    worker_id: str
    host: str
    pid: int
    version: str
    device: str
    slots: int
    running: int
    models: dict[str, ServedModel] = field(default_factory=dict)
    gpu_memory: dict[str, int] | None = None
    vitals: Vitals | None = None
    found: tuple[str, ...] | None = None
    scorers: dict[str, str | None] = field(default_factory=dict)

    def pack(self) -> str:
        """JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def unpack(cls, packed: str) -> Self:
        """The inverse of `pack`; fields of a later version's are passed over."""
        values = json.loads(packed)
        models = values.get("models", {}).items()
        values["models"] = {name: of_known(ServedModel, served) for name, served in models}
        vitals = values.get("vitals")
        values["vitals"] = None if vitals is None else Vitals.unpack(vitals)
        found = values.get("found")
        values["found"] = None if found is None else tuple(found)
        return of_known(cls, values)


@dataclass(frozen=True, slots=True)
class Fleet:
    """A snapshot of the service, over all gateways and workers.

    Attributes:
        queued: Waiting jobs of each model that was asked for, and of each other that has some.
        running: Jobs under a lease, whether their worker lives or not.
        counters: Ever-growing counts: `jobs:<state>`, `generation_tokens`, `prompt_tokens`.
        memory_used: Bytes that Redis uses; 0 where it does not tell.
        memory_limit: Bytes that it may use; None where it has no limit.
        queued_by_class: Waiting jobs of each model and class.
        tallies: What the ended jobs of each model that ever had one add up to.
    """

    workers: tuple[WorkerInfo, ...]
    queued: dict[str, int]
    running: int
    counters: dict[str, int]
    memory_used: int
    memory_limit: int | None
    queued_by_class: dict[str, dict[JobClass, int]] = field(default_factory=dict)
    tallies: dict[str, Tally] = field(default_factory=dict)

    def states(self, model: str) -> list[ServedModel]:
        """The model on every live worker that serves it."""
        return [w.models[model] for w in self.workers if model in w.models]

    def state(self, model: str) -> ModelState:
        """The best state on any live worker; `loading` where no live worker serves it."""
        states = {served.state for served in self.states(model)}
        best: tuple[ModelState, ...] = ("ready", "loading", "unloaded", "error")
        return next((state for state in best if state in states), "loading")

    def away(self, model: str) -> str | None:
        """Why no server runs a model that other servers run; None where one does, or may soon."""
        if self.state(model) != "loading":
            return None
        return next((served.reason for served in self.states(model) if served.reason), None)

    @property
    def found(self) -> frozenset[str] | None:
        """Models that live workers found beside the configured ones; None: none has looked."""
        told = [worker.found for worker in self.workers if worker.found is not None]
        return frozenset(model for each in told for model in each) if told else None

    def can_run(self, model: str) -> bool:
        """Whether a live worker has the model loaded, or loads it when a job comes."""
        return self.state(model) in ("ready", "unloaded")

    @property
    def num_queued(self) -> int:
        """Waiting jobs of all models."""
        return sum(self.queued.values())

    @property
    def num_ended(self) -> int:
        """Jobs that have ended since the counters began, however they did."""
        return sum(self.counters.get(f"jobs:{s}", 0) for s in JobStatus if s.is_final)

    @property
    def num_slots(self) -> int:
        """Jobs that all live workers run at once."""
        return sum(worker.slots for worker in self.workers)


class FleetWriter:
    """The worker's half."""

    def __init__(self, client: SyncRedis) -> None:
        self._client = client

    def publish_card(self, card: ModelCard, tokenizer_json: str | None) -> None:
        """Make a loaded model known to the gateways.

        Args:
            card: The model's.
            tokenizer_json: None where the card says that there is none.

        Raises:
            RedisUnavailableError: Redis is away; repeat the call.
        """
        with translated_errors():
            pipe = self._client.pipeline()
            if card.tokenizer_sha256 is not None and tokenizer_json is not None:
                pipe.set(keys.tokenizer(card.tokenizer_sha256), tokenizer_json)
            pipe.set(keys.card(card.model), card.pack())
            pipe.execute()

    def publish_scorers(self, cards: Sequence[ScorerCard]) -> None:
        """Make scorers known to the gateways, for a day.

        Raises:
            RedisUnavailableError: Redis is away; repeat the call.
        """
        with translated_errors():
            pipe = self._client.pipeline(transaction=False)
            for card in cards:
                pipe.set(keys.scorer(card.name), card.pack(), ex=keys.SCORER_TTL_S)
            pipe.execute()

    def waiting(self, models: Sequence[str]) -> dict[str, dict[JobClass, int]]:
        """The jobs in line of each model and class, in one round trip.

        Raises:
            RedisUnavailableError: Redis is away.
        """
        with translated_errors():
            pipe = self._client.pipeline(transaction=False)
            _count_lines(pipe, models)
            return _lines(models, pipe.execute())


class FleetReader:
    """The gateway's half."""

    def __init__(self, client: AsyncRedis) -> None:
        self._client = client

    async def snapshot(self, models: Sequence[str]) -> Fleet:
        """Look at all of it in two round trips.

        Raises:
            RedisUnavailableError: Redis is away.
        """
        with translated_errors():
            pipe = self._client.pipeline(transaction=False)
            pipe.zrange(keys.WORKERS, 0, -1)
            pipe.zcard(keys.LEASES)
            pipe.hgetall(keys.COUNTERS)
            pipe.info("memory")
            pipe.smembers(keys.MODELS)
            _count_lines(pipe, models)
            answers = await pipe.execute(raise_on_error=False)
            if isinstance(answers[3], NoPermissionError):
                answers[3] = {"used_memory": 0}
            ids, running, counters, memory, known, *counts = _without_errors(answers)
            # Jobs may wait for a model that is not configured any more, or not here.
            others = sorted(set(known).difference(models))
            packed, tallies, stray = await self._details(ids, known, others)
        queued = _lines(models, counts)
        queued |= {m: lines for m, lines in _lines(others, stray).items() if any(lines.values())}
        return Fleet(
            workers=tuple(WorkerInfo.unpack(str(p)) for p in packed if p is not None),
            queued={model: sum(lines.values()) for model, lines in queued.items()},
            running=running,
            counters={name: int(value) for name, value in counters.items()},
            memory_used=int(memory["used_memory"]),
            memory_limit=int(memory.get("maxmemory", 0)) or None,
            queued_by_class=queued,
            tallies=tallies,
        )

    async def _details(
        self, worker_ids: Sequence[str], models: Collection[str], others: Sequence[str]
    ) -> tuple[list[str | None], dict[str, Tally], list[int]]:
        """What the workers announce, the tallies of the models, and the lines of some of them."""
        pipe = self._client.pipeline(transaction=False)
        for worker_id in worker_ids:
            pipe.get(keys.worker(worker_id))
        for model in models:
            pipe.hgetall(keys.tallies(model))
        _count_lines(pipe, others)
        answers = iter(await pipe.execute())
        packed = list(islice(answers, len(worker_ids)))
        tallies = {model: read_tally(next(answers)) for model in models}
        return packed, {m: tally for m, tally in tallies.items() if tally.jobs}, list(answers)

    async def card(self, model: str) -> ModelCard | None:
        """The card of a model, or None where no worker has ever loaded it."""
        with translated_errors():
            packed = await cast(Any, self._client.get(keys.card(model)))
        return None if packed is None else ModelCard.unpack(packed)

    async def cards(self, models: Sequence[str]) -> dict[str, ModelCard]:
        """The cards of the models that any worker has ever loaded, in one round trip."""
        with translated_errors():
            packed = await self._client.mget([keys.card(model) for model in models])
        found = zip(models, packed, strict=True)
        return {model: ModelCard.unpack(str(p)) for model, p in found if p is not None}

    async def scorer(self, name: str) -> ScorerCard | None:
        """The card of a scorer, or None where no worker has had it for a day."""
        with translated_errors():
            packed = await cast(Any, self._client.get(keys.scorer(name)))
        return None if packed is None else ScorerCard.unpack(packed)

    async def tokenizer(self, sha256: str) -> str:
        """The tokenizer file of a card, as JSON.

        Raises:
            KeyError: It is not there, which the card's writer rules out.
        """
        with translated_errors():
            text = await cast(Any, self._client.get(keys.tokenizer(sha256)))
        if text is None:
            raise KeyError(sha256)
        return str(text)


def _count_lines(pipe: Any, models: Sequence[str]) -> None:
    """Ask for the jobs in line of each model and class."""
    for model in models:
        for job_class in JOB_CLASSES:
            pipe.zcard(keys.ready(model, job_class))


def _lines(models: Sequence[str], counts: Sequence[int]) -> dict[str, dict[JobClass, int]]:
    """The answers to `_count_lines`."""
    left = iter(counts)
    return {model: {c: int(next(left)) for c in JOB_CLASSES} for model in models}


def _without_errors(answers: list[Any]) -> list[Any]:
    """The answers of a pipeline; raises the first that is an error."""
    for answer in answers:
        if isinstance(answer, Exception):
            raise answer
    return answers


def tokenizer_sha256(tokenizer_json: str) -> str:
    """The address of a tokenizer file: the hash of its content."""
    return hashlib.sha256(tokenizer_json.encode()).hexdigest()
