"""The `baton jobs` commands: what an operator asks about the jobs that are stored.

They start nothing and change nothing. Where no REDIS_URL is set they find the server that
`baton up` runs, by what it keeps in DATA_DIR.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from cli.embedded_redis import HOST
from common.connection import connect
from common.errors import RedisUnavailableError, SettingsError
from common.invariants import Checker, Report
from common.settings import Settings

VIOLATED = 1
REDIS_AWAY = 3


def check(settings: Settings) -> int:
    """Check everything in Redis against the invariants, and print what violates them.

    Returns:
        The exit status: 0 if nothing does, `VIOLATED`, or `REDIS_AWAY`.

    Raises:
        SettingsError: Nothing says where Redis is.
    """
    url = settings.redis_url or embedded_url(settings.data_dir)
    try:
        with connect(url) as client:
            report = Checker(client, settings).run()
    except RedisUnavailableError as error:
        _tell_away(settings, error)
        return REDIS_AWAY
    _print(report)
    return VIOLATED if report.violations else 0


def embedded_url(data_dir: Path) -> str:
    """The address of the server that `baton up` has in a data directory, running or not.

    Raises:
        SettingsError: There is none, or this user may not know its password.
    """
    try:
        config = (data_dir / "redis.conf").read_text()
        password = (data_dir / "redis-password").read_text().strip()
    except OSError as error:
        raise SettingsError(
            f"REDIS_URL is not set, and DATA_DIR={data_dir} holds no server of `baton up` that "
            f"can be read: {error.strerror}. Example: REDIS_URL=redis://:password@127.0.0.1:6379/0"
        ) from error
    port = re.search(r"^port (\d+)$", config, re.MULTILINE)
    if port is None:
        raise SettingsError(f"DATA_DIR={data_dir}: redis.conf names no port. Set REDIS_URL instead")
    return f"redis://:{password}@{HOST}:{port[1]}/0"


def _tell_away(settings: Settings, error: RedisUnavailableError) -> None:
    where = "" if settings.redis_url else f" in DATA_DIR={settings.data_dir}; does `baton up` run?"
    print(f"baton: Redis cannot be reached{where}\n  {error.__cause__}", file=sys.stderr)


def _print(report: Report) -> None:
    for violation in report.violations:
        print(violation)
    for note in report.notes:
        print(f"note: {note}")
    count = len(report.violations)
    result = "no violation" if count == 0 else f"{count} violation{'s' * (count > 1)}"
    print(f"{result} in {report.num_jobs} jobs, {report.num_keys} keys")
