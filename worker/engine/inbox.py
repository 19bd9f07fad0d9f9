"""What other threads hand to the engine's."""

from collections.abc import Sized
from dataclasses import dataclass

from worker.engine.errors import RequestError
from worker.engine.sequence import FinishReason, Output, Request, Timings

NOT_TAKEN_IN = RequestError("engine_error", "the engine could not take the request in")


@dataclass(frozen=True, slots=True)
class Arrival:
    """A new request, and the clock when it came, in seconds."""

    request: Request
    arrived_s: float

    def refuse(self, error: RequestError, now: float) -> Output:
        """Return the only output of a request that never becomes a sequence."""
        request, waited_s = self.request, now - self.arrived_s
        # What is refused may be of any type.
        committed_ids: object = request.committed_ids
        return Output(
            request_id=request.request_id,
            choice=request.choice,
            position=len(committed_ids) if isinstance(committed_ids, Sized) else 0,
            token_ids=(),
            texts=(),
            finish_reason=FinishReason.ERROR,
            error_code=error.code,
            error=str(error),
            timings=Timings(waited_s, 0.0, 0.0, request.used_s, None, 0),
            used_s=request.used_s,
        )


@dataclass(frozen=True, slots=True)
class Abort:
    """All choices of a request are to end."""

    request_id: str
    reason: FinishReason
