"""The `baton` command: `up`, `api` and `worker` with a flag for every setting; `jobs`, `scorer`.

It reads flags and prints errors; what a command does is in the module that it calls.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from cli import scorer_flags
from common import __version__
from common.errors import EmbeddedRedisError, SettingsError
from common.settings import Settings, load_settings, to_text, unknown_names_in_env_file

WRONG_SETTING = 2

Command = Callable[..., int]
"""Takes the settings, and the options that are no settings by their names."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: Without the program's name; None takes the process's.

    Returns:
        The exit status: 2 for a wrong setting, which a supervisor takes as "do not try again".
    """
    given = vars(_parser().parse_args(arguments))
    command: Command = given.pop("command")
    # What `baton up` has said its children do not say again.
    for warning in [] if given.pop("child", False) else unknown_names_in_env_file():
        print(f"baton: {warning}", file=sys.stderr)
    options = {name: given.pop(name) for name in set(given) - set(Settings.model_fields)}
    try:
        # An empty flag is as unset as an empty variable.
        settings = load_settings(**{name: value for name, value in given.items() if value})
        return command(settings, **options)
    except SettingsError as error:
        return _fail("wrong setting", error.message)
    except EmbeddedRedisError as error:
        return _fail("the embedded Redis cannot be started", error.message)
    except KeyboardInterrupt:
        return 130


# Each command loads its own packages: the gateway has no worker in its image, and no command
# waits for what another one needs.


def _up(settings: Settings) -> int:
    from cli import up

    return up.run(settings)


def _api(settings: Settings) -> int:
    _need_redis("api", settings)
    from api import server

    server.run(settings)
    return 0


def _worker(settings: Settings) -> int:
    _need_redis("worker", settings)
    from worker import launcher

    return launcher.run(settings)


def _jobs_check(settings: Settings) -> int:
    from cli import jobs

    return jobs.check(settings)


def _need_redis(command: str, settings: Settings) -> None:
    if settings.redis_url is None:
        raise SettingsError(
            f"REDIS_URL: `baton {command}` needs a Redis server; only `baton up` runs its own. "
            "Example: REDIS_URL=redis://:password@127.0.0.1:6379/0"
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="baton",
        allow_abbrev=False,
        description="A queue-backed LLM inference service.",
        epilog="Every flag is also a setting: --model-name is MODEL_NAME in the environment or in "
        ".env. A flag beats the environment, which beats .env.",
    )
    parser.add_argument("--version", action="version", version=f"baton {__version__}")
    commands = parser.add_subparsers(required=True, metavar="command")
    for name, command, summary in (
        ("up", _up, "run everything: Redis where REDIS_URL is empty, a worker and the gateway"),
        ("api", _api, "run the gateway alone"),
        ("worker", _worker, "run the workers alone, one process per device"),
    ):
        subparser = _add_command(commands, name, command, summary, Settings.model_fields)
        subparser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    summary = "look at the jobs of a service"
    jobs = commands.add_parser("jobs", allow_abbrev=False, help=summary, description=summary)
    _add_command(
        jobs.add_subparsers(required=True, metavar="command"),
        "jobs check",
        _jobs_check,
        "check all that is stored in Redis: exit status 0 if it is as it should be, 1 if not, "
        "3 if Redis is away",
        ("redis_url", "data_dir", "lease_s", "result_ttl_s", "stream_grace_s"),
    )
    summary = "train networks that tell which model answers a prompt best, and try them"
    scorer = commands.add_parser("scorer", allow_abbrev=False, help=summary, description=summary)
    scorer_flags.add(scorer.add_subparsers(required=True, metavar="command"), _add_command)
    return parser


def _add_command(
    commands: Any, name: str, command: Command, summary: str, settings: Iterable[str]
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name.rpartition(" ")[2],
        allow_abbrev=False,
        usage=f"baton {name} [--SETTING VALUE ...]",
        help=summary,
        description=f"{name}: {summary}",
    )
    parser.set_defaults(command=command)
    _add_settings(parser, settings)
    return parser


def _add_settings(parser: argparse.ArgumentParser, names: Iterable[str]) -> None:
    """One flag a setting. Values stay text: Settings alone says what is right."""
    for name in names:
        field = Settings.model_fields[name]
        default = to_text(field.get_default()) or "none"
        help_text = f"{field.description} (default: {default})".replace("%", "%%")
        flag = "--" + name.replace("_", "-")
        if field.annotation is bool:
            # `--log-prompts` and `--log-prompts=false`.
            parser.add_argument(
                flag,
                nargs="?",
                const="true",
                default=argparse.SUPPRESS,
                metavar="true|false",
                help=help_text,
            )
        else:
            parser.add_argument(
                flag, default=argparse.SUPPRESS, metavar=name.upper(), help=help_text
            )


def _fail(what: str, message: str) -> int:
    print(
        f"baton: {what}", *(f"  {line}" for line in message.splitlines()), sep="\n", file=sys.stderr
    )
    return WRONG_SETTING


if __name__ == "__main__":
    sys.exit(main())
