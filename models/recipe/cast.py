"""The characters of a story and the slots that keep them consistent.

A cast is drawn once per story. Every template of the story reads its names, pronouns and things
from the cast, so none can change between the first sentence and the last.
"""

import random
from dataclasses import dataclass

from models.recipe import words

_PLURALS = {"wolf": "wolves", "mouse": "mice", "fish": "fish", "sheep": "sheep", "deer": "deer"}
_PRONOUNS = {
    "m": ("he", "him", "his", "himself"),
    "f": ("she", "her", "her", "herself"),
}


@dataclass(frozen=True)
class Character:
    """One figure of a story.

    Attributes:
        name: Proper name, such as `Max`.
        adjective: Fixed quality, such as `little`.
        kind: Noun without article, such as `dog`.
        sex: `m` or `f`, which fixes the pronouns.
    """

    name: str
    adjective: str
    kind: str
    sex: str

    @property
    def label(self) -> str:
        """Describe the character without its name: `the little dog`."""
        return f"the {self.adjective} {self.kind}"

    def slots(self, prefix: str) -> dict[str, str]:
        """Name this character's words for templates.

        Args:
            prefix: `` for the hero, `f` for the friend.

        Returns:
            Slots `name`, `who` (name or label), `label`, `kind`, `kinds`, `adj`, `he`, `him`, `his`
            and `self`, each after the prefix.
        """
        he, him, his, oneself = _PRONOUNS[self.sex]
        who = f"[{self.name}|{self.name}|{self.name}|{self.label}]"
        return {
            prefix + "name": self.name,
            prefix + "who": who,
            prefix + "label": self.label,
            prefix + "kind": self.kind,
            prefix + "kinds": plural(self.kind),
            prefix + "adj": self.adjective,
            prefix + "he": he,
            prefix + "him": him,
            prefix + "his": his,
            prefix + "self": oneself,
        }


@dataclass(frozen=True)
class Cast:
    """All that stays the same within one story.

    Attributes:
        hero: The main character.
        friend: The second one, of another name and kind.
        slots: Every word that a story template may ask for.
    """

    hero: Character
    friend: Character
    slots: dict[str, str]


def plural(noun: str) -> str:
    """Form the plural of a noun.

    Args:
        noun: One word in small letters.

    Returns:
        The plural, right for every noun of `words`.
    """
    if noun in _PLURALS:
        return _PLURALS[noun]
    if noun.endswith("man"):
        return noun[:-3] + "men"
    if noun.endswith(("s", "x", "ch", "sh")):
        return noun + "es"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return {"leaf": "leaves", "child": "children", "goose": "geese"}.get(noun, noun + "s")


def invent_word(rng: random.Random) -> str:
    """Draw a word that no dictionary has, so that the model learns to copy spelling.

    Args:
        rng: Source of the draws.

    Returns:
        Two or three syllables in small letters.
    """
    num_syllables = rng.choice((2, 2, 3))
    return "".join(
        rng.choice(words.ONSETS) + rng.choice(words.RHYMES) for _ in range(num_syllables)
    )


def invent_name(rng: random.Random) -> str:
    """Draw a name that looks like one of many languages, mostly one that nobody has.

    Args:
        rng: Source of the draws.

    Returns:
        One word of one to four syllables with a capital.
    """
    lot = rng.random()
    if lot < 0.25:
        return invent_word(rng).capitalize()
    start = rng.choice(words.NAME_STARTS)
    middle = rng.choice(words.NAME_MIDDLES) if rng.random() < 0.6 else ""
    return (start + middle + rng.choice(words.NAME_ENDS)).capitalize()


def draw_character(
    rng: random.Random,
    *,
    kind: str | None = None,
    name: str | None = None,
    invent: bool = False,
) -> Character:
    """Draw a character, with a name and pronouns that fit its kind.

    Args:
        rng: Source of the draws.
        kind: Noun to use; drawn when absent.
        name: Name to use; drawn when absent.
        invent: Whether the name or the kind may be a word that no dictionary has.

    Returns:
        The character.
    """
    sex = rng.choice("mf")
    adjective = rng.choice(words.ADJECTIVES)
    lot = rng.random()
    pool = words.PET_NAMES + (words.PET_MALES if sex == "m" else words.PET_FEMALES)
    if kind is None:
        if invent and rng.random() < 0.4:
            kind = invent_word(rng)
        elif lot < 0.42:
            kind = rng.choice(words.ANIMALS)
        elif lot < 0.85:
            kind, _, fixed = rng.choice(words.PEOPLE).partition("/")
            sex = fixed if fixed in _PRONOUNS else sex
            pool = words.BOY_NAMES if sex == "m" else words.GIRL_NAMES
        else:
            kind = rng.choice(words.CREATURES)
    if name is None:
        name = invent_word(rng).capitalize() if invent and rng.random() < 0.6 else rng.choice(pool)
    return Character(name, adjective, kind, sex)


def draw_cast(
    rng: random.Random,
    *,
    kind: str | None = None,
    name: str | None = None,
    invent: bool = False,
) -> Cast:
    """Draw everything that one story keeps.

    Args:
        rng: Source of the draws.
        kind: The hero's noun; drawn when absent.
        name: The hero's name; drawn when absent.
        invent: Whether the hero's name or noun may be a word that no dictionary has.

    Returns:
        The cast, with the slots that the templates read.
    """
    hero = draw_character(rng, kind=kind, name=name, invent=invent)
    friend = draw_character(rng)
    while friend.name == hero.name or friend.kind == hero.kind:
        friend = draw_character(rng)
    grown_up, _, grown_sex = rng.choice(words.GROWN_UPS).partition("/")
    color, thing = rng.choice(words.COLORS), rng.choice(words.THINGS)
    place, other_place = rng.sample(words.PLACES, 2)
    slots = {
        **hero.slots(""),
        **friend.slots("f"),
        "grown": grown_up,
        "ghe": _PRONOUNS[grown_sex][0],
        "gher": _PRONOUNS[grown_sex][2],
        "thing": f"[{thing}|{color} {thing}]",
        "new_thing": f"{color} {thing}",
        "color": color,
        "place": place,
        "place2": other_place,
        "home": rng.choice(words.HOMES),
        "food": rng.choice(words.FOODS),
        "fruits": rng.choice(words.FRUITS),
        "game": rng.choice(words.GAMES),
        "weather": rng.choice(words.WEATHERS),
        "time": rng.choice(words.TIMES),
        "season": rng.choice(words.SEASONS),
        "glad": rng.choice(words.GLAD),
        "sad": rng.choice(words.SAD),
    }
    return Cast(hero, friend, slots)
