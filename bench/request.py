"""One request of 50 tokens through the whole stack, against `generate` in this process."""

from __future__ import annotations

import time

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from bench.measure import Comparison, alternate
from common.model_entries import BUNDLED_DIR
from tests.e2e.service import Service

NUM_TOKENS = 50
NUM_ROUNDS = 40
PROMPT = "Once upon a time"


def run(service: Service) -> Comparison:
    """Greedy, on the bundled model, one request at a time; seconds a request."""
    tokenizer = AutoTokenizer.from_pretrained(BUNDLED_DIR)
    model = AutoModelForCausalLM.from_pretrained(BUNDLED_DIR, dtype=torch.float32)
    torch.set_num_threads(1)
    inputs = tokenizer(PROMPT, return_tensors="pt")
    body = {
        "prompt": PROMPT,
        "raw": True,
        "max_tokens": NUM_TOKENS,
        "temperature": 0,
        "ignore_eos": True,
    }

    with service.http() as http:

        def through_the_stack() -> float:
            began = time.perf_counter()
            answer = http.post("/generate", json=body, headers={"Prefer": "wait=30"})
            took = time.perf_counter() - began
            assert answer.json()["num_generated"] == NUM_TOKENS, answer.text
            return took

        def in_process() -> float:
            began = time.perf_counter()
            limits = {"max_new_tokens": NUM_TOKENS, "min_new_tokens": NUM_TOKENS}
            with torch.inference_mode():
                model.generate(**inputs, **limits, do_sample=False)
            return time.perf_counter() - began

        return alternate(
            f"a request of {NUM_TOKENS} tokens",
            through_the_stack,
            "`generate` in one process",
            in_process,
            unit="s",
            rounds=NUM_ROUNDS,
        )
