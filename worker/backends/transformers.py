"""The `transformers` backend: any Hugging Face causal LM, through our engine.

Translates between the service's records and the engine's, and nothing else.
"""

from __future__ import annotations

import gc
import logging
import os
import re
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, cast

import torch
from transformers.utils import logging as hf_logging

from common.chat_template import stand_in
from common.errors import DeadlineExceededError, EngineError, InvalidRequestError, ModelLoadError
from common.fleet import tokenizer_sha256
from common.model_card import ModelCard
from common.model_catalog import CatalogEntry
from common.sampling import SamplingSpec
from common.schemas import JOB_CLASSES, EngineTimings, JobStatus
from common.settings import Settings
from common.token_logprobs import TokenLogprobs
from common.vitals import CacheUse, EngineStats
from worker.backends.base import BackendEnd, BackendJob, Deliver, Delta, MemoryShare
from worker.backends.cache_budget import compute_cache_bytes
from worker.engine.engine import Engine
from worker.engine.errors import ModelLoadError as EngineLoadError
from worker.engine.errors import RequestError
from worker.engine.loader import LoadedModel, load_model
from worker.engine.sequence import FinishReason, Output, Request, SamplingParams, Timings
from worker.engine.sequence import TokenLogprobs as EngineLogprobs

log = logging.getLogger(__name__)

IDLE_WAIT_S = 1.0
STATS_PERIOD_S = 0.5
ONE_THREAD_BELOW = 50_000_000
"""Parameters below which a step is too short to share out: beside another busy process, waiting
for the second thread at each layer made a tiny model 20 times slower."""

_PATH = re.compile(r"(?<![\w:/.])/(?:[^\s'\"/]+/)+[^\s'\"]*")
"""An absolute path in a message; an address has a colon before its slashes."""

ALL_THREADS = torch.get_num_threads()
"""As torch chose it; it is asked before any model sets another number."""

_STATUS = {
    FinishReason.STOP: JobStatus.COMPLETED,
    FinishReason.LENGTH: JobStatus.COMPLETED,
    FinishReason.CANCELLED: JobStatus.CANCELLED,
    FinishReason.TIMEOUT: JobStatus.EXPIRED,
    FinishReason.ERROR: JobStatus.FAILED,
}


class TransformersBackend:
    """One model on one device. See `worker.backends.base.Backend` for the contract."""

    def __init__(
        self, entry: CatalogEntry, settings: Settings, share: MemoryShare | None = None
    ) -> None:
        self._entry = entry
        self._device = "cuda:0" if settings.device.startswith("cuda") else "cpu"
        self._cpu_kernels = settings.cpu_kernels
        self._gpu_fraction = settings.gpu_memory_fraction
        self._cache_gib, self._share = settings.kv_cache_gib, share or MemoryShare()
        if entry.kv_cache_gib is not None:  # the model's own, which it shares with nobody
            self._cache_gib, self._share = entry.kv_cache_gib, MemoryShare()
        self._num_threads = ALL_THREADS
        self._engine: Engine | None = None
        self._step_began: float | None = None
        self._num_steps = 0
        self._num_tokens = 0
        self._stats: EngineStats | None = None
        self._stats_due = 0.0

    def load(self, say: Callable[[str], None]) -> tuple[ModelCard, str]:
        """Load the weights and the tokenizer; see the contract."""
        if not sys.stderr.isatty():
            cast(Any, hf_logging).disable_progress_bar()
        torch.set_num_threads(ALL_THREADS)  # a small model before this one may have left one
        try:
            loaded = load_model(
                self._entry.source,
                device=self._device,
                dtype=self._entry.dtype,
                kernels=self._cpu_kernels,
                progress=say,
            )
            if self._device == "cpu" and loaded.num_parameters < ONE_THREAD_BELOW:
                self._num_threads = 1
                torch.set_num_threads(self._num_threads)
            self._engine = self._start_engine(loaded)
            self._stats = self._take_stats(self._engine)
        except EngineLoadError as error:
            # The whole of it is for the log: clients read the other one.
            log.error("The model cannot be loaded: %s", error)
            raise ModelLoadError(
                f"Model loading failed: {_without_paths(str(error), self._entry)}"
            ) from error
        except Exception as error:
            # A checkpoint can be broken in more ways than the loader knows.
            log.exception("The model cannot be loaded")
            raise ModelLoadError(
                f"Model loading failed: {type(error).__name__}; the error log has the details",
                may_pass=True,
            ) from error
        tokenizer_json = loaded.tokenizer.backend_tokenizer.to_str()
        card = _card(self._entry.model, loaded, tokenizer_json, self._engine.context_length)
        return card, tokenizer_json

    def _start_engine(self, loaded: LoadedModel) -> Engine:
        cache_bytes = compute_cache_bytes(
            self._device,
            cache_gib=self._cache_gib,
            gpu_fraction=self._gpu_fraction,
            share=self._share,
        )
        max_batch_size = self._entry.max_batch_size
        engine = Engine(loaded, max_batch_size=max_batch_size, cache_bytes=cache_bytes)
        if engine.context_length < loaded.context_length:
            log.warning(
                "The model's context of %d tokens is cut to %d: the cache has %.2f GiB "
                "(KV_CACHE_GIB)",
                loaded.context_length,
                engine.context_length,
                cache_bytes / 2**30,
            )
        return engine

    def run(self, deliver: Deliver, stop: threading.Event) -> None:
        """Step the engine while there is work; see the contract."""
        engine = self._loaded
        torch.set_num_threads(self._num_threads)  # each thread has a number of its own
        while not stop.is_set():
            if not engine.has_work:
                self._stats = self._take_stats(engine)
                engine.wait(IDLE_WAIT_S)
                continue
            self._step_began = began = time.monotonic()
            outputs = engine.step()
            self._step_began = None
            if outputs:
                deliver([_delta(output) for output in outputs])
            self._num_steps += 1
            self._num_tokens += sum(len(output.token_ids) for output in outputs)
            if began >= self._stats_due:
                self._stats = self._take_stats(engine)
                self._stats_due = began + STATS_PERIOD_S

    def text_of_committed(self, job: BackendJob) -> str | None:
        """Replay the committed tokens; see the contract."""
        try:
            return self._loaded.text_of_committed(_request(job))
        except RequestError:
            return None

    def submit(self, job: BackendJob) -> None:
        """Take a choice of a job; see the contract."""
        self._loaded.add(_request(job))

    def abort(self, run_id: str) -> None:
        """End a run at the next step; see the contract."""
        engine = self._engine
        if engine is not None:  # else it was unloaded meanwhile, with nothing left to abort
            engine.abort(run_id, FinishReason.CANCELLED)

    def wake(self) -> None:
        """Make `run` look at its stop event; see the contract."""
        # An abort of nobody is the engine's cheapest message.
        self._loaded.abort("", FinishReason.CANCELLED)

    def close(self) -> None:
        """Drop the engine with its weights and cache; see the contract."""
        self._engine = None
        gc.collect()  # modules and their hooks refer to each other
        if self._device != "cpu":
            torch.cuda.empty_cache()

    @property
    def away(self) -> str | None:
        """Nothing that is loaded goes away; see the contract."""
        return None

    @property
    def is_lost(self) -> bool:
        """Never: it is here."""
        return False

    def new_card(self) -> ModelCard | None:
        """What is loaded stays as it is; see the contract."""
        return None

    @property
    def step_s(self) -> float:
        """How long the present step has been running; see the contract."""
        began = self._step_began
        return 0.0 if began is None else time.monotonic() - began

    @property
    def device(self) -> str:
        """`cpu` or `cuda:0`."""
        return self._device

    def gpu_memory(self) -> dict[str, int] | None:
        """Bytes of the GPU, used by anybody; see the contract."""
        if self._device == "cpu":
            return None
        free, total = torch.cuda.mem_get_info(self._device)
        return {"used": total - free, "total": total}

    def stats(self) -> EngineStats | None:
        """The last snapshot; see the contract."""
        return self._stats

    def _take_stats(self, engine: Engine) -> EngineStats:
        """Look at the engine, on its own thread: its books are not for others to read."""
        cache = engine.cache
        return EngineStats(
            num_running=engine.num_running,
            num_waiting=engine.num_waiting,
            num_steps=self._num_steps,
            num_tokens=self._num_tokens,
            num_preempted=engine.num_preempted,
            cache=CacheUse(
                capacity_tokens=cache.capacity_tokens,
                used_tokens=cache.used_tokens,
                reusable_tokens=cache.reusable_tokens,
                num_entries=cache.num_entries,
                size_bytes=cache.size_bytes,
                hits=cache.hits,
                misses=cache.queries - cache.hits,
                evictions=cache.evictions,
            ),
        )

    @property
    def _loaded(self) -> Engine:
        assert self._engine is not None, "load() comes first"
        return self._engine


def _card(model: str, loaded: LoadedModel, tokenizer_json: str, context_length: int) -> ModelCard:
    names = loaded.tokenizer.special_tokens_map
    templates = loaded.tokenizer.chat_template
    if not isinstance(templates, dict):  # they may be several by name
        templates = {"default": templates}
    template = templates.get("default")
    if template is None:
        template = stand_in(loaded.tokenizer.get_vocab().__contains__)
    return ModelCard(
        model=model,
        revision=loaded.revision,
        architecture=loaded.architecture,
        format="safetensors",
        context_length=context_length,
        vocab_size=loaded.vocab_size,
        dtype=loaded.precision,
        tokenizer_sha256=tokenizer_sha256(tokenizer_json),
        chat_template=template,
        special_tokens={name: token for name, token in names.items() if isinstance(token, str)},
        tool_template=templates.get("tool_use"),
    )


def _request(job: BackendJob) -> Request:
    return Request(
        request_id=job.run_id,
        prompt_ids=job.prompt_ids,
        params=_params(job.sampling, job.choice),
        priority=JOB_CLASSES.index(job.job_class),
        time_limit_s=job.sampling.time_limit_s,
        used_s=job.used_s,
        committed_ids=job.committed_ids,
        choice=job.choice,
        grammar=None if job.sampling.grammar is None else job.sampling.grammar.lark(),
    )


def _params(spec: SamplingSpec, choice: int) -> SamplingParams:
    assert spec.max_tokens is not None, "the task decides it before the backend sees the job"
    return SamplingParams(
        max_tokens=spec.max_tokens,
        temperature=spec.temperature,
        top_p=spec.top_p,
        top_k=spec.top_k,
        min_p=spec.min_p,
        repetition_penalty=spec.repetition_penalty,
        presence_penalty=spec.presence_penalty,
        frequency_penalty=spec.frequency_penalty,
        seed=spec.seed,
        stop=spec.stop,
        ignore_eos=spec.ignore_eos,
        min_tokens=spec.min_tokens,
        stop_token_ids=spec.stop_token_ids,
        logit_bias=spec.logit_bias,
        logprobs=spec.logprobs,
        prompt_logprobs=spec.prompt_logprobs if choice == 0 else None,
        skip_special_tokens=spec.skip_special_tokens,
    )


def _delta(output: Output) -> Delta:
    return Delta(
        run_id=output.request_id,
        position=output.position,
        token_ids=output.token_ids,
        texts=output.texts,
        used_s=output.used_s,
        end=None if output.finish_reason is None else _end(output, output.finish_reason),
        logprobs=tuple(_logprobs(found) for found in output.logprobs),
        choice=output.choice,
        prompt_logprobs=tuple(_logprobs(found) for found in output.prompt_logprobs),
    )


def _logprobs(found: EngineLogprobs) -> TokenLogprobs:
    top = tuple((token_id, _rounded(logprob)) for token_id, logprob in found.top)
    return TokenLogprobs(_rounded(found.logprob), top)


def _rounded(logprob: float) -> float:
    return round(logprob, 6) + 0.0  # never -0.0, which not every JSON reader keeps


def _without_paths(text: str, entry: CatalogEntry) -> str:
    """The text with the model's id in place of where it lies, and no other path of this machine."""
    if os.sep in entry.source:
        text = text.replace(entry.source, entry.model)
    return _PATH.sub("(a path)", text)


def _end(output: Output, reason: FinishReason) -> BackendEnd:
    error_type, message = None, output.error
    if reason is FinishReason.ERROR:
        is_bad_request = output.error_code == "invalid_request"
        error_type = (InvalidRequestError if is_bad_request else EngineError).__name__
    elif reason is FinishReason.TIMEOUT:
        error_type = DeadlineExceededError.__name__
        message = f"The job is over its time limit: {message}." if message else None
    return BackendEnd(
        status=_STATUS[reason],
        finish_reason=reason.value,
        tail=output.tail,
        timings=_timings(output.timings),
        error_type=error_type,
        error_message=message,
    )


def _timings(timings: Timings | None) -> EngineTimings:
    if timings is None:
        return EngineTimings()
    return EngineTimings(
        prefill_s=round(timings.prefill_s, 6),
        decode_s=round(timings.decode_s, 6),
        batch_size=timings.batch_size,
        cached_tokens=timings.cached_tokens,
    )
