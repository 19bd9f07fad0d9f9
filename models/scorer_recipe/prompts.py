"""Seeded prompts of five kinds, each with the kind that it is of.

Knows nothing about models or ratings.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Literal

from models.recipe import facts, snippets, words
from models.recipe.exchange import ask, split_key

Kind = Literal["code", "story", "sum", "fact", "letter"]


def draw(rng: random.Random) -> tuple[Kind, str]:
    """Draw a kind, each as often as the others, and a prompt of it."""
    kind, generator = rng.choice(_GENERATORS)
    return kind, generator(rng)


def _code(rng: random.Random) -> str:
    lot = rng.random()
    if lot < 0.5:
        task = split_key(rng.choice(tuple(snippets.FUNCTIONS)), rng)
        return ask(
            rng,
            "Write [a Python|a JavaScript|a Go|a] function: {x}",
            "How do I {x} in [Python|Java|Rust|C]?",
            "[Give me|Show me] [code|a snippet] to {x}",
            "{x} in [Python|SQL|bash|C++]",
            x=task,
        )
    if lot < 0.75:
        start = ask(
            rng,
            "[Fix|Debug|Explain|Review] this code:",
            "Why does this fail?",
            "Write a [unit |]test for",
        )
        return f"{start}\n{rng.choice(tuple(snippets.FUNCTIONS.values()))}"
    return ask(
        rng,
        "Write a [script|class|query|regex|program] that [parses|sorts|downloads|stores] {x}",
        "[My|The] [loop|function|import|query] for {x} raises an error",
        "[Refactor|Optimize] the [class|method|module] that handles {x}",
        x=rng.choice(words.TOPICS),
    )


def _story(rng: random.Random) -> str:
    who = f"a {rng.choice(words.ADJECTIVES)} {rng.choice(words.ANIMALS)}"
    return ask(
        rng,
        "Tell me a [|short |long |funny ]story about {w}",
        "Once upon a time there was {w} named {n}",
        "Write a [|bedtime |fairy ]tale in which {w} meets {n}",
        "Go on with the story: {n} walked into the {p} and saw {w}",
        "Invent an adventure of {n} and {w} in the {p}",
        "Make up a tale of {w} who was {s}",
        w=who,
        n=rng.choice((*words.BOY_NAMES, *words.GIRL_NAMES, *words.PET_NAMES)),
        p=rng.choice(("forest", "castle", "village", "garden", "old house", "mountains", "sea")),
        s=rng.choice(words.SAD),
    )


def _sum(rng: random.Random) -> str:
    a, b = rng.randint(2, 999), rng.randint(2, 99)
    return ask(
        rng,
        "What is {a} [plus|minus|times|+|-|*|/|divided by] {b}?",
        "{a} [+|-|*|x|/] {b} [= ?|=|]",
        "[Calculate|Compute|Solve] {a} [+|-|*|/] {b}",
        "{n} has {a} {f} and [gets|buys|finds|loses|eats] {b}. How many are left?",
        "How much is {b} percent of {a}?",
        "A train goes {a} km in {b} hours. How fast is it?",
        a=str(a),
        b=str(b),
        n=rng.choice((*words.BOY_NAMES, *words.GIRL_NAMES)),
        f=rng.choice(words.FRUITS),
    )


def _fact(rng: random.Random) -> str:
    if rng.random() < 0.3:
        country, _ = rng.choice(facts.CAPITALS)
        return ask(rng, "What is the capital of {x}?", "Which city is {x}'s capital?", x=country)
    return ask(
        rng,
        "What is {x}?",
        "Explain {x}[| in simple terms| to me]",
        "Tell me something about {x}",
        "How does {x} work?",
        "Why [is|was] {x} important?",
        "Who [discovered|invented] {x}?",
        x=rng.choice((*facts.FACTS, *words.TOPICS)),
    )


def _letter(rng: random.Random) -> str:
    return ask(
        rng,
        "Write [an email|a letter|a message] to [my boss|my landlord|a customer|{n}] about {x}",
        "Draft a [polite |short |formal |]reply to {n}, who [complains|asks] about {x}",
        "[Reword|Proofread|Shorten|Translate] this [email|letter]: Dear {n}, thank you for {x}.",
        "Write an invitation to {n} for [my birthday|our wedding|the meeting on {x}]",
        "[Apologize|Say thank you] to {n} in [an email|a letter] because of {x}",
        n=rng.choice((*words.OTHER_BOY_NAMES, *words.OTHER_GIRL_NAMES)),
        x=rng.choice(words.TOPICS),
    )


_GENERATORS: tuple[tuple[Kind, Callable[[random.Random], str]], ...] = (
    ("code", _code),
    ("story", _story),
    ("sum", _sum),
    ("fact", _fact),
    ("letter", _letter),
)
