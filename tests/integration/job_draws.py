"""What `test_job_machine` draws from."""

from __future__ import annotations

from hypothesis import strategies as st

from common.job_store import Idempotency
from common.schemas import JOB_CLASSES

WORKERS = ("worker-0", "worker-1", "worker-2")
API_KEYS = ("key-a", "key-b")
SAME = Idempotency("same-key", "same-request")
OTHER_REQUEST = Idempotency("same-key", "other-request")
REVISIONS = ("r1:float32", "r2:float32")

# The first one has the most to do: only a worker that holds many jobs can lose many.
workers = st.sampled_from([WORKERS[0], *WORKERS])
revisions = st.sampled_from(REVISIONS)
job_classes = st.sampled_from(JOB_CLASSES)
idempotencies = st.sampled_from([None, None, SAME, SAME, OTHER_REQUEST])
picks = st.integers(0, 7)
"""One of those that there are now, counted from the latest."""
few = st.integers(1, 3)
choices = st.integers(0, 2)
rare_events = st.sampled_from(
    [
        "permits are spent",
        "idempotency keys pass",
        "a stream passes",
        "a record passes",
        "a record is deleted by hand",
        "a model cannot be loaded",
    ]
)
seldom = st.sampled_from([False, False, False, True])
