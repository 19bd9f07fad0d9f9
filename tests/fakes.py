"""Fakes whose answers a person can compute by hand."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from common.fleet import tokenizer_sha256
from common.model_card import ModelCard
from common.schemas import JobStatus
from common.token_logprobs import TokenLogprobs
from common.vitals import EngineStats
from worker.backends.base import BackendEnd, BackendJob, Deliver, Delta

CHAT_TEMPLATE = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}[assistant]"


def byte_tokenizer(begin: str | None = None) -> str:
    """The tokenizer.json of a tokenizer with one token for each byte.

    Args:
        begin: A special token, number 256, that it puts before a text.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if begin is not None:
        tokenizer.add_special_tokens([begin])
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{begin} $A", special_tokens=[(begin, 256)]
        )
    return tokenizer.to_str()


def fake_card(
    model: str = "m", *, context_length: int = 100, chat_template: str | None = CHAT_TEMPLATE
) -> ModelCard:
    """A card for `byte_tokenizer`."""
    return ModelCard(
        model=model,
        revision="r1",
        architecture="Fake",
        format="safetensors",
        context_length=context_length,
        vocab_size=256,
        dtype="float32",
        tokenizer_sha256=tokenizer_sha256(byte_tokenizer()),
        chat_template=chat_template,
        special_tokens={},
    )


class FakeBackend:
    """Generates the tokens 0, 1, 2, ... with the texts `0 `, `1 `, `2 `, ... up to `max_tokens`.

    Of choice 1 they are 100, 101, ..., of choice 2 200, 201, ... The test decides the pace:
    `step()` lets everything that runs have one more token. An abort takes effect at once.
    """

    def __init__(self, model: str = "m", chat_template: str | None = CHAT_TEMPLATE) -> None:
        self._model = model
        self._chat_template = chat_template
        self.is_closed = False
        self.submitted: queue.Queue[BackendJob] = queue.Queue()
        self.aborted: queue.Queue[str] = queue.Queue()
        self.step_s = 0.0
        self.device = "cpu"
        self.away: str | None = None
        self.is_lost = False
        self._jobs: dict[tuple[str, int], tuple[BackendJob, int]] = {}
        self._commands: queue.Queue[Callable[[], list[Delta]]] = queue.Queue()

    def load(self, say: Callable[[str], None]) -> tuple[ModelCard, str]:
        return fake_card(self._model, chat_template=self._chat_template), byte_tokenizer()

    def run(self, deliver: Deliver, stop: threading.Event) -> None:
        while not stop.is_set():
            deliver(self._commands.get()())

    def text_of_committed(self, job: BackendJob) -> str:
        return "".join(f"{token} " for token in job.committed_ids)

    def submit(self, job: BackendJob) -> None:
        position = len(job.committed_ids)
        if position == job.sampling.max_tokens:
            self._commands.put(lambda: [_ended(job, position, _COMPLETED)])
        else:
            self._jobs[job.run_id, job.choice] = (job, position)
        self.submitted.put(job)

    def abort(self, run_id: str) -> None:
        self.aborted.put(run_id)
        self._commands.put(lambda: self._end_all(run_id, _CANCELLED))

    def wake(self) -> None:
        self._commands.put(list)

    def close(self) -> None:
        self.is_closed = True

    def new_card(self) -> ModelCard | None:
        return None

    def gpu_memory(self) -> dict[str, int] | None:
        return None

    def stats(self) -> EngineStats | None:
        return EngineStats(len(self._jobs), 0, 0, 0, 0)

    def step(self, tokens: int = 1, choice: int | None = None) -> None:
        """Give all that runs, or one choice of each job, the next tokens, one delta each."""
        for _ in range(tokens):
            self._commands.put(
                lambda: [self._next(name) for name in list(self._jobs) if choice in (None, name[1])]
            )

    def end(self, choice: int, end: BackendEnd) -> None:
        """End one choice of each job, without another token."""
        self._commands.put(
            lambda: [self._end(name, end) for name in list(self._jobs) if name[1] == choice]
        )

    def _next(self, name: tuple[str, int]) -> Delta:
        job, position = self._jobs.pop(name)
        is_last = position + 1 == job.sampling.max_tokens
        if not is_last:
            self._jobs[name] = (job, position + 1)
        token_id = 100 * job.choice + position
        return Delta(
            job.run_id,
            position,
            (token_id,),
            (f"{token_id} ",),
            0.5,
            _COMPLETED if is_last else None,
            _logprobs(position, job.sampling.logprobs),
            job.choice,
            _prompt_logprobs(job),
        )

    def _end_all(self, run_id: str, end: BackendEnd) -> list[Delta]:
        return [self._end(name, end) for name in list(self._jobs) if name[0] == run_id]

    def _end(self, name: tuple[str, int], end: BackendEnd) -> Delta:
        job, position = self._jobs.pop(name)
        return _ended(job, position, end)


_COMPLETED = BackendEnd(JobStatus.COMPLETED, "length", tail="end")
_CANCELLED = BackendEnd(JobStatus.CANCELLED, "cancelled")


def _ended(job: BackendJob, position: int, end: BackendEnd) -> Delta:
    prompt_logprobs = _prompt_logprobs(job)
    return Delta(job.run_id, position, (), (), 0.5, end, (), job.choice, prompt_logprobs)


def _prompt_logprobs(job: BackendJob) -> tuple[TokenLogprobs, ...]:
    """As those of generated tokens, of the prompt's tokens 1, 2, 3, ..."""
    if job.choice or job.sampling.prompt_logprobs is None:
        return ()
    positions = range(1, len(job.prompt_ids))
    return tuple(each for i in positions for each in _logprobs(i, job.sampling.prompt_logprobs))


def _logprobs(position: int, num_top: int | None) -> tuple[TokenLogprobs, ...]:
    """Of token 3 -0.375; the likeliest ones are 3, 4, 5, ..., each half a nat less likely."""
    if num_top is None:
        return ()
    top = tuple((position + i, -position / 8 - i / 2) for i in range(num_top))
    return (TokenLogprobs(-position / 8, top),)
