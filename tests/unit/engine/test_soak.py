"""Ten thousand short requests, some of them aborted: the books stay right and memory flat."""

import gc
import random

import psutil
import pytest

from tests.unit.engine.test_preemption import TOKEN_BYTES
from worker.engine.sequence import FinishReason

NUM_REQUESTS = 10_000
NUM_WARM = 2_000
MOST_GROWTH_BYTES = 8 << 20
"""A leak of one slot's tail, 1 KiB a request, would be as much."""


def make_request(ask, rng, number):
    ids = [rng.randrange(2, 250) for _ in range(rng.choice([1, 3, 8, 24]))]
    hot = {"temperature": 1.0, "top_k": 20, "stop": ("zz",), "seed": number}
    extra = {} if rng.random() < 0.5 else hot
    return ask(str(number), ids, max_tokens=rng.randint(1, 12), priority=rng.randrange(3), **extra)


@pytest.mark.timeout(600)  # for a machine that is busy: it works without a pause
def test_ten_thousand_requests_with_random_aborts_leave_no_trace(llama, make_engine, ask):
    rng, process = random.Random(1), psutil.Process()
    engine = make_engine(llama, max_batch_size=32, cache_bytes=220 * TOKEN_BYTES)
    num_added, ended, warm_bytes = 0, {}, 0
    while engine.has_work or num_added < NUM_REQUESTS:
        while num_added < NUM_REQUESTS and engine.num_running + engine.num_waiting < 48:
            engine.add(make_request(ask, rng, num_added))
            num_added += 1
            if num_added == NUM_WARM:
                gc.collect()
                warm_bytes = process.memory_info().rss
        if rng.random() < 0.5:
            recent = rng.randrange(max(0, num_added - 40), num_added)
            engine.abort(str(recent), FinishReason.CANCELLED)
        for output in engine.step():
            if output.finish_reason is not None:
                assert output.request_id not in ended, "ended twice"
                ended[output.request_id] = output.finish_reason
        if rng.random() < 0.02:
            engine.check_integrity()
    engine.check_integrity()
    assert len(ended) == NUM_REQUESTS
    assert set(ended.values()) == {
        FinishReason.LENGTH, FinishReason.STOP, FinishReason.CANCELLED
    }  # fmt: skip
    assert engine.num_preempted > 100
    assert engine.cache.used_tokens == 0
    gc.collect()
    assert process.memory_info().rss - warm_bytes < MOST_GROWTH_BYTES
