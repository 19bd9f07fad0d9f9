"""Practice in copying, which stories need: words said again, and short sentences about a name.

Knows nothing about stories, chat messages or tokens.
"""

import random

from models.recipe import words
from models.recipe.cast import invent_name, invent_word
from models.recipe.grammar import expand

_OTHER_NAMES = words.OTHER_BOY_NAMES + words.OTHER_GIRL_NAMES
_GIVEN = (" were friends.", " went home.", ".")
_ROWS = (
    "{name} was {adj}.", "Then {name} went home.", '"Hello, {name}!" said the {adj} king.',
    '"Thank you," said {name}.', '"{name}, where are you?"', "Everybody liked {name}.",
    "{name} and the {adj} dog played.", "So {name} sang a song.", "The dog saw {name}.",
    '"I am {name}," said {name}.', "That night, {name} slept very well.", "{name} smiled.",
)  # fmt: skip


def draw_words(rng: random.Random) -> tuple[str, str]:
    """Draw words in no order, said again and again.

    A bar comes before each repeat: bare words alone shall begin a story, not an echo.

    Args:
        rng: Source of the draws.

    Returns:
        What is given, and how it goes on.
    """
    pool = (words.THINGS, words.ANIMALS, words.BOY_NAMES, words.GIRL_NAMES, words.PET_NAMES)
    drawn = [
        invent_word(rng) if rng.random() < 0.3 else rng.choice(rng.choice(pool))
        for _ in range(rng.randint(3, 14))
    ]
    text = " ".join(drawn)
    return f"{text} |", f" {text} |" * rng.randint(2, 6)


def draw_names(rng: random.Random) -> tuple[str, str]:
    """Draw short sentences about one or two rare names.

    Args:
        rng: Source of the draws.

    Returns:
        What is given, with every name, and how it goes on.
    """
    names = [invent_name(rng) if rng.random() < 0.75 else rng.choice(_OTHER_NAMES)]
    names += [invent_name(rng) for _ in range(rng.randint(0, 1))]
    slots = [{"name": name, "adj": rng.choice(words.ADJECTIVES)} for name in names]
    rows = [expand(rng.choice(_ROWS), rng.choice(slots), rng) for _ in range(rng.randint(2, 6))]
    return " and ".join(names) + rng.choice(_GIVEN), " " + " ".join(rows)
