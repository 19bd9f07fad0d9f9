"""The `baton scorer` commands: train a scorer, score with one, list them. No service is needed."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path

from pydantic import ValidationError

from common.errors import BatonError
from common.infer_request import InferRequest
from common.scorers import check_name, reference
from common.settings import Settings
from worker.scoring.offline import score_prompts, train_scorer
from worker.scoring.quality import Quality
from worker.scoring.score import load_scorer
from worker.scoring.storage import ScorerFiles
from worker.scoring.train import Trained, TrainOptions

FAILED = 1
WRONG_INPUT = 2


def train(
    settings: Settings, *, data: Path, name: str, encoder: str, epochs: int, seed: int
) -> int:
    """Train a scorer and save it; returns the exit status."""

    def run() -> None:
        check_name(name)
        options = TrainOptions(seed=seed, max_epochs=epochs)
        path, trained = train_scorer(settings, data, name, encoder, options)
        _print_result(name, path, trained)

    return _guarded(run)


def score(
    settings: Settings,
    *,
    name: str | None,
    request: str | None,
    prompts: list[str],
    candidates: str,
    batch_size: int,
) -> int:
    """Print scores as JSON, in the form of the API's answer; returns the exit status."""

    def run() -> None:
        if name is None:
            body = _body(sys.stdin.read() if request == "-" else Path(str(request)).read_text())
            models: tuple[str, ...] = body.candidates
        else:
            listed = [each.strip() for each in candidates.split(",") if each.strip()]
            models = tuple(listed)
            body = _checked(
                {
                    "model": reference(check_name(name)),
                    "models_to_score": listed or ["all"],
                    "prompts": prompts,
                    "batch_size": batch_size,
                }
            )
        scores = score_prompts(settings, body.name, models, body.prompts, body.batch_size)
        print(json.dumps({"scores": scores}, ensure_ascii=False, indent=2))

    return _guarded(run)


def list_all(settings: Settings) -> int:
    """Print a line for each scorer; returns the exit status, 1 if one of them cannot be used."""
    files = ScorerFiles(settings.scorers_dir)
    status = 0
    for name in files.names():
        try:
            config = load_scorer(files, name, "cpu").config
        except BatonError as error:
            print(f"{reference(name)}\tbroken: {error.message}")
            status = FAILED
        else:
            print(f"{reference(name)}\t{config.encoder.name}\t{', '.join(config.models)}")
    return status


def _guarded(run: Callable[[], None]) -> int:
    """Run a command; what its user can mend is told without a traceback."""
    try:
        run()
    except BatonError as error:
        return _fail(error.message, FAILED)
    except ValueError as error:
        return _fail(str(error), WRONG_INPUT)
    except OSError as error:
        return _fail(f"{error.filename}: {error.strerror}", FAILED)
    return 0


def _body(text: str) -> InferRequest:
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"the request is no valid JSON: {error}") from error
    return _checked(values)


def _checked(values: object) -> InferRequest:
    try:
        return InferRequest.model_validate(values)
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(map(str, problem["loc"]))
        message = problem["msg"].removeprefix("Value error, ")
        raise ValueError(f"{place}: {message}" if place else message) from None


def _print_result(name: str, path: Path, trained: Trained) -> None:
    parts = trained.num_prompts
    print(f"saved {reference(name)} in {path}")
    print(
        f"prompts: {parts.train} learned from, {parts.validation} to stop by, {parts.test} held "
        f"out; epoch {trained.best.number} of {trained.num_epochs} kept"
    )
    print(f"{'':22}{'scorer':>10}{'best constants':>16}")
    for label, figure in (
        ("ranking accuracy", lambda of: of.ranking_accuracy),
        ("pairs in order", lambda of: of.pairwise_accuracy),
        ("root mean sq. error", lambda of: of.rmse),
        ("mean absolute error", lambda of: of.mae),
    ):
        shown: Callable[[Quality], float] = figure
        print(
            f"{label:22}{_figure(shown(trained.held_out)):>10}"
            f"{_figure(shown(trained.constants)):>16}"
        )


def _figure(value: float) -> str:
    return "n/a" if math.isnan(value) else f"{value:.3f}"


def _fail(message: str, status: int) -> int:
    print(f"baton: {message}", file=sys.stderr)
    return status
