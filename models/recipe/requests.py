"""Seeded requests to write something: a function, a haiku, a poem, a joke.

Where the subject is not in `snippets`, a few open texts take it up by name.
"""

import random

from models.recipe import snippets, words
from models.recipe.cast import invent_word
from models.recipe.exchange import Exchange, Generator, ask, split_key


def _function(rng: random.Random) -> Exchange:
    key, code = rng.choice(tuple(snippets.FUNCTIONS.items()))
    task = split_key(key, rng)
    verb_s = task.split()[0] in ("reverses", "adds", "multiplies", "subtracts")
    question = ask(
        rng,
        "Write a [Python |]function that {x}" if verb_s else "Write a Python function to {x}",
        "Write [|Python ]code that {x}" if verb_s else "Write [|Python ]code to {x}",
        "Write a function that {x}" if verb_s else "How do I {x} in Python?",
        "Give me a Python function that {x}" if verb_s else "Show me how to {x} in Python",
        x=task,
    )
    start = rng.choice(("Here is a small function:", "Here is the function:"))
    return Exchange(question, f"{start}\n\n```python\n{code}\n```")


def _unknown_function(rng: random.Random) -> Exchange:
    topic = rng.choice((*words.TOPICS, invent_word(rng)))
    deed = rng.choice(("parse", "simulate", "draw", "download", "model", "build", "train", "call"))
    question = ask(
        rng,
        "Write [a Python function|a script|a program|a class|code|a test] to {d} {x}",
        "Write [a Python function|a script|a program] that {d}s {x}",
        d=deed,
        x=topic,
    )
    answer = "I can only write very small functions, and I do not know how to {d} {x}."
    return Exchange(question, answer.replace("{d}", deed).replace("{x}", topic))


def _haiku(rng: random.Random) -> Exchange:
    key, text = rng.choice(tuple(snippets.HAIKUS.items()))
    topic = split_key(key, rng)
    if rng.random() < 0.3:
        topic = rng.choice((*words.TOPICS, invent_word(rng)))
        text = rng.choice(
            (
                "I think of {x}\nThe evening is soft and still\nA small light burns on",
                "They speak of {x}\nThe river hears every word\nAnd carries it home",
            )
        ).replace("{x}", topic)
    if rng.random() < 0.1:
        return Exchange(ask(rng, "Write a haiku", "Write me a haiku"), text)
    return Exchange(
        ask(rng, "Write a haiku about {x}", "Write me a haiku about {x}", "A haiku about {x}",
             "Make a haiku on {x}", x=topic),
        text,
    )  # fmt: skip


def _poem(rng: random.Random) -> Exchange:
    topic = rng.choice((*words.TOPICS, *snippets.HAIKUS, invent_word(rng))).split("|")[0]
    text = rng.choice(
        (
            "I sat and thought of {x} all day,\nwhile all the clouds just sailed away.\n"
            "The sun went down, the stars came out,\nand that is what life is about.",
            "A little bird sang in a tree,\nit sang of {x} to you and me.\n"
            "And when the moon rose in the sky,\nit closed its eyes and said goodbye.",
            "Oh {x}, you are on my mind,\nso big and bright, so warm and kind.\n"
            "I wrote for you this little rhyme,\nand I will read it every time.",
        )
    )
    if rng.random() < 0.1:
        return Exchange(ask(rng, "Write a poem", "Write me a song"), text.replace("{x}", "you"))
    return Exchange(
        ask(rng, "Write a [|short |little ]poem about {x}", "A poem about {x}",
             "Write a [song|rhyme] about {x}", "Write me a poem about {x}", x=topic),
        text.replace("{x}", topic),
    )  # fmt: skip


def _joke(rng: random.Random) -> Exchange:
    key, text = rng.choice(tuple(snippets.JOKES.items()))
    lot = rng.random()
    if lot < 0.3:
        return Exchange(
            ask(rng, "Tell me a joke", "Write a joke", "Do you know a joke?", "Make me laugh",
                 "Another joke"),
            text,
        )  # fmt: skip
    topic = split_key(key, rng)
    if lot > 0.75:
        topic = rng.choice((*words.TOPICS, invent_word(rng)))
        text = rng.choice(
            (
                "Why did {x} cross the road? To get to the other side!",
                "What did {x} say to the moon? You look bright tonight!",
                "Knock, knock. Who is there? It is {x}. And who asked for it? You did!",
            )
        ).replace("{x}", topic)
    return Exchange(
        ask(rng, "Tell me a joke about {x}", "Write a joke about {x}",
            "Write a [short |funny |]joke about {x}", "Do you know a joke about {x}?", x=topic),
        text,
    )  # fmt: skip


REQUESTS: tuple[tuple[Generator, int], ...] = (
    (_function, 9), (_unknown_function, 2), (_haiku, 6), (_poem, 3), (_joke, 6),
)  # fmt: skip
