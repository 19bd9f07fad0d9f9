"""The events of a response's stream, each with its number.

A number is the event's place among all that this module makes of the job's own events, from the
first one on. These are committed in Redis one by one and never change, and nothing else is looked
at: so an event has the same number for every reader, at any gateway, however often it reconnects
and whichever workers ran the job. For the same reason events are never merged here.

    created, (queued,) in_progress                      of every response; `queued` in background
    output_item.added, content_part.added               with the first text of an item
    output_text.delta, function_call_arguments.delta    for each job event that brings some
    output_text.done, content_part.done, function_call_arguments.done, output_item.done
    error                                               where the job began again from nothing
    completed, incomplete, failed                       the last one
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from api.openai.responses.output import Event, Output
from api.openai.responses.reply import Reply
from api.openai.responses.view import Reading, bare_body, ended_body, is_answer, item_status
from api.openai.shown_tokens import ShownTokens
from common.errors import RestartedError
from common.events import TokenEvent
from common.schemas import JobRecord

RESTARTED = (
    "The answer had to begin again from nothing: what came before this event is void. Go on after "
    "it for the new answer."
)
# Streams have no event of their own for a cancelled response; its `status` says it.
_LAST = {
    "completed": "response.completed",
    "incomplete": "response.incomplete",
    "cancelled": "response.incomplete",
    "failed": "response.failed",
}


class ResponseEvents:
    """Numbers the events of one response; its methods are called in the order of the job's events.

    Args:
        record: The job's; only what never changes of it is read.

    Attributes:
        num_events: Those so far, and so the number of the next one.
        num_opening: Those that come before the first item.
        text: All that was read since the answer began, perhaps again.
        num_tokens: Of the same.
    """

    def __init__(self, record: JobRecord, reply: Reply) -> None:
        self.num_events = 0
        self.num_opening = 3 if reply.is_background else 2
        self.text = ""
        self.num_tokens = 0
        self._record = record
        self._reply = reply
        self._has_started = False
        self._reading = Reading(None, None)
        self._shown = ShownTokens(record.sampling, None)
        self._output: Output | None = None

    @property
    def is_reading(self) -> bool:
        """Whether it is known how tokens are read."""
        return self._output is not None

    def read_as(self, reading: Reading) -> None:
        """Say how tokens are read; before the first ones come, and before the end."""
        self._reading = reading
        self._shown = ShownTokens(self._record.sampling, reading.texts)
        self._output = Output(self._record.job_id, reading.family)

    def created(self) -> list[Event]:
        """The first events."""
        if not self._reply.is_background:
            return self._numbered([self._stage("created", "in_progress")])
        return self._numbered([self._stage("created", "queued"), self._stage("queued", "queued")])

    def started(self) -> list[Event]:
        """The job runs; whatever comes after, this comes once."""
        if self._has_started:
            return []
        self._has_started = True
        return self._numbered([self._stage("in_progress", "in_progress")])

    def token(self, event: TokenEvent) -> list[Event]:
        """Tokens were committed."""
        assert self._output is not None
        text = "".join(event.texts)
        self.text += text
        self.num_tokens += len(event.token_ids)
        tokens = self._shown.take(text, event.token_ids, event.logprobs)
        return self._numbered(self._output.feed(text, self._reading.logprobs(*tokens)))

    def restarted(self) -> list[Event]:
        """The job begins again from nothing."""
        self.text, self.num_tokens = "", 0
        self._shown = ShownTokens(self._record.sampling, self._reading.texts)
        if self._output is not None:
            self._output = Output(self._record.job_id, self._reading.family)
        code = RestartedError.code
        return self._numbered(
            [{"type": "error", "code": code, "message": RESTARTED, "param": None}]
        )

    def ended(self, record: JobRecord, tail: str) -> list[Event]:
        """The job has ended, with a last piece of text."""
        assert self._output is not None
        output = self._output
        events = output.feed(tail, self._last_logprobs(record, tail))
        events += output.close(item_status(record), is_answer=is_answer(record))
        body = ended_body(record, self._reply, output.items)
        return self._numbered([*events, {"type": _LAST[body["status"]], "response": body}])

    def _last_logprobs(self, record: JobRecord, tail: str) -> list[dict[str, Any]]:
        """Those of tokens that no event has brought, or that had to wait for the end."""
        at = self.num_tokens
        for choice in record.choices[:1]:
            ids, logprobs = choice.token_ids[at:], choice.logprobs[at:]
            return self._reading.logprobs(*self._shown.take(tail, ids, logprobs, is_last=True))
        return []

    def _stage(self, name: str, status: str) -> Event:
        return {
            "type": f"response.{name}",
            "response": bare_body(self._record, self._reply, status),
        }

    def _numbered(self, events: Sequence[Event]) -> list[Event]:
        first = self.num_events
        self.num_events += len(events)
        return [{**event, "sequence_number": first + i} for i, event in enumerate(events)]
