"""The backend of models that other servers run; `worker.backends.base.Backend` is the contract.

One asyncio loop on the engine's thread: a task for each choice of each job, which holds one request
open (`upstream_choice`), and one that looks after the servers (`upstream_pool`). Which kind of
server it is, the wire knows.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import threading
from collections import deque
from collections.abc import Callable
from functools import partial

import httpx

from common import __version__
from common.errors import ModelLoadError
from common.model_card import ModelCard
from common.model_catalog import CatalogEntry
from common.settings import Settings
from common.vitals import EngineStats
from worker.backends.base import BackendJob, Deliver, Delta
from worker.backends.upstream_choice import Asking, UpstreamChoice
from worker.backends.upstream_pool import UpstreamPool
from worker.backends.wire import Served, UpstreamFailure, Wire

CONNECT_S = 5.0
WRITE_S = 30.0
PROBE_TIMEOUT_S = 5.0

log = logging.getLogger(__name__)


class UpstreamBackend:
    """One model, on any number of servers.

    Args:
        entry: `source` is what they call the model.
        settings: For the time limits.
        wire: How they are asked.
        key: For the `Authorization` header; None: there is none.
    """

    def __init__(
        self, entry: CatalogEntry, settings: Settings, wire: Wire, key: str | None = None
    ) -> None:
        self._entry = entry
        self._settings = settings
        self._wire = wire
        self._headers = {"user-agent": f"baton/{__version__}"}
        if key is not None:
            self._headers["authorization"] = f"Bearer {key}"
        self._pool = UpstreamPool(entry.base_urls, entry.source)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._inbox: deque[Callable[[], None]] = deque()
        self._choices: dict[tuple[str, int], tuple[asyncio.Task[None], UpstreamChoice]] = {}
        self._deliver: Deliver | None = None
        self._asking: Asking | None = None
        self._woken: asyncio.Event | None = None
        self._told: ModelCard | None = None
        self._num_pieces = 0

    def load(self, say: Callable[[str], None]) -> tuple[ModelCard, None]:
        """Look at the servers; where all are away, they are awaited while others load.

        Raises:
            ModelLoadError: They are there, and none has the model.
        """
        # httpx tells each request at INFO, with its address.
        logging.getLogger("httpx").setLevel(logging.WARNING)
        asyncio.run(self._look())
        if self._pool.lacks_model:
            raise ModelLoadError(f"Model loading failed: {self._pool.away}")
        card = self._card()
        if self._pool.away is None:
            self._told = card
        say(f"Model {self._entry.model} is run by {len(self._pool.upstreams)} other server(s)")
        return card, None

    def run(self, deliver: Deliver, stop: threading.Event) -> None:
        """Ask and listen; see the contract."""
        self._deliver = deliver
        asyncio.run(self._serve(stop))

    def text_of_committed(self, job: BackendJob) -> str | None:
        """As it was: whether a server says the same again shows when it is asked."""
        return "".join(job.committed_texts)

    def submit(self, job: BackendJob) -> None:
        """Take a choice of a job; see the contract."""
        self._post(partial(self._begin, job))

    def abort(self, run_id: str) -> None:
        """Close the requests of a run; see the contract."""
        self._post(partial(self._cancel, run_id))

    def wake(self) -> None:
        """Make `run` look at its stop event; see the contract."""
        self._post(lambda: None)

    def close(self) -> None:
        """Nothing is kept here; see the contract."""

    @property
    def away(self) -> str | None:
        """Why no server can be asked; see the contract."""
        return self._pool.away

    @property
    def is_lost(self) -> bool:
        """Whether the servers have the model no more; see the contract."""
        return self._pool.lacks_model

    def new_card(self) -> ModelCard | None:
        """The card, where the servers tell something else than before; see the contract."""
        if self._pool.away is not None:
            return None
        card = self._card()
        if card == self._told:
            return None
        self._told = card
        return card

    @property
    def step_s(self) -> float:
        """There are no steps that could hang: silence is a request's own."""
        return 0.0

    @property
    def device(self) -> str:
        """Nothing runs here."""
        return "cpu"

    def gpu_memory(self) -> dict[str, int] | None:
        """None is used here."""
        return None

    def stats(self) -> EngineStats | None:
        """Requests count as sequences; pieces as tokens, and as steps."""
        return EngineStats(len(self._choices), 0, self._num_pieces, self._num_pieces, 0)

    def _card(self) -> ModelCard:
        """What all servers have in common, as far as they have told."""
        entry, wire = self._entry, self._wire
        told = [each.served for each in self._pool.upstreams if each.served is not None]
        lengths = [served.context_length(entry.source) for served in told]
        known = [length for length in lengths if length is not None]
        honoured = [wire.parameters(served.dialect) for served in told or [Served()]]
        return ModelCard(
            model=entry.model,
            revision=hashlib.sha256(f"{entry.backend} {entry.source}".encode()).hexdigest()[:16],
            architecture="unknown",
            format=entry.format or "unknown",
            context_length=min(known, default=None),
            vocab_size=0,
            dtype="unknown",
            tokenizer_sha256=None,
            chat_template=None,
            special_tokens={},
            parameters=tuple(sorted(frozenset.intersection(*honoured))),
        )

    async def _look(self) -> None:
        async with self._client() as client:
            await self._pool.look(partial(self._probe, client))

    async def _probe(self, client: httpx.AsyncClient, base_url: str) -> Served:
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                return await self._wire.probe(client, base_url, self._entry.source)
        except TimeoutError:
            raise UpstreamFailure("it did not answer in time", is_away=True) from None

    def _client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            headers=self._headers,
            # How long an answer may take is each job's own.
            timeout=httpx.Timeout(None, connect=CONNECT_S, write=WRITE_S),
            # As many as there are jobs; who waits for a connection would run out of time.
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=64),
        )

    async def _serve(self, stop: threading.Event) -> None:
        self._woken = asyncio.Event()
        async with self._client() as client:
            self._asking = Asking(
                model=self._entry.model,
                name=self._entry.source,
                wire=self._wire,
                pool=self._pool,
                client=client,
                retry_s=self._settings.upstream_retry_s,
                stall_s=self._settings.engine_stall_s,
            )
            watch = asyncio.create_task(self._pool.watch(partial(self._probe, client)))
            watch.add_done_callback(lambda _: self._wake_up())
            self._loop = asyncio.get_running_loop()
            self._obey()  # what came before there was a loop
            try:
                while not stop.is_set() and not watch.done():
                    await self._woken.wait()
                    self._woken.clear()
            finally:
                self._loop = None
                await _end_all(watch, *(task for task, _ in self._choices.values()))
        if not watch.cancelled():
            watch.result()  # it ends by a bug alone, and then so does the worker

    def _post(self, command: Callable[[], None]) -> None:
        """Have something done on the loop, now or when it runs. Thread-safe."""
        self._inbox.append(command)
        loop = self._loop
        if loop is None:
            return
        try:
            loop.call_soon_threadsafe(self._obey)
        except RuntimeError:  # it has just been closed: nothing is left to be done
            return

    def _obey(self) -> None:
        while self._inbox:
            self._inbox.popleft()()
        self._wake_up()

    def _wake_up(self) -> None:
        assert self._woken is not None
        self._woken.set()

    def _begin(self, job: BackendJob) -> None:
        assert self._asking is not None
        choice = UpstreamChoice(job, self._asking, self._put)
        task = asyncio.create_task(choice.run())
        self._choices[job.run_id, job.choice] = task, choice
        task.add_done_callback(lambda _: self._forget(job))

    def _forget(self, job: BackendJob) -> None:
        self._choices.pop((job.run_id, job.choice), None)

    def _cancel(self, run_id: str) -> None:
        for (owner, _), (task, choice) in list(self._choices.items()):
            if owner == run_id and not choice.is_cancelled:
                choice.is_cancelled = True
                task.cancel()
                task.add_done_callback(partial(_note_end, choice))

    def _put(self, delta: Delta) -> None:
        assert self._deliver is not None
        self._num_pieces += len(delta.texts)
        self._deliver([delta])


def _note_end(choice: UpstreamChoice, task: asyncio.Task[None]) -> None:
    if task.cancelled():  # else it had just come to its end
        choice.put_cancelled()


async def _end_all(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
