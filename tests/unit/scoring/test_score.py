"""Scores do not depend on batches; long prompts are cut; the encoder has to be the trained one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models

from common.errors import InvalidRequestError, ScorerError
from common.scorers import MAX_TOKEN_CHARS, prompt_ids
from tests.tiny_embedder import CLS, FAMILIES, POSITIONS, SEP, write_tiny_embedder
from worker.engine.embedder import Embedder, load_embedder
from worker.scoring import score as module
from worker.scoring.config import EncoderConfig, ScorerConfig
from worker.scoring.score import Scorer
from worker.scoring.vectors import prompt_vectors
from worker.scoring.weights import new_network

MODELS = ["m0", "m1", "m2"]
PROMPTS = [("ab " * (1 + 7 * i % 17)) + str(i) for i in range(40)]


@pytest.fixture(scope="module", params=FAMILIES)
def embedder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Embedder:
    path = write_tiny_embedder(tmp_path_factory.mktemp(request.param), request.param)
    return load_embedder(str(path), device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Embedder:
    path = write_tiny_embedder(tmp_path_factory.mktemp("bert"))
    return load_embedder(str(path), device="cpu", dtype="float32")


def scorer_for(embedder: Embedder) -> Scorer:
    config = ScorerConfig(
        encoder=EncoderConfig(
            name="tiny",
            revision=embedder.revision,
            precision="float32",
            vector_size=embedder.size,
            context_length=embedder.context_length,
        ),
        models=MODELS,
    )
    torch.manual_seed(0)
    return Scorer("tiny", config, new_network(config).eval())


def test_batches_of_1_and_of_1024_agree(embedder: Embedder) -> None:
    scorer = scorer_for(embedder)
    found = [
        scorer.score(prompt_vectors(embedder, PROMPTS, batch_size=n), MODELS, batch_size=n)
        for n in (1, 7, 1024)
    ]
    assert found[0].shape == (len(PROMPTS), len(MODELS))
    assert float(found[0].std()) > 1e-3  # they do differ
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], atol=1e-5, rtol=0)


def test_scores_follow_the_order_of_models_and_of_prompts(bert: Embedder) -> None:
    scorer = scorer_for(bert)
    vectors = prompt_vectors(bert, PROMPTS, batch_size=8)
    whole = scorer.score(vectors, MODELS, batch_size=8)
    part = scorer.score(vectors[[5, 2]], ["m2", "m0"], batch_size=8)
    torch.testing.assert_close(part, whole[[5, 2]][:, [2, 0]])


def test_many_pairs_are_computed_in_pieces(bert: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
    scorer, vectors = scorer_for(bert), prompt_vectors(bert, PROMPTS, batch_size=8)
    whole = scorer.score(vectors, MODELS, batch_size=1024)
    monkeypatch.setattr(module, "MAX_PAIRS", 2)  # fewer than one prompt's
    torch.testing.assert_close(scorer.score(vectors, MODELS, batch_size=1024), whole)


def test_a_long_prompt_is_cut_at_its_end_and_keeps_the_special_tokens(bert: Embedder) -> None:
    tokenizer = bert.tokenizer.backend_tokenizer
    long, other = "a" * 500, "a" * 300 + "b" * 200
    ids = prompt_ids(tokenizer, [long, other, "a"], bert.context_length)
    assert bert.context_length == POSITIONS
    assert [len(row) for row in ids] == [POSITIONS, POSITIONS, 3]
    assert ids[0] == ids[1]  # what differs is behind the cut
    assert (ids[0][0], ids[0][-1]) == (CLS, SEP)
    vectors = prompt_vectors(bert, [long, other], batch_size=2)
    torch.testing.assert_close(vectors[0], vectors[1])


def test_short_prompts_are_encoded_as_for_embeddings(embedder: Embedder) -> None:
    tokenizer = embedder.tokenizer.backend_tokenizer
    expected = [tuple(each.ids) for each in tokenizer.encode_batch(PROMPTS[:5])]
    assert list(prompt_ids(tokenizer, PROMPTS[:5], embedder.context_length)) == expected


def test_of_a_prompt_no_more_is_encoded_than_could_be_read(bert: Embedder) -> None:
    lengths: list[int] = []

    class Counting:
        def __init__(self, tokenizer: Tokenizer) -> None:
            self._tokenizer = tokenizer

        def __getattr__(self, name: str) -> Any:
            return getattr(self._tokenizer, name)

        def encode_batch(self, texts: list[str], **options: Any) -> Any:
            lengths.extend(map(len, texts))
            return self._tokenizer.encode_batch(texts, **options)

    tokenizer: Any = Counting(bert.tokenizer.backend_tokenizer)
    [ids] = prompt_ids(tokenizer, ["a" * 1_000_000], 10)
    assert lengths == [10 * MAX_TOKEN_CHARS]
    assert len(ids) == 10


def test_a_prompt_without_a_token_is_told_by_its_index(tmp_path: Path) -> None:
    bare = Tokenizer(models.BPE(vocab={"a": 0}, merges=[]))
    with pytest.raises(InvalidRequestError, match=r"prompts\[1\] has no token"):
        prompt_ids(bare, ["a", "zz"], 8)


def test_another_revision_of_the_encoder_is_refused(bert: Embedder) -> None:
    scorer = scorer_for(bert)
    assert scorer.check_encoder(bert.revision) is scorer
    with pytest.raises(ScorerError, match="trained with another revision of its encoder 'tiny'"):
        scorer.check_encoder("0" * 64 + "+mean+normalize")


def test_an_unknown_candidate_is_told_with_the_known_ones(bert: Embedder) -> None:
    with pytest.raises(InvalidRequestError, match=r"knows: 'm0', 'm1', 'm2'; got 'gpt'") as caught:
        scorer_for(bert).check(["m1", "gpt"])
    assert caught.value.param == "models_to_score"
