"""An engine that is stepped by hand, and what became of its requests."""

from __future__ import annotations

from dataclasses import dataclass, field

from worker.engine.engine import Engine
from worker.engine.sequence import FinishReason, Output, Request, Timings


@dataclass
class Answer:
    """All outputs of one sequence, put together as a caller would."""

    outputs: list[Output] = field(default_factory=list)

    @property
    def ids(self) -> list[int]:
        return [token_id for output in self.outputs for token_id in output.token_ids]

    @property
    def texts(self) -> list[str]:
        return [text for output in self.outputs for text in output.texts]

    @property
    def tail(self) -> str:
        return "".join(output.tail for output in self.outputs)

    @property
    def text(self) -> str:
        return "".join(self.texts) + self.tail

    @property
    def last(self) -> Output:
        return self.outputs[-1]

    @property
    def reason(self) -> FinishReason | None:
        return self.last.finish_reason

    @property
    def timings(self) -> Timings:
        assert self.last.timings is not None
        return self.last.timings


class Drive:
    """Step an engine and sort its outputs by request and choice."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.answers: dict[tuple[str, int], Answer] = {}

    def __getitem__(self, request_id: str) -> Answer:
        return self.answers[request_id, 0]

    def add(self, *requests: Request) -> Drive:
        for request in requests:
            self.engine.add(request)
        return self

    def step(self, times: int = 1) -> list[Output]:
        outputs: list[Output] = []
        for _ in range(times):
            outputs = self.engine.step()
            self.engine.check_integrity()
            for output in outputs:
                name = (output.request_id, output.choice)
                answer = self.answers.setdefault(name, Answer())
                assert not answer.outputs or answer.reason is None, "an output after the last"
                answer.outputs.append(output)
        return outputs

    def finish(self) -> Drive:
        while self.engine.has_work:
            self.step()
        return self
