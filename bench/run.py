"""Run every benchmark and write `bench/RESULTS.md`: `make bench`."""

from __future__ import annotations

import os
import platform
import tempfile
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from bench import engine, failover, gateway_start, prefix_cache, request
from bench.measure import Comparison
from tests.e2e.service import Service
from tests.redis_server import RedisServer

RESULTS = Path(__file__).parent / "RESULTS.md"
NOTES = "## Notes"
"""What comes from here on in the results is written by hand, and kept."""
PACKAGES = ("torch", "transformers", "fastapi", "uvicorn", "celery", "redis")


def main() -> None:
    """Measure, print and write."""
    with tempfile.TemporaryDirectory() as folder:
        parts = [_gateway_start(Path(folder)), _request(Path(folder)), prefix_cache.run()]
        table = _table(parts)
    table += f"\n{failover.run()}"
    table += f"\n{engine.run(engine.parse([]))}"
    _, notes, text = RESULTS.read_text().partition(NOTES)
    RESULTS.write_text(f"{table.rstrip()}\n\n{notes}{text}" if notes else table)
    print(table)


def _gateway_start(folder: Path) -> Comparison:
    redis = RedisServer(folder)
    redis.start()
    try:
        return gateway_start.run(redis, str(folder))
    finally:
        redis.stop()


def _request(folder: Path) -> Comparison:
    service = Service(folder)
    service.start()
    try:
        service.wait_until_ready()
        return request.run(service)
    finally:
        service.stop()


def _table(comparisons: list[Comparison]) -> str:
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    lines = [
        "# Results",
        "",
        f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores ({platform.machine()}), "
        f"Python {platform.python_version()}, {versions}.",
        "",
        "Both sides were measured in turn in one run. Medians, with the range in brackets; the",
        "ratio is the median of the rounds' ratios, below 1 where we are faster.",
        "",
        "| what | ours | against | theirs | ratio |",
        "| --- | --- | --- | --- | --- |",
        *(comparison.row() for comparison in comparisons),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
