"""The records that gateway and worker exchange through Redis, and how they are packed.

Knows nothing about HTTP and nothing about Redis commands: a record is a flat mapping of strings.

Fields of a job record, in the order in which they appear in a job's life:
    submit   status key model class params prompt_ids | prompt | inputs, stream_token request_id
             user_id metadata tag created_ms attempts=0 crashes=0 eid=0 prompt_tokens (where known)
             n (where it is to have several choices), reply (a route's own, never read here)
             scoring (of a scoring job, whose inputs are prompts), routing (where a router has
             picked the model)
             idem (the rest of the idempotency key's name, where one came)
    claim    nonce worker attempts+1 started_ms (first claim only) revision (while nothing is
             committed: of the model that generates)
    append   pos:<choice> (tokens committed of it) eid used_ms first_token_ms; past `suspect`,
             that goes and crashes=0
    cancel   cancel=when it was first asked for, while it runs
    requeue  requeued_ms; nonce goes
    crash    crashes+1 suspect: the tokens, of all choices together, that it has to pass, for its
             worker died while it ran
    restart  pos:<choice> goes: what was committed is void; epoch: how often the worker that holds
             the job has done so, so that its own late appends are known
    end      ended_ms result finish (the first choice's reason) timings error_type error_message
             error_param prompt_tokens prompt_logprobs (where asked for) embeddings (of an
             embedding job; of a scoring job a vector for each prompt, the scores of the models
             that it names) completion_tokens counted_by (both of a job that another server ran);
             nonce and cancel go
Times are Redis's own clock, in milliseconds since the epoch.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Literal, Self

from common.embeddings import Embeddings, Input, count_tokens, pack_inputs, unpack_inputs
from common.known_fields import of_known
from common.sampling import SamplingSpec
from common.scorers import Routing, ScoringTask
from common.token_logprobs import TokenLogprobs

Message = dict[str, Any]
"""One chat message: `role`, `content`, and what `common.chat_messages` leaves beside them."""


class JobStatus(StrEnum):
    """Where a job is. The last four are final."""

    QUEUED = "queued"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"

    @property
    def is_final(self) -> bool:
        """Whether the job has ended."""
        return self not in (JobStatus.QUEUED, JobStatus.PROCESSING)


JobClass = Literal["high", "normal", "low"]
JOB_CLASSES: tuple[JobClass, ...] = ("high", "normal", "low")


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a client sent to be continued: a text, chat messages or token ids.

    Attributes:
        text: The text, where no messages were sent.
        messages: The chat messages, where no text was sent.
        raw: The text goes to the model as it is, without its chat template.
        token_ids: The prompt as tokens, in place of either; the model reads them as they are.
        tools: Functions that the model may call, in OpenAI's form.
        template_kwargs: More variables for the chat template.
    """

    text: str | None = None
    messages: tuple[Message, ...] | None = None
    raw: bool = False
    token_ids: tuple[int, ...] | None = None
    tools: tuple[dict[str, Any], ...] | None = None
    template_kwargs: dict[str, Any] | None = None

    def pack(self) -> str:
        """JSON; the last three fields are in it only where they are set."""
        values = asdict(self)
        for name in ("token_ids", "tools", "template_kwargs"):
            if values[name] is None:
                del values[name]
        return dump(values)

    @classmethod
    def unpack(cls, packed: str) -> Self:
        """The inverse of `pack`."""
        values = json.loads(packed)
        for name in ("messages", "token_ids", "tools"):
            if values.get(name) is not None:
                values[name] = tuple(values[name])
        return cls(**values)


@dataclass(frozen=True, slots=True)
class JobSpec:
    """A job as the gateway submits it.

    Attributes:
        prompt_ids: The prompt's token ids; None where no worker has announced the model yet, and
            then the worker that claims the job encodes `prompt` by the same function.
        prompt: The prompt as it came; kept only where `prompt_ids` is None.
        stream_token: Opens this job's stream, and nothing else, without a key.
        reply: What the route keeps for its answers, packed by itself.
        inputs: What an embedding job embeds, in place of a prompt: token ids, or texts where no
            worker has announced the model yet. None: the job generates.
        scoring: What a scorer does with the inputs' embeddings; the inputs are prompts, as texts.
        routing: Why it is this model, where a router has picked it; never read here.
    """

    job_id: str
    key_id: str
    model: str
    job_class: JobClass
    sampling: SamplingSpec
    stream_token: str
    request_id: str
    prompt_ids: tuple[int, ...] | None = None
    prompt: Prompt | None = None
    user_id: str | None = None
    metadata: dict[str, str] | None = None
    reply: str | None = None
    inputs: tuple[Input, ...] | None = None
    scoring: ScoringTask | None = None
    routing: Routing | None = None

    def to_fields(self) -> dict[str, str]:
        """The record's fields, without those that the submit script adds."""
        record = {
            "key": self.key_id,
            "model": self.model,
            "class": self.job_class,
            "params": self.sampling.pack(),
            "stream_token": self.stream_token,
            "request_id": self.request_id,
        }
        if self.sampling.n > 1:
            record["n"] = str(self.sampling.n)
        if self.prompt_ids is not None:
            record["prompt_ids"] = dump(self.prompt_ids)
            record["prompt_tokens"] = str(len(self.prompt_ids))
        if self.prompt is not None:
            record["prompt"] = self.prompt.pack()
        if self.inputs is not None:
            record["inputs"] = pack_inputs(self.inputs)
            if (num_tokens := count_tokens(self.inputs)) is not None:
                record["prompt_tokens"] = str(num_tokens)
        if self.scoring is not None:
            record["scoring"] = self.scoring.pack()
        if self.routing is not None:
            record["routing"] = self.routing.pack()
        metadata = None if self.metadata is None else dump(self.metadata)
        texts = {"user_id": self.user_id, "metadata": metadata, "reply": self.reply}
        return record | {name: text for name, text in texts.items() if text is not None}


def member_ids(group_id: str, count: int) -> list[str]:
    """The ids of a group's jobs, in order; one job alone has the group's own id."""
    return [group_id] if count == 1 else [f"{group_id}-{index}" for index in range(count)]


def group_of(job_id: str) -> str:
    """The id of the group that a member's id names."""
    return job_id.rpartition("-")[0]


@dataclass(frozen=True, slots=True)
class ChoiceResult:
    """One generated text, with its token ids.

    Attributes:
        logprobs: One for each id where they were asked for, else none.
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: str
    logprobs: tuple[TokenLogprobs, ...] = ()

    def pack(self) -> dict[str, Any]:
        """As a part of the record's result."""
        packed = {
            "text": self.text,
            "token_ids": self.token_ids,
            "finish_reason": self.finish_reason,
        }
        return packed | packed_logprobs("logprobs", self.logprobs)


@dataclass(frozen=True, slots=True)
class EngineTimings:
    """What the engine measured of one job, in seconds."""

    prefill_s: float = 0.0
    decode_s: float = 0.0
    batch_size: int = 0
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class TokenUsage:
    """Tokens as another server counts them."""

    prompt_tokens: int
    completion_tokens: int


CountedBy = Literal["upstream", "pieces"]
"""Who counted the tokens of a job that another server ran: that server, or we, each piece of text
that it sent as one."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a job ended, as the worker that ran it reports.

    Attributes:
        status: A final status.
        choices: What was generated, complete: every committed token and the text held back.
        tails: For each choice, text that belongs to no event yet; it rides in the last one.
        prompt_logprobs: One for each token of the prompt, None for the first, where they were asked
            for, else none.
        embeddings: Of an embedding job that is completed.
        completion_tokens: Of all choices together, where that is not the number of their ids.
        counted_by: None where the engine that generated them is ours.
        error_param: The field of the request at fault, as errors call it before a route renames it.
    """

    status: JobStatus
    choices: tuple[ChoiceResult, ...] = ()
    tails: tuple[str, ...] = ()
    prompt_tokens: int = 0
    timings: EngineTimings = field(default_factory=EngineTimings)
    error_type: str | None = None
    error_message: str | None = None
    prompt_logprobs: tuple[TokenLogprobs | None, ...] = ()
    embeddings: Embeddings | None = None
    completion_tokens: int | None = None
    counted_by: CountedBy | None = None
    error_param: str | None = None

    def pack_tails(self) -> str:
        """JSON list."""
        return dump(self.tails)

    def to_fields(self) -> dict[str, str]:
        """The fields that the end adds to the record."""
        record = {
            "prompt_tokens": str(self.prompt_tokens),
            "timings": dump(asdict(self.timings)),
        }
        if self.choices:
            record["result"] = dump([choice.pack() for choice in self.choices])
            record["finish"] = self.choices[0].finish_reason
        if self.prompt_logprobs:
            listed = [None if each is None else each.pack() for each in self.prompt_logprobs]
            record["prompt_logprobs"] = dump(listed)
        if self.embeddings is not None:
            record["embeddings"] = self.embeddings.pack()
        if self.completion_tokens is not None:
            record["completion_tokens"] = str(self.completion_tokens)
        if self.counted_by is not None:
            record["counted_by"] = self.counted_by
        if self.error_type is not None:
            record["error_type"] = self.error_type
            record["error_message"] = self.error_message or ""
        if self.error_param is not None:
            record["error_param"] = self.error_param
        return record


@dataclass(frozen=True, slots=True)
class JobRecord:
    """A job as it stands in Redis; times in milliseconds of Redis's clock, None where not yet.

    Attributes:
        completion_tokens: Committed, of all choices together; after the end as in `Outcome`.
        prompt_logprobs, embeddings, error_param, counted_by: As in `Outcome`; none before the end.
        inputs, scoring, routing: As in `JobSpec`.
        epoch: How often a worker has voided what it had itself committed.
    """

    job_id: str
    status: JobStatus
    key_id: str
    model: str
    job_class: JobClass
    sampling: SamplingSpec
    stream_token: str
    request_id: str
    created_ms: int
    attempts: int
    last_eid: int
    completion_tokens: int
    used_ms: int
    prompt_tokens: int | None = None
    prompt_ids: tuple[int, ...] | None = None
    prompt: Prompt | None = None
    user_id: str | None = None
    metadata: dict[str, str] | None = None
    started_ms: int | None = None
    first_token_ms: int | None = None
    ended_ms: int | None = None
    choices: tuple[ChoiceResult, ...] = ()
    timings: EngineTimings | None = None
    error_type: str | None = None
    error_message: str | None = None
    cancel_requested: bool = False
    prompt_logprobs: tuple[TokenLogprobs | None, ...] = ()
    reply: str | None = None
    inputs: tuple[Input, ...] | None = None
    embeddings: Embeddings | None = None
    error_param: str | None = None
    scoring: ScoringTask | None = None
    routing: Routing | None = None
    counted_by: CountedBy | None = None
    epoch: int = 0

    @classmethod
    def from_fields(cls, job_id: str, record: dict[str, str]) -> Self:
        """Read a record's fields, as HGETALL returns them."""
        return cls(
            job_id=job_id,
            status=JobStatus(record["status"]),
            key_id=record["key"],
            model=record["model"],
            job_class=record["class"],  # type: ignore[arg-type]  # written from a JobClass
            sampling=SamplingSpec.unpack(record["params"]),
            stream_token=record["stream_token"],
            request_id=record["request_id"],
            created_ms=int(record["created_ms"]),
            attempts=int(record["attempts"]),
            last_eid=int(record["eid"]),
            completion_tokens=_completion_tokens(record),
            used_ms=int(record.get("used_ms", 0)),
            prompt_tokens=_int(record.get("prompt_tokens")),
            prompt_ids=_ids(record.get("prompt_ids")),
            prompt=Prompt.unpack(record["prompt"]) if "prompt" in record else None,
            user_id=record.get("user_id"),
            metadata=json.loads(record["metadata"]) if "metadata" in record else None,
            started_ms=_int(record.get("started_ms")),
            first_token_ms=_int(record.get("first_token_ms")),
            ended_ms=_int(record.get("ended_ms")),
            choices=_choices(record.get("result")),
            timings=_timings(record.get("timings")),
            error_type=record.get("error_type"),
            error_message=record.get("error_message"),
            cancel_requested="cancel" in record,
            prompt_logprobs=_prompt_logprobs(record.get("prompt_logprobs")),
            reply=record.get("reply"),
            inputs=unpack_inputs(record["inputs"]) if "inputs" in record else None,
            embeddings=Embeddings.unpack(record["embeddings"]) if "embeddings" in record else None,
            error_param=record.get("error_param"),
            scoring=ScoringTask.unpack(record["scoring"]) if "scoring" in record else None,
            routing=Routing.unpack(record["routing"]) if "routing" in record else None,
            counted_by=record.get("counted_by"),  # type: ignore[arg-type]  # from an Outcome
            epoch=int(record.get("epoch", 0)),
        )


def dump(value: Any) -> str:
    """Short JSON."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def _completion_tokens(record: dict[str, str]) -> int:
    if "completion_tokens" in record:
        return int(record["completion_tokens"])
    return sum(int(v) for k, v in record.items() if k.startswith("pos:"))


def _int(value: str | None) -> int | None:
    return None if value is None else int(value)


def _timings(packed: str | None) -> EngineTimings | None:
    return None if packed is None else of_known(EngineTimings, json.loads(packed))


def _ids(packed: str | None) -> tuple[int, ...] | None:
    return None if packed is None else tuple(json.loads(packed))


def _choices(packed: str | None) -> tuple[ChoiceResult, ...]:
    if packed is None:
        return ()
    return tuple(
        ChoiceResult(
            choice["text"],
            tuple(choice["token_ids"]),
            choice["finish_reason"],
            tuple(TokenLogprobs.unpack(each) for each in choice.get("logprobs", ())),
        )
        for choice in json.loads(packed)
    )


def _prompt_logprobs(packed: str | None) -> tuple[TokenLogprobs | None, ...]:
    listed = () if packed is None else json.loads(packed)
    return tuple(None if each is None else TokenLogprobs.unpack(each) for each in listed)


def packed_logprobs(name: str, logprobs: tuple[TokenLogprobs, ...]) -> dict[str, Any]:
    """A field with this name, where there are any."""
    return {name: [each.pack() for each in logprobs]} if logprobs else {}
