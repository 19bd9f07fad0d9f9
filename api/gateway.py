"""What the routes work with: made from the settings, opened and closed with the app."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from api.attendance import Attendance
from api.auth import KeyRing
from api.background import end
from api.batches.answers import LineAnswers
from api.batches.driver import Tools
from api.batches.runner import BatchRunner
from api.cancelling import Canceller
from api.durability_watch import DurabilityWatch
from api.files import Files
from api.fleet_poller import FleetPoller
from api.grammar_checker import GrammarChecker
from api.http_metrics import HttpMetrics
from api.job_specs import SpecMaker
from api.limits import Limits
from api.object_store import ObjectStore
from api.openai.call_maker import CallMaker
from api.reaper import Reaper
from api.routing import Router
from api.scorers import Scorers
from api.submission import Submitter
from api.tokenizers import Tokenizers
from api.watcher import Watcher
from common.batch_store import Batches
from common.connection import AsyncRedis, connect_async
from common.errors import SettingsError
from common.file_records import FileRecords
from common.fleet import FleetReader
from common.forgetting import Forgetting
from common.job_store import Submissions
from common.model_catalog import ModelCatalog
from common.reaping import AsyncReaping
from common.request_log import request_logger
from common.settings import Settings
from common.waited import WaitedJobs

FIRST_POLL_S = 1.0


@dataclass(frozen=True)
class Gateway:
    """One gateway process; knows nothing of routes."""

    settings: Settings
    redis: AsyncRedis
    catalog: ModelCatalog
    keys: KeyRing
    limits: Limits
    jobs: Submissions
    watcher: Watcher
    poller: FleetPoller
    reaper: Reaper
    durability: DurabilityWatch
    canceller: Canceller
    attendance: Attendance
    forgetting: Forgetting
    tokenizers: Tokenizers
    submitter: Submitter
    calls: CallMaker
    files: Files
    batches: Batches
    batch_runner: BatchRunner
    grammars: GrammarChecker
    http_metrics: HttpMetrics
    started_s: float = field(default_factory=time.monotonic)
    started_at: int = field(default_factory=lambda: int(time.time()))

    @classmethod
    def build(cls, settings: Settings) -> Gateway:
        """Put the parts together; nothing is connected yet.

        Raises:
            SettingsError: There is no REDIS_URL.
        """
        if settings.redis_url is None:
            raise SettingsError(
                "REDIS_URL is not set: the gateway needs the Redis that its workers use. "
                "Example: REDIS_URL=redis://:password@127.0.0.1:6379/0"
            )
        redis = connect_async(settings.redis_url)
        fleet, catalog = FleetReader(redis), ModelCatalog(settings)
        jobs = Submissions(redis, settings)
        poller = FleetPoller(fleet, catalog.models, settings.upstream_retry_s, catalog.note_found)
        grammars = GrammarChecker()
        on_end = request_logger(log_prompts=settings.log_prompts)
        canceller, tokenizers = Canceller(jobs, on_end), Tokenizers(fleet, settings.wait_limit_s)
        watcher, forgetting = Watcher(redis), Forgetting(redis)
        scorers = Scorers(poller, fleet, catalog)
        router = Router(catalog, jobs, poller, scorers, watcher, canceller, forgetting)
        maker = SpecMaker(settings, catalog, poller, tokenizers, grammars, scorers, router)
        submitter = Submitter(settings, jobs, poller, maker)
        files = Files(FileRecords(redis), ObjectStore.at(settings))
        batches = Batches(redis, settings.lease_s)
        answers = LineAnswers(catalog, jobs, poller, tokenizers, canceller)
        calls = CallMaker(settings, catalog, poller, tokenizers)
        tools = Tools(settings, batches, files, jobs, submitter, calls, poller, answers)
        return cls(
            settings=settings,
            redis=redis,
            catalog=catalog,
            keys=KeyRing(settings.api_keys),
            limits=Limits(settings),
            jobs=jobs,
            watcher=watcher,
            poller=poller,
            reaper=Reaper(AsyncReaping(redis, settings), jobs, on_end),
            durability=DurabilityWatch(redis),
            canceller=canceller,
            attendance=Attendance(canceller, WaitedJobs(redis)),
            forgetting=forgetting,
            tokenizers=tokenizers,
            submitter=submitter,
            calls=calls,
            files=files,
            batches=batches,
            batch_runner=BatchRunner(tools),
            grammars=grammars,
            http_metrics=HttpMetrics(),
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run the background tasks inside; starts as well where Redis is away."""
        services = (self.watcher, self.poller, self.reaper, self.durability, self.files)
        parts = (*services, self.batch_runner)
        tasks = [asyncio.create_task(part.run()) for part in parts]
        with suppress(TimeoutError):
            async with asyncio.timeout(FIRST_POLL_S):
                await self.poller.has_polled.wait()
        try:
            yield
        finally:
            self.begin_shutdown()
            await end(*tasks)
            await self.attendance.close()
            await self.grammars.close()
            await self.redis.aclose()

    def begin_shutdown(self) -> None:
        """End open streams and waits: their clients go on elsewhere."""
        self.watcher.close()

    @property
    def uptime_s(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.started_s
