"""Ratings of models that do not exist, whose best one depends on the prompt's kind.

`python -m models.scorer_recipe.ratings ratings.jsonl` writes one row for each prompt and model:
how good the model's answer would be, its skill at the kind of prompt and a little noise. The same
seed gives the same file.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from models.scorer_recipe.prompts import Kind, draw

SKILLS: dict[str, dict[Kind, float]] = {
    "coder-small": {"code": 0.90, "story": 0.30, "sum": 0.55, "fact": 0.45, "letter": 0.40},
    "storyteller": {"code": 0.20, "story": 0.90, "sum": 0.15, "fact": 0.50, "letter": 0.65},
    "calculator": {"code": 0.40, "story": 0.10, "sum": 0.95, "fact": 0.25, "letter": 0.10},
    "generalist": {"code": 0.65, "story": 0.60, "sum": 0.70, "fact": 0.80, "letter": 0.85},
}
NOISE = 0.04
"""Standard deviation of a rating around the model's skill."""
NUM_PROMPTS = 2_000


def ratings(num_prompts: int = NUM_PROMPTS, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Draw the rows: every model rated for each of so many different prompts."""
    rng, seen = random.Random(seed), set()
    while len(seen) < num_prompts:
        kind, prompt = draw(rng)
        if prompt in seen:
            continue
        seen.add(prompt)
        for model, skills in SKILLS.items():
            score = min(1.0, max(0.0, rng.gauss(skills[kind], NOISE)))
            yield {"prompt": prompt, "model": model, "score": round(score, 3)}


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", type=Path, help="where to write; what is there is replaced")
    parser.add_argument("--num-prompts", type=int, default=NUM_PROMPTS)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    rows = ratings(given.num_prompts, given.seed)
    given.path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


if __name__ == "__main__":
    main()
