"""Expand templates into English text.

A template holds `{slot}` names and `[one|two|three]` choices, which may nest. Slots are filled
first, so a slot's value may itself hold choices. Knows nothing about stories or questions.
"""

import random
import re
from collections.abc import Mapping

_SLOT = re.compile(r"\{(\w+)\}")
_CHOICE = re.compile(r"\[([^\[\]]*)\]")
_ARTICLE = re.compile(r"\b([Aa]) (?=[aeiouAEIOU])(?!(?:uni|use|one\b|once\b|eu|Uni|UFO|u\b))")
# A tag after a closing quote ('"Hello!" said Tom') keeps its small letter, unless the quote
# ended with a full stop.
_SENTENCE = re.compile(r'(?:^|(?<=[.!?] )|(?<=\." )|(?<=\n))([a-z])')


def expand(template: str, slots: Mapping[str, str], rng: random.Random) -> str:
    """Fill the slots, draw every choice, then mend articles and sentence capitals.

    Args:
        template: Text with `{slot}` and `[a|b]` marks.
        slots: Value of every slot that the template names.
        rng: Source of the draws; its state moves on.

    Returns:
        Plain text without marks.

    Raises:
        KeyError: The template names a slot that `slots` lacks.
    """
    text = _SLOT.sub(lambda match: slots[match.group(1)], template)
    while "[" in text:
        text = _CHOICE.sub(lambda match: rng.choice(match.group(1).split("|")), text)
    return tidy(text)


def tidy(text: str) -> str:
    """Mend `a` before a vowel, double spaces and the capitals of sentences.

    Args:
        text: English text, of any length.

    Returns:
        The mended text.
    """
    text = re.sub(r" {2,}", " ", text).strip()
    text = _ARTICLE.sub(r"\1n ", text)
    return _SENTENCE.sub(lambda match: match.group(1).upper(), text)


def split_sentences(text: str) -> list[str]:
    """Split text after each full stop, question or exclamation mark that ends a sentence.

    Args:
        text: English text with one space between sentences.

    Returns:
        Sentences, without the space between them; joined by one space they are the text again.
    """
    return re.split(r'(?<=[.!?])(?<!Mr\.) (?=[A-Z"])|(?<=[.!?]") (?=[A-Z"])', text)
