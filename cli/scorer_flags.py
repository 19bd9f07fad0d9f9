"""The flags of the `baton scorer` commands, without what these need to run."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common.model_entries import BUNDLED_MODEL
from common.scorers import DEFAULT_BATCH_SIZE, MAX_BATCH_SIZE
from common.settings import Settings

AddCommand = Callable[..., argparse.ArgumentParser]


def add(commands: Any, add_command: AddCommand) -> None:
    """Add `train`, `score` and `list`.

    Args:
        commands: The subparsers.
        add_command: Adds one, with its settings.
    """
    _add_train(commands, add_command)
    _add_score(commands, add_command)
    add_command(
        *(commands, "scorer list", _list, "list the scorers in SCORERS_DIR and those that ship"),
        ("scorers_dir",),
    )


def _add_train(commands: Any, add_command: AddCommand) -> None:
    parser = add_command(
        *(commands, "scorer train", _train, "train a scorer on rated answers, and save it"),
        ("scorers_dir", "device", "dtype"),
    )
    parser.usage = "baton scorer train --data RATINGS.jsonl --name NAME [...]"
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        metavar="RATINGS.jsonl",
        help="a row for each rated answer: prompt, model, and score from 0 to 1; - reads "
        "them from stdin",
    )
    parser.add_argument("--name", required=True, help="of the scorer; one of that name is replaced")
    parser.add_argument(
        "--encoder",
        default=BUNDLED_MODEL,
        metavar="MODEL",
        help="whose vectors of the prompts the scorer reads: a hub name or a path (default: "
        f"{BUNDLED_MODEL})",
    )
    parser.add_argument("--epochs", type=_positive, default=200, help="at most (default: 200)")
    parser.add_argument("--seed", type=int, default=0, help="of all that is drawn (default: 0)")


def _add_score(commands: Any, add_command: AddCommand) -> None:
    parser = add_command(
        *(commands, "scorer score", _score, "print the scores that POST /infer would give"),
        ("scorers_dir", "device"),
    )
    parser.usage = (
        "baton scorer score --name NAME --prompt TEXT [--prompt TEXT ...] [--models A,B] [...]\n"
        "       baton scorer score --request BODY.json"
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--name", help="of the scorer")
    what.add_argument(
        "--request", metavar="BODY.json", help="the body of a POST /infer; - reads it from stdin"
    )
    parser.add_argument("--prompt", dest="prompts", action="append", default=[], metavar="TEXT")
    parser.add_argument(
        "--models",
        dest="candidates",  # MODELS is a setting
        default="",
        metavar="A,B",
        help="candidates, separated by commas (default: all that the scorer knows)",
    )
    parser.add_argument(
        "--batch-size",
        type=int,
        default=DEFAULT_BATCH_SIZE,
        help=f"prompts that run together, 1 to {MAX_BATCH_SIZE} (default: {DEFAULT_BATCH_SIZE})",
    )


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1; got {number}")
    return number


# Torch is loaded by the commands alone, and not by other ones or for `--help`.


def _train(settings: Settings, **options: Any) -> int:
    from cli import scorer

    return scorer.train(settings, **options)


def _score(settings: Settings, **options: Any) -> int:
    from cli import scorer

    return scorer.score(settings, **options)


def _list(settings: Settings) -> int:
    from cli import scorer

    return scorer.list_all(settings)
