"""Seeded stories: an opening, a plot with one cast, an end.

A story names its hero early and keeps every name, pronoun and thing until its last sentence.
Knows nothing about chat messages or tokens.
"""
# ruff: noqa: SIM905 - a row of plain words reads better than a row of quotes

import random
from dataclasses import dataclass

from models.recipe import words
from models.recipe.cast import Cast, draw_cast, invent_word
from models.recipe.grammar import expand, split_sentences
from models.recipe.openings import draw_opening
from models.recipe.plots import PLOTS

# Each opening introduces the hero by name and kind, so that any plot can follow.
OPENINGS = (
    "Once upon a time, there was a {adj} {kind} [named|called] {name}. {lived}",
    "Once upon a time, there was a {adj} {kind}. {his} name was {name}. {lived}",
    "Once upon a time, a {adj} {kind} [named|called] {name} lived in {home}.",
    "Once upon a time, in {home}, there lived a {adj} {kind} [named|called] {name}.",
    "Once upon a time there lived a {kind} whose name was {name}. {liked}",
    "Once there was a {adj} {kind} [named|called] {name}, [who|and {he}] lived in {home}.",
    "There [was|was once|once was] a {adj} {kind} [named|called] {name}. {lived}",
    "There was a {kind} who lived in {home}. {his} name was {name}. {liked}",
    "One day, a {adj} {kind} [named|called] {name} woke up early. {liked}",
    "One day, {name} the {kind} [went for a walk|sat by the window|woke up]. {liked}",
    "One {weather} {time}, a {adj} {kind} [named|called] {name} sat in front of {his} home.",
    "The {adj} {kind} was [called|named] {name}. {lived}",
    "The {adj} {kind} lived in {home}. {his} name was {name}. {liked}",
    "The {adj} {kind} [sat|ran|walked|played|slept] [near|at|by] {place}. {his} name was {name}. "
    "{liked}",
    "The {adj} {kind} {did}. {his} name was {name}. {lived}",
    "The {kind} was [{adj}|very {adj}]. {his} name was {name}, and {he} lived in {home}.",
    "A {adj} {kind} [named|called] {name} lived in {home}. {liked}",
    "A {kind} {did}. {his} name was {name}. {liked}",
    "In {home}, there lived a {adj} {kind} [named|called] {name}. {liked}",
    "In a small village near {place}, there [was|lived] a {adj} {kind} [named|called] {name}.",
    "Deep in the forest, there lived a {adj} {kind} [named|called] {name}. {liked}",
    "Far away, [behind the hills|beyond the sea], a {adj} {kind} [named|called] {name} lived in "
    "{home}.",
    "[Long ago|A long time ago|Many years ago], there [was|lived] a {adj} {kind} [named|called] "
    "{name}. {liked}",
    "It was a {weather} {time}. {name}, the {adj} {kind}, {did}. {liked}",
    "It was a [dark and stormy|cold and quiet] night. A {kind} named {name} sat by the fire.",
    "It was {season}, and a {adj} {kind} named {name} {did}.",
    "On a {weather} {time}, a {adj} {kind} [named|called] {name} {did}. {liked}",
    "{name} was a {adj} {kind}. {lived}",
    "{name} was a {kind} who lived in {home}. {liked}",
    "{name} the {kind} lived in {home}. {liked}",
    "{name} lived in {home}. {he} was a {adj} {kind}. {liked}",
    "{name} [{did}|woke up early]. {he} was a {adj} {kind}, and {he} lived in {home}.",
    "When {name} woke up, it was a {weather} {time}. {name} was a {adj} {kind}. {liked}",
    "Every {time}, a {adj} {kind} [named|called] {name} went to {place}. {liked}",
    "[Two|Three|Four] {kinds} lived in {home}. The {adj} one was called {name}.",
    "My {kind} is called {name}. Let me tell you a story about {him}.",
    "This is [a|the] story [of|about] a {adj} {kind} [named|called] {name}. {lived}",
    '"Good {time}!" said {name}, the {adj} {kind}. {lived}',
    "Last {season}, a {kind} named {name} {did}. {liked}",
    "Do you know {name}? {name} is a {adj} {kind}. Here is a story about {him}.",
    "I know a {adj} {kind} who lives in {home}. {his} name is {name}.",
)
_LIVED = (
    "{he} lived in {home}[ with {his} {grown}|].",
    "{he} [liked|loved] to play {game}.",
    "{name} lived in {home}, and [everybody liked {him}|{he} liked it there].",
    "",
)
_LIKED = (
    "{he} [liked|loved] to [play {game}|eat {fruits}|walk to {place}|sing|dance|dream].",
    "{name} [liked|loved] {fruits} and [songs|games|stories].",
    "Everybody in the village knew {him}.",
    "",
)
_DID = (
    "walked [to|past|around] {place}", "went to {place}", "ran [to|across] {place}",
    "sat [near|by] {place}", "was on the way to {place}", "looked at {place}",
    "flew over {place}", "sat by the window",
    "saw something strange near {place}", "jumped over a puddle", "was {sad}", "was {glad}",
    "looked at the [sky|moon|stars]", "wanted to go home",
    "came home", "opened the door", "sang a song", "was eating {fruits}",
)  # fmt: skip
_ABOUT = (
    "More than anything, {name} wanted to know about {topic}.",
    "{name} often dreamed of {topic}.",
    "{name} knew a lot about {topic}.",
    "{name} liked to talk about {topic}.",
)
_ENDINGS = (
    "", "", "", "The end.", "And they all lived happily ever after.",
    "That night, {name} slept very well.", "It was a good day.",
    "And that is the story of {name} and {fname}.", "{name} never forgot that day.",
)  # fmt: skip


# A first sentence about anybody and anything, and how the story comes back to its hero.
_ODD = (
    "{when}{name} {deed} {other}{where}. {name} was a {adj} {kind}. {lived}",
    "{when}{name} {deed} {other}{where}. {he} was a {adj} {kind}. {liked}",
    "{when}{name} {deed} {other} and {deed} {other}. {name} was a {adj} {kind}.",
    "{when}the {adj} {kind} {deed} {other}{where}. {his} name was {name}. {lived}",
    "{when}the {kind} {deed} {other}{where}. The {kind} was called {name}. {liked}",
    "{when}a {kind} {deed} {other}{where}. The {kind} was called {name}. {lived}",
    "{when}a {adj} {kind} {deed} {other}{where}. {his} name was {name}. {liked}",
    "{when}a {kind} from {other} {deed} {other}. {his} name was {name}.",
    "When the {kind} {deed} {other}{where}, {he} {did}. {his} name was {name}.",
    "{when}[I|we|my friend|they|somebody|everybody|the people] {deed} {other}{where}. There was "
    "also a {adj} {kind} [named|called] {name}. {liked}",
    "The {scene} was [dark|old|empty|quiet|big|far away|very beautiful]. Only {name}, a {adj} "
    "{kind}, lived there.",
    '"[What is {other}?|Where is {other}?|Look, {other}!|Help me!|I want {other}!|I like '
    '{other}!]" [said|cried] the {adj} {kind}. {his} name was {name}.',
    "[Hello|Hi]! [This is a story|Let me tell you] about {name}, a {adj} {kind}.",
    "The {adj} {color} {kind} {deed} {other}. {his} name was {name}. {lived}",
    "{when}the {adj} {kind} {did}[ and|, and then {he}| and] {did}. {his} name was {name}. {lived}",
    "{when}{name} {did} and {did}. {he} was a {adj} {kind}. {liked}",
    "{when}{name} {deed} {other}, [so|and so|but] {he} {did}. {he} was a {adj} {kind}. {lived}",
    "{when}the {kind} {deed} {other}, [so|but] {he} {did} and {deed} {other}. The {kind} was "
    "called {name}.",
    "{when}a {adj} {kind} {did} because {he} {deed} {other}. {his} name was {name}. {liked}",
    "{when}{name} {did} when {he} {deed} {other}. {name} was a {adj} {kind}.",
    "While the {adj} {kind} {did}, {he} {deed} {other}. {his} name was {name}. {liked}",
    "[If|Because|Before|After|While] {name} {did}, {he} {did}. {name} was a {adj} {kind}. {lived}",
)
# A first sentence that names its subject at once, so that one word of it may be all that is given.
_BARE = (
    "The {kind} {did}. The {kind} was called {name}. {liked}",
    "The {kind} {did}. {his} name was {name}. {lived}",
    "The {kind} was {adj}. {his} name was {name}. {lived}",
    "The {kind} was very {adj}, and {his} name was {name}. {liked}",
    "The {kind} {deed} {other}. {his} name was {name}. {liked}",
    "The {kind} lived in {home}. {his} name was {name}. {liked}",
    "The {kind} named {name} {did}. {he} was very {adj}. {liked}",
    "The {adj} {kind} {did}. {his} name was {name}. {liked}",
    "A {kind} {did}. The {kind} was called {name}. {lived}",
    "A {kind} named {name} lived in {home}. {liked}",
    "My {kind} {name} {did}. {he} was very {adj}. {liked}",
    "My [best |old |little |]friend {name} {did}. {he} was a {adj} {kind}. {liked}",
    "{he} {did}. {his} name was {name}, and {he} was a {adj} {kind}. {liked}",
    "{he} was a {adj} {kind}, and {his} name was {name}. {lived}",
    "A {kind} {deed} {other}. {his} name was {name}. {liked}",
    "The {kinds} lived in {home}. One of them, the {adj} one, was called {name}. {liked}",
    "{kinds} are [often|sometimes] {adj}. There was once a {kind} called {name}. {lived}",
    "{name} {did}. {he} was a {adj} {kind}. {liked}",
    "{name} {did}. {name} was a {kind}. {lived}",
    "{name} opened {his} eyes. It was a {weather} {time}. {name} was a {adj} {kind}.",
    "{name} {deed} {other}. {he} was a {adj} {kind}. {liked}",
    "{name} opened the door and saw {other}. {he} was a {adj} {kind}. {liked}",
    "{name} was a {adj} {kind}. {liked}",
    "It was [raining|snowing|late|dark|very early|very cold] when {name} {did}. {he} was a {adj} "
    "{kind}. {liked}",
    "It was [raining|snowing|late|dark]. {name}, the {adj} {kind}, {did}. {liked}",
    "[Long ago|Once|Far away|Many years ago|Today|One night], in a {scene}, there [was|lived] a "
    "{adj} {kind} [named|called] {name}. {liked}",
    "In a {scene}, a {adj} {kind} [named|called] {name} {did}. {liked}",
    "There was a {kind}. The {kind} was called {name}. {lived}",
    "The {kind} [asked|told|wanted] the [students|children|animals|people|others] to [sing a song|"
    "come home|be quiet|wait near {place}|look at the sky|eat {fruits}]. {his} name was {name}.",
)
_SCENES = tuple(
    "castle house city forest library room street shop sea island train ship garden night school "
    "river mountain world town sky bridge tower cave door road moon valley museum".split()
)
_DEEDS = (
    "saw|found|wanted|forgot|heard about|looked at|talked about|ran past|dreamed of|made|took|"
    "thought about|was afraid of|came from|asked for|could not find|loved|needed|flew over|"
    "jumped over|walked into|went to|lived near|was in|had|liked|opened|knew|ate|bought"
).split("|")
_WHENS = (
    "", "", "", "one day, ", "yesterday, ", "early in the morning, ", "suddenly, ", "last night, ",
    "in {season}, ", "once, ", "at night, ", "in the middle of the night, ",
    "one {weather} {time}, ", "many years ago, ", "when it rained, ",
    "long ago, ", "after school, ", "on Monday, ",
)  # fmt: skip


@dataclass(frozen=True)
class Story:
    """One finished story.

    Attributes:
        cast: Whom and what it is about.
        plot: Key of its plot in `plots.PLOTS`.
        sentences: Its text, one sentence each.
    """

    cast: Cast
    plot: str
    sentences: list[str]

    @property
    def text(self) -> str:
        """Join the sentences into one paragraph."""
        return " ".join(self.sentences)


def draw_story(
    rng: random.Random,
    *,
    kind: str | None = None,
    name: str | None = None,
    topic: str | None = None,
    plot: str | None = None,
    invent: bool = False,
    odd: bool = False,
    bare: bool = False,
    free: bool = False,
) -> Story:
    """Draw a story.

    Args:
        rng: Source of the draws; the same state gives the same story.
        kind: The hero's noun; drawn when absent.
        name: The hero's name; drawn when absent.
        topic: A subject that the story must mention.
        plot: Key of the plot; drawn when absent.
        invent: Whether the hero's name or noun may be a word that no dictionary has.
        odd: Whether the first sentence is one that no plot expects.
        bare: Whether the first sentence names its subject with its first words.
        free: Whether the first sentence is one of any shape, often without the hero.

    Returns:
        A story of 60 to 300 words that ends with a full sentence.

    Raises:
        KeyError: `plot` is not a key of `plots.PLOTS`.
    """
    if odd and kind is None and rng.random() < 0.3:
        kind = rng.choice(words.THINGS)
    cast = draw_cast(rng, kind=kind, name=name, invent=invent)
    plot = plot or rng.choice(tuple(PLOTS))
    openings = _BARE if bare else _ODD if odd else OPENINGS
    opening = draw_opening(rng) if free else rng.choice(openings)
    beats = [_fill_opening(opening, rng, invent)]
    if topic is not None:
        beats.append(rng.choice(_ABOUT))
    for beat in PLOTS[plot]:
        if not beat.startswith("?"):
            beats.append(beat)
        elif rng.random() < 0.6:
            beats.append(beat[1:])
    beats.append(rng.choice(_ENDINGS))
    text = " ".join(beat for beat in beats if beat)
    for slot, choices in (("{lived}", _LIVED), ("{liked}", _LIKED), ("{did}", _DID)):
        while slot in text:
            text = text.replace(slot, rng.choice(choices), 1)
    text = expand(text, cast.slots | {"topic": topic or ""}, rng)
    return Story(cast, plot, split_sentences(text))


def _draw_object(rng: random.Random, wild: bool) -> str:
    lot = rng.random()
    if lot < 0.1:
        return rng.choice(words.FOODS)
    if wild and lot < 0.5:
        return rng.choice(words.TOPICS)
    if wild and lot < 0.7:
        return f"{rng.choice(('a', 'the'))} {invent_word(rng)}"
    article = rng.choice(("a", "a", "the", "{his}", "the big", "an old"))
    return f"{article} {rng.choice((*words.THINGS, *words.ANIMALS, *words.CREATURES))}"


def _fill_opening(text: str, rng: random.Random, wild: bool) -> str:
    while "{deed}" in text:
        text = text.replace("{deed}", rng.choice(_DEEDS), 1)
    while "{other}" in text:
        text = text.replace("{other}", _draw_object(rng, wild), 1)
    scene = invent_word(rng) if wild and rng.random() < 0.3 else rng.choice(_SCENES)
    where = rng.choice(("", "", " near {place}", " in {home}"))
    return (
        text.replace("{when}", rng.choice(_WHENS)).replace("{where}", where)
        .replace("{scene}", scene)
    )  # fmt: skip
