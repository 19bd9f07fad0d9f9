"""Every Redis key of the service, built here and nowhere else.

Key                         Type    Holds                                TTL
baton:job:<id>              hash    the job record (schemas.JobRecord)   none, then RESULT_TTL_S
baton:events:<id>           stream  its token events, ids 1-0, 2-0, ...  none, then STREAM_GRACE_S
baton:gone:<id>             string  key id of an ended job: a tombstone  2 * RESULT_TTL_S
baton:ready:<model>:<class> zset    waiting job ids by tag               none
baton:sched:<model>         hash    tag: last tag given; claims: count   none
baton:models                set     model ids that ever had a job        none
baton:leases                zset    running job ids by lease end (ms)    none
baton:claim:<nonce>         string  job id that this claim got           NONCE_TTL_S
baton:rate:<key id>         string  GCRA arrival time (us)               until it has no effect
baton:idem:<key id>:<hash>  string  job id, body hash; of a group its    IDEMPOTENCY_TTL_S
                                    id, body hash, number of jobs
baton:waited:<id>           string  1: a client waits for the job        WAITED_TTL_S
baton:permits:<model>       list    Celery's queue: "model has work"     none
baton:card:<model>          string  model card (JSON)                    none
baton:tokenizer:<sha256>    string  a tokenizer.json                     none
baton:scorer:<name>         string  a scorer's card (JSON)               SCORER_TTL_S
baton:workers               zset    worker ids by last heartbeat (ms)    none, swept by the reaper
baton:worker:<id>           string  what a worker announces (JSON)       WORKER_TTL_S
baton:trials                hash    worker id: the suspect that it tries none, swept by the reaper
baton:counters              hash    jobs and tokens, ever growing        none
baton:tallies:<model>       hash    what its ended jobs add up to        none
baton:reaped                string  when a reaper last ran (ms)          none
baton:file:<id>             hash    what is known of a file              none
baton:files:<key id>        zset    a key's file ids by creation (ms)    none
baton:batch:<id>            hash    a batch (batch_store.BatchRecord)    none, then BATCH_TTL_S
baton:batches:<key id>      zset    a key's batch ids by creation (ms)   none
baton:batch_leases          zset    unfinished batches by lease end (ms) none
baton:batch_lines:<id>      set     numbers of the lines under way       none
baton:file_expiry           zset    file ids by when they expire (ms)    none

Channels: baton:bell:<id> carries "<eid> <event>" of one job; baton:cancel carries job ids.

Writers: the Lua scripts in `common/scripts`, except for the card and the tokenizer, which a worker
sets when it has loaded a model, the scorers' cards, which it sets again and again, `waited`, which
a gateway sets (`common/waited.py`), what a gateway drops of answers (`common/forgetting.py`), and
what is kept of files (`common/file_records.py`).
Readers: the gateway, and the scripts themselves. They get the same names through `LUA_KEYS`, so
that there is one spelling.
"""

from __future__ import annotations

JOB = "baton:job:"
EVENTS = "baton:events:"
GONE = "baton:gone:"
READY = "baton:ready:"
SCHED = "baton:sched:"
MODELS = "baton:models"
LEASES = "baton:leases"
CLAIM = "baton:claim:"
RATE = "baton:rate:"
IDEMPOTENCY = "baton:idem:"
WAITED = "baton:waited:"
PERMITS = "baton:permits:"
CARD = "baton:card:"
TOKENIZER = "baton:tokenizer:"
SCORER = "baton:scorer:"
WORKERS = "baton:workers"
WORKER = "baton:worker:"
TRIALS = "baton:trials"
COUNTERS = "baton:counters"
TALLIES = "baton:tallies:"
REAPED = "baton:reaped"
FILE = "baton:file:"
FILES = "baton:files:"
FILE_EXPIRY = "baton:file_expiry"
BATCH = "baton:batch:"
BATCHES = "baton:batches:"
BATCH_LEASES = "baton:batch_leases"
BATCH_LINES = "baton:batch_lines:"
BELL = "baton:bell:"
CANCEL = "baton:cancel"

NONCE_TTL_S = 600
WORKER_TTL_S = 20
IDEMPOTENCY_TTL_S = 86_400
WAITED_TTL_S = 30
SCORER_TTL_S = 86_400

_NAMES = {
    name: value
    for name, value in globals().items()
    if name.isupper() and not name.startswith("_") and isinstance(value, str)
}
LUA_KEYS = (
    "local KEY = {"
    + ", ".join(f'{name} = "{value}"' for name, value in _NAMES.items())
    + f"}}\nlocal NONCE_TTL_S = {NONCE_TTL_S}\nlocal WORKER_TTL_S = {WORKER_TTL_S}\n"
    + f"local IDEMPOTENCY_TTL_S = {IDEMPOTENCY_TTL_S}\n"
)


def job(job_id: str) -> str:
    """The record of a job."""
    return JOB + job_id


def events(job_id: str) -> str:
    """The event stream of a job."""
    return EVENTS + job_id


def gone(job_id: str) -> str:
    """The tombstone of a job."""
    return GONE + job_id


def ready(model: str, job_class: str) -> str:
    """The waiting jobs of one model and class."""
    return f"{READY}{model}:{job_class}"


def waited(job_id: str) -> str:
    """Whether a client waits for a job that has an idempotency key."""
    return WAITED + job_id


def permits(model: str) -> str:
    """The broker's list, which is also the name of the Celery queue."""
    return PERMITS + model


def model_of_permits(queue: str) -> str:
    """The model of a Celery queue."""
    return queue.removeprefix(PERMITS)


def card(model: str) -> str:
    """The card of a model."""
    return CARD + model


def tokenizer(sha256: str) -> str:
    """A tokenizer file, addressed by its content."""
    return TOKENIZER + sha256


def scorer(name: str) -> str:
    """The card of a scorer."""
    return SCORER + name


def tallies(model: str) -> str:
    """What the ended jobs of a model add up to."""
    return TALLIES + model


def worker(worker_id: str) -> str:
    """What a worker announces."""
    return WORKER + worker_id


def bell(job_id: str) -> str:
    """The channel on which a job's new events are called out."""
    return BELL + job_id


def file(file_id: str) -> str:
    """What is known of a file."""
    return FILE + file_id


def files(key_id: str) -> str:
    """The files of a key."""
    return FILES + key_id


def batch(batch_id: str) -> str:
    """A batch."""
    return BATCH + batch_id


def batches(key_id: str) -> str:
    """The batches of a key."""
    return BATCHES + key_id


def batch_lines(batch_id: str) -> str:
    """A batch's lines that are under way."""
    return BATCH_LINES + batch_id
