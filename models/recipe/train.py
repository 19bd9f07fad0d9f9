"""Train the toy model: `python -m models.recipe.train`.

Draws fresh documents for every step, so nothing is read from disk and no text is seen twice by
plan. The same seed on the same machine, with the same number of threads, gives the same weights.

Shape suffixes (this file): B = rows of a batch; T = tokens of a row; N = learned tokens of a batch.
"""

import argparse
import math
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm
from transformers import (
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from models.recipe.corpus import END_OF_TEXT, TURN_END, draw_document
from models.recipe.sample import PROMPTS, complete
from models.recipe.tokenizer import CONTEXT_TOKENS, save_tokenizer, train_tokenizer

BATCH_TOKENS = 4096
WARMUP_STEPS = 40
MATRIX_RATE = 3e-3
OTHER_RATE = 3e-3
NOT_LEARNED = -100
FOLDER = Path(__file__).resolve().parents[1] / "baton-toy"


class Stage(NamedTuple):
    """One run of the rate from its peak down to almost nothing.

    Attributes:
        num_steps: Steps of `BATCH_TOKENS` tokens.
        from_nothing: Whether it begins with short rows and practice in copying.
        peak: Highest rate, as a share of the full one.
        chats: Share of documents that are conversations.
        seed: Seed of its text.
    """

    num_steps: int
    from_nothing: bool
    peak: float
    chats: float
    seed: int


def build_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Make an untrained decoder of about five million parameters.

    Args:
        tokenizer: Gives the vocabulary size and the special ids.

    Returns:
        The model in fp32 on the CPU.
    """
    ends = [tokenizer.vocab[token] for token in (TURN_END, END_OF_TEXT)]
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=256,
        intermediate_size=1024,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=CONTEXT_TOKENS,
        rope_parameters={"rope_type": "default", "rope_theta": 1000.0},
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=ends,
        pad_token_id=ends[1],
    )
    model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        eos_token_id=ends, pad_token_id=ends[1], do_sample=True, temperature=0.7, top_p=0.9
    )
    return model


def draw_rows(
    tokenizer: PreTrainedTokenizerFast,
    rng: random.Random,
    num_tokens: int,
    drills: float,
    chats: float,
) -> Iterator[tuple[list[int], list[int]]]:
    """Draw rows of packed documents, for ever.

    Each row begins with the begin of a document, as every request to the model does; the document
    that no longer fits is cut.

    Args:
        tokenizer: Turns the segments into ids.
        rng: Source of the documents.
        num_tokens: Length T of each row.
        drills: Share of documents that only practice copying.
        chats: Share of the others that are conversations.

    Yields:
        The ids of a row and its labels, where a token that is only read has `NOT_LEARNED`.
    """
    core = tokenizer.backend_tokenizer
    while True:
        ids: list[int] = []
        labels: list[int] = []
        while len(ids) < num_tokens:
            for text, learned in draw_document(
                rng, long=num_tokens == CONTEXT_TOKENS, drills=drills, chats=chats
            ):
                part = core.encode(text).ids
                ids += part
                labels += part if learned else [NOT_LEARNED] * len(part)
        yield ids[:num_tokens], labels[:num_tokens]


def compute_loss(model: LlamaForCausalLM, ids_BT: Tensor, labels_BT: Tensor) -> Tensor:
    """Measure how badly the model predicts the learned tokens.

    Args:
        model: The model, which this operation will not modify.
        ids_BT: int64 token ids.
        labels_BT: int64 labels, `NOT_LEARNED` where a token does not count.

    Returns:
        Mean cross entropy in nats, a scalar in fp32.
    """
    with torch.autocast("cpu", torch.bfloat16):
        hidden_BTD = model.model(input_ids=ids_BT, use_cache=False).last_hidden_state
        # The head is a sixth of the work, so it sees only the positions that count.
        counts_BT = labels_BT[:, 1:] != NOT_LEARNED
        logits_NV = model.lm_head(hidden_BTD[:, :-1][counts_BT])
    return functional.cross_entropy(logits_NV.float(), labels_BT[:, 1:][counts_BT])


def make_optimizers(model: LlamaForCausalLM, peak: float) -> list[torch.optim.Optimizer]:
    """Give the matrices of the layers to Muon, and embeddings and norms to AdamW.

    Args:
        model: Whose parameters shall be trained.
        peak: Share of the full rates, in (0, 1].

    Returns:
        Two optimizers at these rates.

    Source:
        Jordan et al. 2024, Muon (https://kellerjordan.github.io/posts/muon/).
    """
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    return [
        torch.optim.Muon(
            matrices, lr=peak * MATRIX_RATE, weight_decay=0.02, adjust_lr_fn="match_rms_adamw"
        ),
        torch.optim.AdamW(others, lr=peak * OTHER_RATE, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def choose_width(stage: Stage, step: int) -> int:
    """Choose how long the rows of a step are: short ones first, as they teach copying soonest.

    Args:
        stage: The stage of the step.
        step: From 0, within the stage.

    Returns:
        Tokens of a row.
    """
    done = step / stage.num_steps
    if stage.from_nothing and done < 0.16:
        return 128
    if stage.from_nothing and done < 0.7:
        return 256
    return CONTEXT_TOKENS if step % 4 == 3 else 512


def scale_rate(step: int, num_steps: int) -> float:
    """Compute the share of the full learning rate: a short warm-up, then half a cosine.

    Args:
        step: From 0.
        num_steps: Steps of the whole stage.

    Returns:
        A factor from just above 0 to 1.
    """
    if step < WARMUP_STEPS:
        return (step + 1) / WARMUP_STEPS
    done = (step - WARMUP_STEPS) / max(1, num_steps - WARMUP_STEPS)
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done))


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write the model in bf16 and its tokenizer.

    Args:
        model: Its weights, which this operation will not modify.
        tokenizer: Goes into the same folder.
        folder: Where to; made when absent.
    """
    save_tokenizer(tokenizer, folder)
    small = LlamaForCausalLM(model.config)
    small.load_state_dict(model.state_dict())
    small.generation_config = model.generation_config
    torch.nn.Module.to(small, torch.bfloat16)
    small.save_pretrained(str(folder))


def run_stage(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, stage: Stage
) -> Iterator[int]:
    """Train through one stage, with a progress bar, a loss and samples.

    Args:
        model: Its weights change with every step.
        tokenizer: Turns documents into ids.
        stage: What to do.

    Yields:
        How many steps are done, after each.
    """
    optimizers = make_optimizers(model, stage.peak)
    rates = [optimizer.param_groups[0]["lr"] for optimizer in optimizers]
    rows = {
        width: draw_rows(tokenizer, random.Random(stage.seed + width), width, drills, stage.chats)
        for width, drills in ((128, 0.8), (256, 0.1), (512, 0.06), (CONTEXT_TOKENS, 0.04))
    }
    recent, began = 0.0, time.monotonic()
    bar = tqdm(range(stage.num_steps), unit="step", smoothing=0.05)
    for step in bar:
        width = choose_width(stage, step)
        batch = [next(rows[width]) for _ in range(BATCH_TOKENS // width)]
        loss = compute_loss(
            model, torch.tensor([ids for ids, _ in batch]), torch.tensor([row for _, row in batch])
        )
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, rate in zip(optimizers, rates, strict=True):
            optimizer.param_groups[0]["lr"] = rate * scale_rate(step, stage.num_steps)
            optimizer.step()
            optimizer.zero_grad()
        recent = loss.item() if step == 0 else 0.97 * recent + 0.03 * loss.item()
        bar.set_postfix(loss=f"{recent:.3f}", refresh=False)
        if (step + 1) % 200 == 0 or step + 1 == stage.num_steps:
            prompt = PROMPTS[(step // 200) % len(PROMPTS)]
            answer = complete(model, tokenizer, prompt, max_tokens=60)
            rate = (step + 1) * BATCH_TOKENS / (time.monotonic() - began)
            bar.write(f"step {step + 1}: loss {recent:.3f}, {rate:,.0f} tokens/s")
            bar.write(f"  {prompt} -> {answer}")
        yield step + 1


def train(first: int, second: int, folder: Path, seed: int, save_every: int) -> None:
    """Train from nothing in two stages and write the model after each.

    The second stage begins with what the first one wrote, so it can also be run alone.

    Args:
        first: Steps of the stage from nothing; 0 to go on from the model in `folder`.
        second: Steps of the stage on long rows with more conversations.
        folder: Where the model goes.
        seed: Seed of the weights and of the text.
        save_every: Steps between two checkpoints, each over the last; 0 for none.
    """
    stages = (
        Stage(first, from_nothing=True, peak=1.0, chats=0.62, seed=seed),
        Stage(second, from_nothing=False, peak=0.5, chats=0.75, seed=seed + 10_000),
    )
    torch.manual_seed(seed)
    for stage in stages:
        if stage.num_steps == 0:
            continue
        if stage.from_nothing:
            tokenizer = train_tokenizer(seed)
            model = build_model(tokenizer)
            print(f"{sum(p.numel() for p in model.parameters()):,} parameters")
        else:
            tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
            model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
        for num_done in run_stage(model, tokenizer, stage):
            if num_done == stage.num_steps or (save_every and num_done % save_every == 0):
                save(model, tokenizer, folder)


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(description="Train the toy model that ships with Baton.")
    parser.add_argument("--steps", type=int, default=1150, help="steps from nothing; 0: go on")
    parser.add_argument("--more-steps", type=int, default=2700, help="steps of the second stage")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder of the model")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2, help="CPU threads; part of the seed")
    parser.add_argument("--save-every", type=int, default=0, help="steps between checkpoints")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    train(args.steps, args.more_steps, args.out, args.seed, args.save_every)


if __name__ == "__main__":
    main()
