"""The table at the end has to show what was lost, and the run then has to fail."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from tests.chaos.clients import Followed
from tests.chaos.comparison import Outcome
from tests.chaos.faults import FaultKind
from tests.chaos.injector import Injected
from tests.chaos.jobs import ChaosJob, WatcherPlan
from tests.chaos.report import Report, Run
from tests.chaos.store import StoredJob
from tests.chaos.stream import Frame, StreamText

OUTCOME = Outcome("completed", "ABCDEF", (1, 2, 3, 4, 5, 6), "length", attempts=2)
CHOICE = {"text": OUTCOME.text, "token_ids": OUTCOME.token_ids, "finish_reason": "length"}
FIELDS = {
    **{"status": "completed", "key": "k", "model": "m", "class": "normal", "stream_token": "t"},
    **{"params": '{"time_limit_s":1,"seed":1}', "request_id": "r", "created_ms": "1"},
    **{"attempts": "2", "eid": "2", "result": json.dumps([CHOICE])},
}


def stored(job_id: str, token_ids: tuple[int, ...] | None = OUTCOME.token_ids) -> StoredJob:
    return StoredJob(job_id, FIELDS, [], token_ids)


def followed(number: int) -> Followed:
    stream = StreamText()
    stream.apply(Frame("1", {"status": "processing", "token": "ABC"}), 1.0)
    stream.apply(Frame("2", {"status": "processing", "token": "DEF"}), 4.0)
    stream.apply(Frame("3", {"status": "completed", "token": "", "result": "ABCDEF"}), 5.0)
    job = ChaosJob(number, "key", {}, (WatcherPlan(),), cancel_after_s=None)
    return Followed(job, f"id-{number}", OUTCOME, {}, [stream])


def good_run() -> Run:
    return Run(
        seed=7,
        reference={0: OUTCOME, 1: OUTCOME},
        followed=[followed(0), followed(1)],
        stored=[stored("id-0"), stored("id-1")],
        accepted_ids=["id-0", "id-1"],
        injected=[Injected(FaultKind.KILL_WORKER, "worker-0", 2.0, 3.0)],
        violations=[],
        surprises=[],
        took_s=10.0,
    )


def row(report: Report, name: str) -> str:
    [line] = [line for line in report.table().splitlines() if line.strip().startswith(name)]
    return line.strip().removeprefix(name).strip()


def test_a_run_without_losses_is_good_and_its_table_begins_with_the_seed() -> None:
    report = Report(good_run())
    assert report.is_good
    assert report.table().splitlines()[0].split() == ["random", "seed", "7"]
    assert row(report, "jobs accepted") == "2"
    assert row(report, "of them moved") == "2"


def test_the_longest_gap_names_the_fault_that_it_overlapped() -> None:
    report = Report(good_run())
    assert row(report, "longest gap of all") == "3.00 s, during: kill -9 worker (worker-0)"
    assert row(report, "kill -9 worker ") == "1  3.00 s"


def test_a_job_that_did_not_end_is_lost() -> None:
    run = good_run()
    run.followed[1].outcome = None
    report = Report(run)
    assert not report.is_good
    assert row(report, "jobs lost") == "1"


def test_a_job_that_redis_no_longer_has_is_lost() -> None:
    run = good_run()
    run.stored.pop()
    assert row(Report(run), "jobs lost") == "1"


def test_a_job_that_was_never_accepted_fails_the_run() -> None:
    run = good_run()
    run.followed[1].task_id = None
    report = Report(run)
    assert not report.is_good
    assert row(report, "jobs accepted") == "1"


def test_a_record_that_nobody_was_told_of_is_a_duplicate() -> None:
    run = good_run()
    run.stored.append(stored("id-2"))
    report = Report(run)
    assert not report.is_good
    assert row(report, "jobs duplicated") == "1"


def test_one_id_for_two_jobs_fails_the_run() -> None:
    run = good_run()
    run.accepted_ids.append("id-1")
    assert not Report(run).is_good


def test_tokens_that_only_the_stored_events_lack_break_the_stream() -> None:
    run = good_run()
    run.stored[0] = stored("id-0", OUTCOME.token_ids[:-1])
    report = Report(run)
    assert not report.is_good
    assert row(report, "streams broken") == "1"


def test_lost_tokens_are_summed_over_results_and_watchers() -> None:
    run = good_run()
    run.followed[0].streams[0].text = "ABCF"
    run.followed[1].outcome = replace(OUTCOME, text="ABCDE", token_ids=(1, 2, 3, 4, 5))
    report = Report(run)
    assert row(report, "tokens lost") == "4"
    assert not report.is_good


def test_violations_surprises_and_bad_answers_fail_the_run() -> None:
    for spoil in ("violations", "surprises"):
        run = good_run()
        setattr(run, spoil, ["something"])
        assert not Report(run).is_good
    run = good_run()
    run.followed[0].errors.append("/result answered 500")
    assert not Report(run).is_good


def test_each_bad_job_gets_a_file_with_what_was_expected_and_what_came(tmp_path: Path) -> None:
    run = good_run()
    run.followed[1].outcome = None
    Report(run).write(tmp_path)
    [path] = (tmp_path / "jobs").iterdir()
    told = json.loads(path.read_text())
    assert path.name == "1.json"
    assert told["expected"]["text"] == "ABCDEF"
    assert told["got"] is None
    assert told["record"]["status"] == "completed"
    assert "jobs lost" in (tmp_path / "table.txt").read_text()
