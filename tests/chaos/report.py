"""The end of a run: one table, and a folder with all there is to know about each bad job."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.chaos.clients import Followed
from tests.chaos.comparison import (
    Difference,
    Gap,
    Outcome,
    Verdict,
    judge,
    longest_gap,
    percentile,
)
from tests.chaos.groups import FollowedGroup, group_problems
from tests.chaos.injector import Injected
from tests.chaos.store import StoredJob

MOST_NAMES = 6


@dataclass
class Run:
    """All that a run has left behind.

    Attributes:
        reference: How each job ended without faults, by its number.
        followed: What the clients of the run with faults have seen.
        stored: What Redis holds at the end, of both phases.
        accepted_ids: Of both phases.
        violations: What the checker of the store found, in words.
        surprises: What else must not happen, in words.
        took_s: Seconds of the run with faults.
        groups_before: Groups of the run without faults.
        groups: The same groups, with faults.
    """

    seed: int
    reference: dict[int, Outcome]
    followed: list[Followed]
    stored: list[StoredJob]
    accepted_ids: list[str]
    injected: list[Injected]
    violations: list[str]
    surprises: list[str]
    took_s: float
    groups_before: list[FollowedGroup] = field(default_factory=list)
    groups: list[FollowedGroup] = field(default_factory=list)


class Report:
    """What the run comes to."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._stored = {job.job_id: job for job in run.stored}
        self.verdicts = [self._judge(each) for each in run.followed]
        self.duplicates = self._find_duplicates()
        self.of_groups = list(group_problems(run.groups_before, run.groups, self._stored))
        # Of every watcher that did not hang up by itself, the longest first.
        self._gaps_by_job = sorted(
            (
                (gap, each)
                for each in run.followed
                for plan, stream in zip(each.job.watchers, each.streams, strict=False)
                if plan.hangs_up_after_s is None and (gap := longest_gap(stream)) is not None
            ),
            key=lambda pair: -pair[0].length_s,
        )
        self._gaps = [gap for gap, _ in self._gaps_by_job]

    @property
    def bad(self) -> list[Verdict]:
        """The jobs with which something is wrong."""
        return [verdict for verdict in self.verdicts if not verdict.is_good]

    @property
    def is_good(self) -> bool:
        """Whether nothing was lost, doubled or broken."""
        return not (self.bad or self.problems)

    @property
    def problems(self) -> list[str]:
        """What is wrong beside the jobs themselves, in words."""
        run = self._run
        doubles = [f"duplicate: {job.job_id} {job.metadata}" for job in self.duplicates]
        ids = Counter(run.accepted_ids)
        errors = [error for each in run.followed for error in each.errors]
        doubles += [f"two jobs were given the id {i}" for i, n in ids.items() if n > 1]
        return [*run.violations, *run.surprises, *doubles, *errors, *self.of_groups]

    def table(self) -> str:
        """All figures, as text."""
        run = self._run
        tokens = sum((verdict.tokens for verdict in self.verdicts), Difference())
        outcomes = [each.outcome for each in run.followed if each.outcome is not None]
        rows: list[tuple[str, Any]] = [
            ("random seed", run.seed),
            ("jobs accepted", sum(each.task_id is not None for each in run.followed)),
            ("  of them cancelled", sum(o.status == "cancelled" for o in outcomes)),
            ("  of them moved", sum(o.attempts > 1 for o in outcomes)),
            ("jobs lost", sum(verdict.lost is not None for verdict in self.verdicts)),
            ("jobs duplicated", len(self.duplicates)),
            # Of another server's only the letters are known.
            ("tokens in results", sum(len(o.token_ids) or len(o.text) for o in outcomes)),
            ("tokens lost", tokens.lost),
            ("tokens repeated", tokens.repeated),
            ("tokens changed", tokens.changed),
            ("groups accepted", sum(bool(each.job_ids) for each in run.groups)),
            ("  choices in them", self._num_choices()),
            ("  what is wrong with them", len(self.of_groups)),
            ("streams", sum(len(each.streams) for each in run.followed)),
            ("  resumed", sum(each.num_resumes for each in run.followed)),
            ("  with a snapshot", self._num_snapshots()),
            ("streams broken", sum(len(verdict.broken) for verdict in self.verdicts)),
            ("violations in Redis", len(run.violations)),
            ("answers that must not be", sum(len(each.errors) for each in run.followed)),
            ("surprises", len(run.surprises)),
            ("longest gap of a stream, p50", self._gap_text(0.5)),
            ("longest gap of a stream, p99", self._gap_text(0.99)),
            ("longest gap of all", self._longest_text()),
            ("seconds with faults", f"{run.took_s:.0f}"),
        ]
        lines = [f"{name:<32} {value}" for name, value in rows]
        return "\n".join([*lines, "", *self._fault_lines()])

    def write(self, folder: Path) -> None:
        """Write the table, the faults, and a file for each bad job."""
        run = self._run
        (folder / "table.txt").write_text(self.table() + "\n")
        faults = [asdict(each) for each in sorted(run.injected, key=lambda each: each.start_s)]
        _write_json(folder / "faults.json", faults)
        _write_json(
            folder / "gaps.json", [self._tell_gap(*pair) for pair in self._gaps_by_job[:20]]
        )
        odd = {each.job.number: each.notes for each in run.followed if each.notes}
        if odd:
            _write_json(folder / "notes.json", odd)
        if self.problems:
            (folder / "problems.txt").write_text("\n".join(self.problems) + "\n")
        for verdict in self.bad:
            (folder / "jobs").mkdir(exist_ok=True)
            _write_json(folder / "jobs" / f"{verdict.number}.json", self._tell(verdict))
        for job in self.duplicates:
            (folder / "jobs").mkdir(exist_ok=True)
            _write_json(folder / "jobs" / f"duplicate-{job.job_id}.json", asdict(job))

    def _judge(self, followed: Followed) -> Verdict:
        job = followed.job
        if followed.task_id is None:
            return Verdict(job.number, broken=["it was never accepted"])
        verdict = judge(job, self._run.reference[job.number], followed.outcome, followed.streams)
        stored = self._stored.get(followed.task_id)
        if stored is None:
            verdict.lost = verdict.lost or "it is not in Redis"
        elif stored.token_ids != stored.result_ids and followed.outcome is not None:
            verdict.broken.append("its events in Redis are not its result")
        return verdict

    def _find_duplicates(self) -> list[StoredJob]:
        accepted = set(self._run.accepted_ids)
        return [job for job in self._run.stored if job.job_id not in accepted]

    def _num_choices(self) -> int:
        return sum(len(each.job_ids) * each.group.sampling.n for each in self._run.groups)

    def _num_snapshots(self) -> int:
        streams = [stream for each in self._run.followed for stream in each.streams]
        return sum(stream.num_snapshots > 0 for stream in streams)

    def _gap_text(self, share: float) -> str:
        return f"{percentile([gap.length_s for gap in self._gaps], share):.2f} s"

    def _longest_text(self) -> str:
        longest = self._gaps[0] if self._gaps else Gap(0.0, 0.0)
        during = [f"{each.kind} ({each.target})" for each in self._during(longest)]
        names = ", ".join(during[:MOST_NAMES]) or "no fault"
        more = f" and {len(during) - MOST_NAMES} more" if len(during) > MOST_NAMES else ""
        return f"{longest.length_s:.2f} s, during: {names}{more}"

    def _during(self, gap: Gap) -> list[Injected]:
        found = [each for each in self._run.injected if each.overlaps(*_ends(gap))]
        return sorted(found, key=lambda each: each.start_s)

    def _tell_gap(self, gap: Gap, followed: Followed) -> dict[str, Any]:
        return {
            "job": followed.job.number,
            "task_id": followed.task_id,
            "gap": asdict(gap),
            "length_s": round(gap.length_s, 2),
            "during": [
                f"{each.start_s:.2f} to {each.end_s:.2f} s: {each.kind} ({each.target})"
                for each in self._during(gap)
            ],
        }

    def _fault_lines(self) -> list[str]:
        injected = self._run.injected
        counts = Counter(each.kind for each in injected)
        lines = [f"{'fault':<36} {'count':>5}  longest gap that it overlapped"]
        for kind, count in sorted(counts.items()):
            ours = [each for each in injected if each.kind is kind]
            lengths = [
                gap.length_s
                for gap in self._gaps
                if any(each.overlaps(*_ends(gap)) for each in ours)
            ]
            lines.append(f"{kind:<36} {count:>5}  {max(lengths, default=0.0):.2f} s")
        return lines

    def _tell(self, verdict: Verdict) -> dict[str, Any]:
        [followed] = [each for each in self._run.followed if each.job.number == verdict.number]
        reference = self._run.reference[verdict.number]
        stored = self._stored.get(followed.task_id or "")
        return {
            "verdict": asdict(verdict),
            "job": asdict(followed.job),
            "task_id": followed.task_id,
            "expected": asdict(reference),
            "got": None if followed.outcome is None else asdict(followed.outcome),
            "result": followed.result,
            "watchers": [
                {
                    "text": stream.text,
                    "last_event_id": stream.last_event_id,
                    "end": stream.end,
                    "faults": stream.faults,
                    "arrivals": [(round(a.at_s, 3), a.num_letters) for a in stream.arrivals],
                }
                for stream in followed.streams
            ],
            "notes": followed.notes,
            "record": None if stored is None else stored.fields,
            "events": None if stored is None else stored.events,
        }


def _ends(gap: Gap) -> tuple[float, float]:
    return gap.start_s, gap.end_s


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False, default=str) + "\n")


def first_problems(verdicts: Sequence[Verdict], most: int = 10) -> list[str]:
    """One line for each of the first bad jobs."""
    lines = []
    for verdict in verdicts[:most]:
        reasons = [*([verdict.lost] if verdict.lost else []), *verdict.broken]
        if verdict.tokens:
            reasons.append(f"tokens: {verdict.tokens}")
        lines.append(f"job {verdict.number}: " + "; ".join(reasons))
    return lines
