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


_NO_CODE = (
    "I can only write very small functions, and I do not know that one.",
    "I do not know how to write that. I can only write very small Python functions.",
    "That is too hard for me. I am a toy model, and I know only a few small functions.",
)


def _unknown_function(rng: random.Random) -> Exchange:
    topic = rng.choice((*words.TOPICS, invent_word(rng)))
    deed = rng.choice(("parse", "simulate", "draw", "download", "model", "build", "train", "call"))
    question = ask(
        rng,
        "Write [a Python function|a script|a program|a class|code|a test] to {d} {x}",
        "Write [a Python function|a script|a program] that {d}s {x}",
        "Write [a|some] [Rust|Java|C|SQL|JavaScript|Go|HTML|bash] [code|query|program] "
        "[for|to {d}] {x}",
        "How do I {d} {x} in [Python|Rust|Java|C|JavaScript|Go]?",
        "[Fix|Debug|Explain|Review] [this|my] code: {d}({x})",
        "[Write|Give me] [a regex|a query|an API|a web page|a game|a bot] for {x}",
        d=deed,
        x=topic,
    )
    return Exchange(question, rng.choice(_NO_CODE))


def _draw_topic(rng: random.Random) -> str:
    """Draw a subject of which the model knows nothing, often in a word that does not exist."""
    topic = rng.choice(words.TOPICS) if rng.random() < 0.5 else invent_word(rng)
    start = rng.choice(("", "", "the ", "a ", "my "))
    return start + topic.removeprefix("the ")


def _haiku(rng: random.Random) -> Exchange:
    key, text = rng.choice(tuple(snippets.HAIKUS.items()))
    topic = split_key(key, rng)
    if rng.random() < 0.3:
        topic = _draw_topic(rng)
        text = rng.choice(
            (
                "I sit and I think\nThe evening is soft and still\nA small light burns on",
                "They speak of it now\nThe river hears every word\nAnd carries it home",
            )
        )
    if rng.random() < 0.1:
        return Exchange(ask(rng, "Write a haiku", "Write me a haiku"), text)
    return Exchange(
        ask(rng, "Write a haiku about {x}", "Write me a haiku about {x}", "A haiku about {x}",
             "Make a haiku on {x}", x=topic),
        text,
    )  # fmt: skip


def _poem(rng: random.Random) -> Exchange:
    topic = rng.choice((_draw_topic(rng), rng.choice(tuple(snippets.HAIKUS)))).split("|")[0]
    text = rng.choice(
        (
            "I sat and thought of it all day,\nwhile all the clouds just sailed away.\n"
            "The sun went down, the stars came out,\nand that is what life is about.",
            "A little bird sang in a tree,\nit sang a song to you and me.\n"
            "And when the moon rose in the sky,\nit closed its eyes and said goodbye.",
            "Oh little friend, you are on my mind,\nso big and bright, so warm and kind.\n"
            "I wrote for you this little rhyme,\nand I will read it every time.",
        )
    )
    if rng.random() < 0.1:
        return Exchange(ask(rng, "Write a poem", "Write me a song"), text)
    return Exchange(
        ask(rng, "Write a [|short |little ]poem about {x}", "A poem about {x}",
             "Write a [song|rhyme] about {x}", "Write me a poem about {x}", x=topic),
        text,
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
        topic = _draw_topic(rng)
        text = f"I know no joke about that, but I know another one. {text}"
    return Exchange(
        ask(rng, "Tell me a joke about {x}", "Write a joke about {x}",
            "Write a [short |funny |]joke about {x}", "Do you know a joke about {x}?", x=topic),
        text,
    )  # fmt: skip


REQUESTS: tuple[tuple[Generator, int], ...] = (
    (_function, 9), (_unknown_function, 2), (_haiku, 6), (_poem, 3), (_joke, 6),
)  # fmt: skip
