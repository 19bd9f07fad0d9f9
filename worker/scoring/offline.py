"""Training and scoring without a service: the encoder is loaded here, by the settings.

What `baton scorer` does, without the printing of results.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from tqdm import tqdm
from transformers.utils import logging as hf_logging

from common.errors import ScorerError
from common.model_entries import Source
from common.scorers import answer_of
from common.settings import Settings
from worker.engine.embedder import Embedder, load_embedder
from worker.engine.errors import ModelLoadError
from worker.scoring.config import EncoderConfig, NetworkConfig, ScorerConfig
from worker.scoring.ratings import read_ratings
from worker.scoring.report import report_json, report_svg
from worker.scoring.score import load_scorer
from worker.scoring.storage import ScorerFiles
from worker.scoring.train import Epoch, Trained, TrainOptions, train
from worker.scoring.vectors import prompt_vectors
from worker.scoring.weights import new_network, pack

DROPOUT = 0.1
EMBED_BATCH_SIZE = 128


def train_scorer(
    settings: Settings, data: Path, name: str, encoder: str, options: TrainOptions
) -> tuple[Path, Trained]:
    """Train a scorer on a file of ratings, and save it with its report.

    Args:
        settings: SCORERS_DIR, DEVICE and DTYPE count.
        data: See `worker.scoring.ratings`.
        name: Of the scorer; an earlier one of that name is replaced.
        encoder: A hub name or a path, or the bundled model's name.
        options: How to train.

    Returns:
        Where the scorer is, and what training came to.

    Raises:
        RatingsError: The ratings cannot be learned from.
        ScorerError: The encoder cannot be loaded, or the scorer not be saved there.
        OSError: The scorer cannot be written.
    """
    began_s = time.monotonic()
    ratings = read_ratings(data)
    device = _device(settings)
    # Whatever the device, so that scores do not depend on it, or on who else is in a batch.
    dtype = "float32" if settings.dtype == "auto" else settings.dtype
    embedder = _load(encoder, device, dtype)
    with tqdm(total=len(ratings.prompts), desc="embedding", unit=" prompts") as bar:
        vectors_PD = prompt_vectors(
            embedder, ratings.prompts, batch_size=EMBED_BATCH_SIZE, progress=bar.update
        )
    config = ScorerConfig(
        encoder=EncoderConfig(
            name=encoder,
            revision=embedder.revision,
            precision=embedder.precision,
            vector_size=embedder.size,
            context_length=embedder.context_length,
        ),
        models=list(ratings.models),
        network=NetworkConfig(),
    )
    network = new_network(config, DROPOUT).to(device)
    with tqdm(total=options.max_epochs, desc="training", unit=" epochs") as bar:

        def show(epoch: Epoch) -> None:
            bar.set_postfix(loss=epoch.train_loss, validation_rmse=epoch.validation_rmse)
            bar.update()

        trained = train(network, vectors_PD.to(device), ratings, options, show)
    report = {
        "report.json": report_json(name, config, trained, time.monotonic() - began_s),
        "report.svg": report_svg(name, trained),
    }
    files = ScorerFiles(settings.scorers_dir)
    return files.save(name, config, pack(network), report), trained


def score_prompts(
    settings: Settings, name: str, models: Sequence[str], prompts: Sequence[str], batch_size: int
) -> dict[str, list[float]]:
    """Score prompts with a saved scorer, as `POST /infer` does.

    Args:
        settings: SCORERS_DIR and DEVICE count.
        name: Of the scorer.
        models: Candidates; none: all that the scorer knows.
        prompts: At least one.
        batch_size: Prompts that run together, at most.

    Returns:
        The scores of each model, in the order of the prompts.

    Raises:
        ScorerNotFoundError: There is no such scorer.
        InvalidRequestError: The scorer does not know a model, or a prompt has no token.
        ScorerError: The scorer or its encoder cannot be used.
    """
    device = _device(settings)
    scorer = load_scorer(ScorerFiles(settings.scorers_dir), name, device)
    wanted = list(dict.fromkeys(models)) or list(scorer.config.models)
    scorer.check(wanted)
    encoder = scorer.config.encoder
    embedder = _load(encoder.name, device, encoder.precision)
    scorer.check_encoder(embedder.revision)
    vectors_PD = prompt_vectors(embedder, prompts, batch_size=batch_size)
    scores_PM = scorer.score(vectors_PD, wanted, batch_size=batch_size)
    return answer_of(wanted, scores_PM.tolist())


def _device(settings: Settings) -> str:
    if settings.device == "auto":
        return "cuda:0" if torch.cuda.is_available() else "cpu"
    return "cuda:0" if settings.device == "cuda" else settings.device.partition(",")[0]


def _load(encoder: str, device: str, dtype: str) -> Embedder:
    cast(Any, hf_logging).disable_progress_bar()
    try:
        source = Source.of(encoder).location
        return load_embedder(source, device=device, dtype=dtype, progress=_say)
    except ModelLoadError as error:
        raise ScorerError(f"The encoder cannot be loaded: {error}") from error


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
