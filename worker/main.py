"""The worker process: loads models, and consumes permits with Celery's threads pool.

`python -m worker.main`, started by `worker.launcher` once for each device, with the settings in
the environment. SIGTERM and SIGINT hand the running jobs back, but for those that end within
`DRAIN_S`, and leave; a second one leaves now.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
import uuid
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import FrameType
from typing import Any

from celery import Celery, Task
from celery.exceptions import Reject
from celery.platforms import SecurityWarning
from celery.signals import worker_ready, worker_shutting_down

from common import __version__, keys, log
from common.cancellations import Cancellations
from common.connection import connect
from common.durability import DurabilityCheck
from common.errors import ModelLoadError, RedisUnavailableError, SettingsError
from common.event_stream import EventWriter
from common.fleet import FleetWriter, ServedModel, WorkerInfo
from common.job_store import Claims
from common.model_catalog import CatalogEntry, ModelCatalog
from common.permits import TASK_NAME
from common.queue import create_celery
from common.reaping import Reaping
from common.request_log import request_logger
from common.settings import Settings, load_settings
from worker import kombu_guards, open_queues
from worker.backends.base import Backend, MemoryShare
from worker.backends.ollama_wire import OllamaWire
from worker.consumer import PatientConsumer
from worker.hand_back import LAUNCH_ID, worker_id
from worker.held_jobs import HeldJobs
from worker.host import EngineHost
from worker.leases import Heartbeat
from worker.loader import Loader
from worker.model_finder import ModelFinder
from worker.publisher import Publisher
from worker.reaper import Reaper
from worker.registry import ModelBusy, ModelRegistry
from worker.scoring.roster import ScorerRoster
from worker.scoring.storage import ScorerFiles
from worker.tasks import Draining, JobRunner
from worker.vitals import VitalSigns

EXIT_THREAD_DIED = 71
EXIT_ENGINE_HUNG = 72

logger = logging.getLogger("worker")


class Worker:
    """One process, one device, one or more models: puts the parts together and runs them."""

    def __init__(self, settings: Settings, redis_url: str) -> None:
        self._settings = settings
        self._redis_url = redis_url
        launch_id = os.environ.get(LAUNCH_ID) or uuid.uuid4().hex[:8]
        self._worker_id = worker_id(launch_id, os.getpid())
        self._client = connect(redis_url)
        self._is_consuming = threading.Event()
        self._is_leaving = threading.Event()
        self._claims = Claims(self._client, settings, self._worker_id)
        events = EventWriter(self._client)
        on_end = request_logger(log_prompts=settings.log_prompts)
        self._held = HeldJobs()
        self._vital_signs = VitalSigns()
        entries = ModelCatalog(settings).served
        self._models = ModelRegistry(entries, settings.model_cache_size or len(entries))
        self._publisher = Publisher(self._held, events, self._claims, self._models.abort, on_end)
        self._heartbeat = Heartbeat(
            self._claims,
            Cancellations(connect(redis_url)),
            self._held,
            self._describe,
            lambda: self._models.step_s,
            self._models.abort,
            lambda: _leave_at_once(EXIT_ENGINE_HUNG),
            lease_s=settings.lease_s,
            engine_stall_s=settings.engine_stall_s,
        )
        fleet = FleetWriter(self._client)
        self._roster = ScorerRoster(
            ScorerFiles(settings.scorers_dir), entries, fleet, self._heartbeat.beat_soon
        )
        self._runner = JobRunner(
            self._models,
            self._held,
            self._claims,
            events,
            on_end,
            default_max_tokens=settings.max_new_tokens,
        )
        self._loader = Loader(
            self._models,
            self._create_host,
            fleet,
            self._publisher,
            self._heartbeat.beat_soon,
            self._on_loaded,
            self._held,
            self._runner.give_way,
        )
        self._consumer: PatientConsumer | None = None
        self._finder = _finder_for(settings, self._models, self._on_found)
        self._reaper = Reaper(
            Reaping(self._client, settings), self._claims, self._models.errors, on_end
        )

    def run(self) -> int:
        """Serve until a signal comes; returns the exit status.

        Where a load is under way then, its thread still runs (`is_loading`).
        """
        signal.signal(signal.SIGTERM, _leave)
        signal.signal(signal.SIGINT, _leave)
        self._heartbeat.start()
        self._reaper.start()
        self._roster.start()
        try:
            self._publisher.start()
            self._loader.start()
            if self._finder is not None:
                self._finder.start()
            DurabilityCheck().check(self._client)
            return self._consume()
        except SystemExit:  # the signal came before Celery listened to it
            return 0
        finally:
            self._leave_quietly()

    @property
    def is_loading(self) -> bool:
        """Whether a load goes on that could not be broken off."""
        return self._loader.is_alive

    def _create_host(self, model: str, share: MemoryShare) -> EngineHost:
        backend = _create_backend(self._models.entry(model), self._settings, share)
        return EngineHost(backend, self._held)

    def _consume(self) -> int:
        kombu_guards.install()
        # Messages are JSON, which makes root harmless to Celery; containers run as another user.
        warnings.filterwarnings("ignore", category=SecurityWarning)
        options = open_queues.transport_options(
            lambda queue: self._models.is_open(keys.model_of_permits(queue))
        )
        app = create_celery(self._redis_url, options)
        _register_task(app, self._runner)
        worker_ready.connect(self._on_ready)
        worker_shutting_down.connect(self._on_shutdown)
        celery_worker = app.Worker(
            hostname=f"baton@{self._worker_id}",
            consumer_cls=PatientConsumer,
            pool="threads",
            concurrency=self._models.num_slots,
            queues=[keys.permits(model) for model in self._models.models],
            without_gossip=True,
            without_mingle=True,
            loglevel=self._settings.log_level,
            quiet=True,
        )
        celery_worker.start()
        return int(celery_worker.exitcode or 0)

    def _on_ready(self, sender: PatientConsumer, **_: Any) -> None:
        self._consumer = sender
        self._is_consuming.set()
        self._on_found(self._models.models)
        self._heartbeat.beat_soon()
        for model in self._models.loaded:
            self._on_loaded(model)

    def _on_found(self, models: Sequence[str]) -> None:
        self._heartbeat.beat_soon()
        if self._consumer is not None:  # else it will see them when it is ready
            for model in models:
                self._consumer.also_take(keys.permits(model))

    def _on_loaded(self, model: str) -> None:
        # A loaded model is of no use before Celery takes permits.
        if not self._is_consuming.is_set():
            return
        backend = self._models.backends().get(model)
        if backend is not None and backend.away is not None:
            logger.warning("Model %s waits: %s", model, backend.away)
        else:
            place = _place(self._models.entry(model), self._device)
            logger.info("Model %s is ready on %s", model, place)

    def _on_shutdown(self, **_: Any) -> None:
        # In a thread: a signal handler must not wait for locks that the main thread may hold.
        drain = self._leave_now if self._is_leaving.is_set() else self._drain
        self._is_leaving.set()
        threading.Thread(target=drain, name="drain", daemon=True).start()

    def _drain(self) -> None:
        self._heartbeat.beat_soon()
        self._runner.drain(self._settings.drain_s)

    def _leave_now(self) -> None:
        logger.warning("Asked a second time: handing everything back now")
        self._runner.drain()
        _leave_at_once(0)

    def _leave_quietly(self) -> None:
        self._runner.drain()
        if self._finder is not None:
            self._finder.stop()
        self._loader.stop()
        self._models.stop()
        self._heartbeat.stop()
        self._reaper.stop()
        self._roster.stop()
        try:
            self._claims.leave()
        except RedisUnavailableError:
            logger.warning("Redis is away; this worker's announcement passes by itself")

    @property
    def _device(self) -> str:
        return "cuda:0" if self._settings.device.startswith("cuda") else "cpu"

    def _describe(self) -> WorkerInfo:
        return WorkerInfo(
            worker_id=self._worker_id,
            host=socket.gethostname(),
            pid=os.getpid(),
            version=__version__,
            device=self._device,
            slots=self._models.num_slots,
            running=len(self._held),
            # One that leaves takes no more: its revisions and its slots do not count.
            models={} if self._is_leaving.is_set() else self._announcements(),
            gpu_memory=self._models.gpu_memory(),
            vitals=self._vital_signs.read(self._models.backends()),
            found=self._models.found,
            scorers={} if self._is_leaving.is_set() else self._roster.announced,
        )

    def _announcements(self) -> dict[str, ServedModel]:
        return self._models.announcements(is_consuming=self._is_consuming.is_set())


def _place(entry: CatalogEntry, device: str) -> str:
    """Where a model runs, for a log line; of several servers some may be away."""
    if not entry.is_upstream:
        return device
    num_servers = len(set(entry.base_urls))
    return "another server" if num_servers == 1 else f"one or more of {num_servers} other servers"


def _leave_after(args: threading.ExceptHookArgs) -> None:
    # A worker without its engine, publisher, heartbeat or reaper looks alive and is not. Its jobs
    # go to another one when their leases pass; the supervisor starts a new one.
    if args.exc_type is SystemExit:  # a thread's way to end itself, as without this hook
        return
    name = args.thread.name if args.thread is not None else "?"
    error = args.exc_value
    logger.critical("The thread %s died; this worker leaves", name, exc_info=error)
    _leave_at_once(EXIT_THREAD_DIED)


def _leave_at_once(status: int) -> None:
    logging.shutdown()
    os._exit(status)


def main() -> int:
    """Run one worker process; returns its exit status."""
    try:
        settings = load_settings()
        log.configure(settings, "worker")
        if settings.redis_url is None:
            raise SettingsError(
                "REDIS_URL is not set. Example: REDIS_URL=redis://:password@127.0.0.1:6379/0"
            )
    except SettingsError as error:
        sys.stderr.write(f"baton: wrong setting\n{error.message}\n")
        return 2
    threading.excepthook = _leave_after
    try:
        worker = Worker(settings, settings.redis_url)
    except SettingsError as error:
        sys.stderr.write(f"baton: wrong setting\n{error.message}\n")
        return 2
    try:
        status = worker.run()
    except Exception:
        logger.critical("The worker failed and leaves", exc_info=True)
        status = 1
    if worker.is_loading:
        _leave_at_once(status)  # the interpreter's own end trips over a thread that loads
    return status


def _create_backend(entry: CatalogEntry, settings: Settings, share: MemoryShare) -> Backend:
    """What will run a model; nothing is loaded by it."""
    if entry.backend == "openai":
        from worker.backends.openai_wire import OpenAIWire
        from worker.backends.upstream import UpstreamBackend

        return UpstreamBackend(entry, settings, OpenAIWire(), _key_for(entry, settings))
    if entry.backend == "ollama":
        from worker.backends.upstream import UpstreamBackend

        return UpstreamBackend(entry, settings, _ollama_wire(settings), _key_for(entry, settings))
    # Imported here: the import of torch takes seconds, and bad settings are told before it.
    from worker.backends.embedding import EmbeddingBackend

    if entry.kind == "embed":
        return EmbeddingBackend(entry, settings)
    from worker.backends.transformers import TransformersBackend
    from worker.backends.with_encoder import BackendWithEncoder

    encoder = replace(entry, kind="embed", dtype="float32")
    return BackendWithEncoder(
        TransformersBackend(entry, settings, share), lambda: EmbeddingBackend(encoder, settings)
    )


_OLLAMA_WIRES: dict[int | None, OllamaWire] = {}


def _ollama_wire(settings: Settings) -> OllamaWire:
    """One for all models: what a server tells of itself is asked for once."""
    return _OLLAMA_WIRES.setdefault(settings.ollama_num_ctx, OllamaWire(settings.ollama_num_ctx))


def _finder_for(
    settings: Settings, models: ModelRegistry, on_found: Callable[[Sequence[str]], None]
) -> ModelFinder | None:
    if not settings.finds_models:
        return None
    return ModelFinder(models, settings, _ollama_wire(settings), on_found)


def _key_for(entry: CatalogEntry, settings: Settings) -> str | None:
    if entry.api_key_env is None:
        return settings.openai_api_key if entry.backend == "openai" else None
    key = os.environ.get(entry.api_key_env)
    if key is None:
        raise ModelLoadError(f"Model loading failed: {entry.api_key_env} is not set for its worker")
    return key


def _register_task(app: Celery, runner: JobRunner) -> None:
    @app.task(name=TASK_NAME, bind=True)  # type: ignore[untyped-decorator]
    def run(task: Task) -> None:
        try:
            runner.run_next(keys.model_of_permits(task.request.delivery_info["routing_key"]))
        except Draining:
            raise Reject("this worker is leaving", requeue=True) from None
        except ModelBusy:
            # Taken just before the model was full, or unloaded.
            raise Reject("this worker has no room for the model now", requeue=True) from None


def _leave(signum: int, frame: FrameType | None) -> None:
    raise SystemExit(0)


if __name__ == "__main__":
    raise SystemExit(main())
