"""The statistics' bodies, for the API's documentation; a test holds the real ones to them."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from common.fleet import ModelState


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class CpuMetrics(_Answer):
    """The processors of all machines with a live worker."""

    utilization_percent: float = Field(
        description="Of all cores together, 0 to 100.", examples=[45.2]
    )
    core_count: int = Field(description="Logical cores.", examples=[8])


class MemoryMetrics(_Answer):
    """The memory of all machines with a live worker, in GiB."""

    used_gb: float = Field(description="What programs cannot have any more.", examples=[8.5])
    total_gb: float = Field(examples=[16.0])
    utilization_percent: float = Field(examples=[53.1])


class GpuMetrics(_Answer):
    """The GPUs of all live workers; memory in GiB."""

    utilization_percent: float | None = Field(
        description="Mean over the GPUs; null where no driver tells.", examples=[67.3]
    )
    memory_used_gb: float = Field(description="By whomever.", examples=[12.2])
    memory_total_gb: float = Field(examples=[24.0])
    temperature_c: float | None = Field(description="Of the hottest one.", examples=[72])


class EngineMetrics(_Answer):
    """Requests since the counters began, and those of now; times of 0 before the first."""

    total_requests: int = Field(description="That were accepted.", examples=[1234])
    completed_requests: int = Field(examples=[1200])
    failed_requests: int = Field(description="That failed or expired.", examples=[34])
    total_tokens_generated: int = Field(
        description="By requests that have ended.", examples=[1234567]
    )
    avg_queue_time_ms: float = Field(examples=[12.5])
    avg_prefill_time_ms: float = Field(examples=[45.2])
    avg_decode_time_ms: float = Field(examples=[123.8])
    queue_size: int = Field(examples=[3])
    queue_capacity: int = Field(examples=[100])
    concurrent_requests: int = Field(description="That workers have taken up.", examples=[2])


class CacheMetrics(_Answer):
    """The prefix caches of all live workers, since their starts; in tokens."""

    hit_rate: float = Field(description="hits / (hits + misses); 0 before any.", examples=[0.85])
    hits: int = Field(description="Prompt tokens that were found.", examples=[850])
    misses: int = Field(description="Prompt tokens that were not found.", examples=[150])
    evictable_size: int = Field(
        description="Left by ended requests; given up when room is needed.", examples=[5000]
    )
    protected_size: int = Field(description="Of requests that run.", examples=[3000])
    total_cached: int = Field(description="Both.", examples=[8000])
    total_capacity: int = Field(examples=[10000])
    evictions: int = Field(description="Times that some were given up for others.", examples=[25])
    node_count: int = Field(description="Blocks, slots or sequences that hold them.", examples=[42])


class MetricsAnswer(_Answer):
    """All live workers together; a part that none of them tells of is null."""

    cpu: CpuMetrics | None
    memory: MemoryMetrics | None
    gpu: GpuMetrics | None = Field(description="null without a GPU.")
    engine: EngineMetrics
    cache: CacheMetrics | None


class LatencyStats(_Answer):
    """One latency, over the requests since the counters began; null before the first."""

    count: int = Field(examples=[1200])
    average_ms: float | None = Field(description="Exact.", examples=[12.5])
    p50_ms: float | None = Field(description="Estimated from a histogram.", examples=[8.1])
    p95_ms: float | None = Field(examples=[41.0])
    p99_ms: float | None = Field(examples=[97.4])


class Latencies(_Answer):
    """By what was measured."""

    queue: LatencyStats = Field(description="From the submission to a worker.")
    prefill: LatencyStats = Field(description="The engine's reading of the prompt.")
    decode: LatencyStats = Field(description="From the first token to the last, in the engine.")
    time_to_first_token: LatencyStats = Field(description="From the submission.")
    inter_token: LatencyStats = Field(description="Between two tokens of a request.")
    end_to_end: LatencyStats = Field(description="From submission to end; completed ones.")
    cancel: LatencyStats = Field(
        description="From the call that cancels a running request to its end."
    )


class EndedRequests(_Answer):
    """Requests that have ended; those that were resumed are among the others too."""

    completed: int = Field(examples=[1200])
    failed: int = Field(examples=[30])
    cancelled: int = Field(examples=[5])
    expired: int = Field(examples=[4])
    resumed: int = Field(
        description="That went back in line when their worker had gone, or another model came.",
        examples=[2],
    )


class TokenCounts(_Answer):
    """Tokens of requests that have ended."""

    prompt: int = Field(examples=[45_000])
    cached: int = Field(description="Of the prompts, found in the cache.", examples=[12_000])
    generation: int = Field(examples=[1234567])


class Waiting(_Answer):
    """Requests in line, by class."""

    high: int = Field(examples=[0])
    normal: int = Field(examples=[3])
    low: int = Field(examples=[0])


class QueueStats(_Answer):
    """The queue."""

    size: int = Field(examples=[3])
    capacity: int = Field(examples=[100])
    by_model: dict[str, Waiting]


class ThroughputStats(_Answer):
    """What the fleet got done of late, by the requests that ended."""

    window_seconds: float = Field(
        description="Seconds that the answering gateway looked: 60, or less after its start.",
        examples=[60.0],
    )
    requests_per_second: float = Field(examples=[4.2])
    prompt_tokens_per_second: float = Field(examples=[310.0])
    generation_tokens_per_second: float = Field(examples=[1243.5])


class EngineView(_Answer):
    """Live engines of one model, since their starts."""

    running: int = Field(description="Sequences in the batch.", examples=[2])
    waiting: int = Field(description="Taken up, but not in the batch yet.", examples=[0])
    steps: int = Field(description="Forward passes.", examples=[40_000])
    generation_tokens: int = Field(examples=[120_000])
    tokens_per_step: float | None = Field(description="The mean batch.", examples=[3.0])
    preemptions: int = Field(description="Times that one gave way to others.", examples=[0])
    cache: CacheMetrics | None


class ModelStats(_Answer):
    """One model."""

    state: ModelState
    workers: int = Field(description="Live workers that serve it.", examples=[2])
    queued: Waiting
    requests: EndedRequests
    tokens: TokenCounts
    latencies: Latencies
    engine: EngineView | None = Field(description="null while no worker has it loaded.")


class WorkerGpu(GpuMetrics):
    """A worker's GPU."""

    name: str | None = Field(examples=["NVIDIA H200"])
    power_w: float | None = Field(examples=[312.5])


class WorkerModel(_Answer):
    """A model on one worker."""

    state: ModelState
    reason: str | None = Field(description="Why it cannot be loaded.")
    engine: EngineView | None


class WorkerStats(_Answer):
    """One live worker."""

    worker_id: str
    host: str
    pid: int
    version: str
    device: str = Field(examples=["cuda:0"])
    slots: int = Field(description="Requests that it runs at once.", examples=[64])
    running: int = Field(examples=[2])
    uptime_seconds: float | None = Field(examples=[3600.0])
    memory_gb: float | None = Field(description="Of its process, in GiB.", examples=[2.4])
    gpu: WorkerGpu | None
    models: dict[str, WorkerModel]


class GatewayStats(_Answer):
    """The gateway that answers; all else is of the whole fleet."""

    uptime_seconds: float = Field(examples=[7200.0])


class EngineStatsAnswer(_Answer):
    """All gateways and workers together, but for `gateway`."""

    is_ready: bool = Field(
        description="As `/ready`: a live worker has a model loaded, or loads it when a task comes."
    )
    model: str = Field(description="The default model.", examples=["baton-toy"])
    models: list[str] = Field(description="The configured models.")
    uptime_seconds: float = Field(
        description="Of the live worker that runs longest; 0 without one.", examples=[3600.0]
    )
    request_count: int = Field(description="Accepted since the counters began.", examples=[1234])
    active_requests: int = Field(description="That workers have taken up.", examples=[2])
    requests: EndedRequests
    tokens: TokenCounts
    queue: QueueStats
    latencies: Latencies
    average_latency_ms: float | None = Field(
        description="From submission to end, of completed requests.", examples=[38.1]
    )
    tokens_per_second: float | None = Field(
        description="Generated in `throughput`'s window.", examples=[1243.5]
    )
    throughput: ThroughputStats | None = Field(description="null in the first second of a gateway.")
    by_model: dict[str, ModelStats]
    workers: list[WorkerStats]
    gateway: GatewayStats
