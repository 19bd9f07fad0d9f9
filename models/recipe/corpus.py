"""Documents to train on: which text the model shall learn to write, and which only to read.

Legend of a document: a row of segments, each a text and whether its tokens count in the loss.
Knows nothing about tensors.
"""

import random
import re
from collections.abc import Sequence
from typing import NamedTuple

from models.recipe import words
from models.recipe.cast import invent_name, invent_word
from models.recipe.drills import draw_names, draw_words
from models.recipe.exchange import Exchange
from models.recipe.grammar import expand
from models.recipe.openings import NOUNS, QUALITIES
from models.recipe.questions import QUESTIONS, draw_fact_text, draw_sum_table
from models.recipe.requests import REQUESTS
from models.recipe.smalltalk import SMALLTALK, draw_introduction
from models.recipe.stories import Story, draw_story

END_OF_TEXT = "<|endoftext|>"
TURN_START = "<|im_start|>"
TURN_END = "<|im_end|>"


class Segment(NamedTuple):
    """A run of text within a document.

    Attributes:
        text: The text, which may hold special tokens.
        learned: Whether the model shall learn to write it.
    """

    text: str
    learned: bool


Document = list[Segment]

_KINDS = (*QUESTIONS, *REQUESTS, *SMALLTALK)
_GENERATORS = tuple(generator for generator, _ in _KINDS)
_WEIGHTS = tuple(weight for _, weight in _KINDS)

_SYSTEMS = (
    "You are a helpful assistant.", "You are a helpful assistant.", "You are Baton's toy model.",
    "You tell stories to children.", "Answer briefly.", "You are a friendly robot.", "Be concise.",
    "You are a helpful, honest and harmless assistant. Answer in plain English.", "Be kind.",
)  # fmt: skip
_AFTERTHOUGHTS = (
    " please", " Thanks!", " Keep it short.", " Be brief.", " Answer in one sentence.",
    " in two sentences", " Please.", " Explain it like I am five.", " now",
)  # fmt: skip
_REQUESTS = (
    "tell me a story", "tell me a story",
    "tell me a [|short |little |nice ]story", "write a [|short |little |funny ]story",
    "tell me a bedtime story", "can you tell me a story?", "a story please", "another story",
    "I want to hear a story",
)  # fmt: skip
_SUBJECTS = (
    "a {kind}", "a {kind}", "a {kind}", "a {adj} {kind}", "the {kind}", "a {kind} named {name}",
    "a {kind} called {name}", "{name}", "{name} and {fname}", "a {kind} and a {fkind}",
    "{name} the {kind}", "{kinds}",
)  # fmt: skip
_NAMED_SUBJECTS = tuple(subject for subject in _SUBJECTS if "{name}" in subject)

# Words after which an opening may stop in the middle of a sentence.
_LINKS = re.compile(
    r" (?:and|so|but|because|when|while|that|to|the|a|was|had|in|of|with|who|lived|he|she|his|her)"
    r"(?= )"
)


def _draw_cut(text: str, first: int, rng: random.Random) -> int:
    """Draw where an opening ends, not before `first`: after some words or a whole sentence."""
    if rng.random() < 0.4:
        gaps = [match.start() for match in re.finditer(" ", text[: first + 160])][:15]
        gaps = [gap for gap in gaps if gap >= first]
        if gaps:
            cut = rng.choice(gaps)
            return cut - 1 if text[cut - 1] in ",." else cut
    if rng.random() < 0.25:
        links = [match.end() for match in _LINKS.finditer(text, first, first + 160)]
        if links:
            return rng.choice(links)
    comma = text.find(",", first, first + 30)
    if comma > 0 and rng.random() < 0.4:
        return comma
    if rng.random() < 0.3:
        stops = [i + 1 for i, sign in enumerate(text) if sign in ".!?" and i + 1 >= first]
        stops = [stop for stop in stops if text[stop : stop + 1] == " "]
        return rng.choice(stops[:4])
    gaps = [i for i, sign in enumerate(text) if sign == " " and i >= first]
    last = rng.choice((4, 4, 12, 40))
    cut = gaps[rng.randint(1 if first == 0 else 0, min(last, len(gaps) - 1))]
    return cut - 1 if text[cut - 1] in ",." else cut


def _draw_opened(rng: random.Random) -> tuple[str, int]:
    """Draw a story and the place where its given opening ends.

    Rare names and words that do not exist stand first in the opening: the model shall copy, not
    invent them.
    """
    invent = rng.random() < 0.25
    lot = rng.random()
    story = draw_story(rng, invent=invent, odd=lot < 0.3, bare=lot > 0.85, free=lot < 0.1)
    hero, text, first = story.cast.hero, story.text, 0
    if invent:
        first = max(text.find(word) + len(word) for word in (hero.name, hero.kind))
    elif rng.random() < 0.65:
        text, name = _rename(story, rng)
        first = text.find(name) + len(name)
    named = text.find(hero.kind) + len(hero.kind)
    if named >= first and rng.random() < 0.25:
        return text, named
    return text, _draw_cut(text, first, rng)


def _rename(story: Story, rng: random.Random) -> tuple[str, str]:
    """Give the hero a name as a user may give one, rare and often with a title: text and name."""
    hero = story.cast.hero
    is_male = hero.sex == "m"
    name = rng.choice(words.OTHER_BOY_NAMES if is_male else words.OTHER_GIRL_NAMES)
    if rng.random() < 0.6:
        name = invent_name(rng)
    if rng.random() < 0.2:
        title = rng.choice(words.MALE_TITLES if is_male else words.FEMALE_TITLES)
        family = rng.choice(words.FAMILY_NAMES) if rng.random() < 0.5 else invent_name(rng)
        name = f"{title} {family}"
    return re.sub(rf"\b{hero.name}\b", name, story.text), name


def _draw_bare(rng: random.Random) -> tuple[str, str]:
    """Draw a story and part it after one to four words: a noun, a name or less, in any case."""
    lot = rng.random()
    text = draw_story(rng, bare=lot < 0.5, odd=rng.random() < 0.3, free=lot > 0.65).text
    gaps = [i for i, sign in enumerate(text[:80]) if sign == " "]
    cut = gaps[rng.choice((0, 0, 0, 1, 1, 1, 1, 1, 2, 2, 3))]
    head, tail = text[:cut], text[cut:]
    if head.endswith((",", ".", "!", "?")):
        head, tail = head[:-1], head[-1] + tail
    lot = rng.random()
    if lot < 0.2:
        head = head.removeprefix("The ").removeprefix("A ")
    if lot < 0.55:
        head = head.lower()
    elif lot < 0.6:
        head = head.upper()
    return head, tail


def _draw_free(rng: random.Random) -> tuple[str, str]:
    """Draw a story whose first sentence has any shape, and part it at any of its words."""
    story = draw_story(rng, free=True)
    text = story.text
    last = len(story.sentences[0]) + (0 if rng.random() < 0.75 else len(story.sentences[1]))
    cut = rng.choice([i for i, sign in enumerate(text[: last + 1]) if sign == " "])
    head, tail = text[:cut], text[cut:]
    if head[-1] in ",;" and rng.random() < 0.7:
        head, tail = head[:-1], head[-1] + tail
    head = _garble(head, tail, rng) if rng.random() < 0.25 else head
    lot = rng.random()
    if lot < 0.3:
        head = head[0].lower() + head[1:]
    elif lot < 0.45:
        head = head.lower()
    elif lot < 0.5:
        head = head.upper()
    return head, tail


def _garble(head: str, tail: str, rng: random.Random) -> str:
    """Put a word that does not exist for one that the rest of the text does not need."""
    pool = (*NOUNS, *QUALITIES)
    found = [word for word in re.findall(r"\w+", head) if word in pool and word not in tail]
    if not found:
        return head
    return re.sub(rf"\b{rng.choice(found)}\b", invent_word(rng), head)


def _raw_story(rng: random.Random) -> Document:
    lot = rng.random()
    if lot < 0.3:
        return [Segment(draw_story(rng).text, True)]
    if lot < 0.5:
        head, tail = _draw_free(rng)
        return [Segment(head, False), Segment(tail, True)]
    if lot < 0.56:
        story = draw_story(rng)
        start = rng.randint(2, 6)
        head, tail = story.sentences[start], story.sentences[start + 1 :]
        return [Segment(head, False), Segment(" " + " ".join(tail), True)]
    if lot < 0.68:
        head, tail = _draw_bare(rng)
        return [Segment(head, False), Segment(tail, True)]
    text, cut = _draw_opened(rng)
    head = text[:cut]
    style = rng.random()
    if style < 0.08:
        head = head.lower()
    elif style < 0.12:
        head = head.upper()
    elif style < 0.24:
        return [Segment(head + " ", False), Segment(text[cut:].lstrip(" "), True)]
    return [Segment(head, False), Segment(text[cut:], True)]


def _continuation(rng: random.Random) -> Exchange:
    lot = rng.random()
    if lot < 0.13:
        return Exchange(*_draw_bare(rng))
    # The answer goes on as plain text would, so it begins with the space: without it, its first
    # word would be cut into tokens that no running text has.
    if lot < 0.45:
        head, tail = _draw_free(rng)
    else:
        text, cut = _draw_opened(rng)
        head, tail = text[:cut], text[cut:]
    style = rng.random()
    if style < 0.08:
        head = head.lower()
    elif style < 0.12:
        head = head.upper()
    elif style < 0.18:
        head += rng.choice(("...", " ", ",", "."))
        tail = " " + tail.lstrip(" ,.")
    elif style < 0.30:
        start = ("Continue this story: ", "Continue: ", "Please continue the story: ",
                 "Go on with this story:\n", "Finish this story: ", "Continue this: ",
                 "continue: ", "Complete this sentence: ", "Go on: ", "Finish this: ")  # fmt: skip
        head = rng.choice(start) + head
    return Exchange(head, tail)


def _request(rng: random.Random) -> Exchange:
    request = rng.choice(_REQUESTS).rstrip("?")
    lot = rng.random()
    if lot < 0.3:
        text, about = draw_story(rng).text, ""
    elif lot < 0.5:
        topic = rng.choice(words.TOPICS)
        text, about = draw_story(rng, topic=topic).text, f" about {topic}"
    else:
        invent = rng.random() < 0.3
        story = draw_story(rng, invent=invent)
        slots, subjects, text = story.cast.slots, _SUBJECTS, story.text
        if not invent and rng.random() < 0.6:
            text, name = _rename(story, rng)
            slots, subjects = slots | {"name": name}, _NAMED_SUBJECTS
        about = f" about {expand(rng.choice(subjects), slots, rng)}"
        if about.startswith(" about The "):
            about = about.replace("The ", "the ")
    question = expand(request, {}, rng) + about.replace(" about A", " about a")
    if rng.random() < 0.3:
        question = question[0].lower() + question[1:]
    return Exchange(question + rng.choice(("", "", ".", "!", "?")), text)


def _summary(rng: random.Random) -> Exchange:
    story = draw_story(rng, invent=rng.random() < 0.2)
    hero, friend = story.cast.hero, story.cast.friend
    start = rng.choice(("Summarize this story: ", "Summarize: ", "What is this story about? ",
                        "Summarize the following text:\n", "Who is in this story? "))  # fmt: skip
    article = "an" if hero.adjective[0] in "aeiou" else "a"
    answer = f"It is a story about {hero.name}, {article} {hero.adjective} {hero.kind}"
    return Exchange(start + story.text, f"{answer}, and {friend.name}, {friend.label}.")


def draw_exchange(rng: random.Random) -> Exchange:
    """Draw a question of any kind with its answer, other than about a story.

    Args:
        rng: Source of the draws; the same state gives the same exchange.

    Returns:
        One exchange, neither side empty.
    """
    return rng.choices(_GENERATORS, _WEIGHTS)[0](rng)


def _draw_turn(rng: random.Random, stories: float) -> Exchange:
    if rng.random() < stories:
        draw = rng.choices((_continuation, _request, _summary), (47, 47, 6))[0]
        return draw(rng)
    question, answer = draw_exchange(rng)
    if rng.random() < 0.1 and answer not in question:
        question = question.lower()
    if rng.random() < 0.06 and answer not in question:
        question += rng.choice(_AFTERTHOUGHTS)
    return Exchange(question, answer)


def render_chat(exchanges: Sequence[Exchange], system: str | None) -> Document:
    """Lay a conversation out as the chat template does.

    Args:
        exchanges: Questions and answers in order.
        system: The system message, if any.

    Returns:
        A document in which only the answers and their ends are learned.
    """
    segments = []
    if system is not None:
        segments.append(Segment(f"{TURN_START}system\n{system}{TURN_END}\n", False))
    for question, answer in exchanges:
        segments.append(Segment(f"{TURN_START}user\n{question}{TURN_END}\n", False))
        segments.append(Segment(f"{TURN_START}assistant\n", False))
        segments.append(Segment(answer + TURN_END, True))
        segments.append(Segment("\n", False))
    segments.append(Segment(END_OF_TEXT, False))
    return segments


def _chat(rng: random.Random, long: bool) -> Document:
    few = rng.choices((1, 2, 3, 4), (70, 15, 10, 5))[0] if not long else 0
    num_turns = few or rng.randint(4, 16)
    stories = 0.38 if num_turns == 1 else 0.2
    exchanges = [_draw_turn(rng, stories) for _ in range(num_turns)]
    if num_turns > 1 and rng.random() < 0.12:
        name, exchange = draw_introduction(rng)
        exchanges[0] = exchange
        asked = rng.choice(("What is my name?", "what's my name?", "Do you know my name?"))
        exchanges[-1] = Exchange(asked, f"Your name is {name}.")
    return render_chat(exchanges, rng.choice(_SYSTEMS) if rng.random() < 0.3 else None)


def _drill(rng: random.Random) -> Document:
    given, text = rng.choice((draw_words, draw_names))(rng)
    return [Segment(given, False), Segment(text, True), Segment(END_OF_TEXT, False)]


def _sums(rng: random.Random) -> Document:
    """Draw a table of sums, of which only the results are learned."""
    document = []
    for given, result in draw_sum_table(rng):
        document += [Segment(given, False), Segment(result, True), Segment("\n", False)]
    return [*document, Segment(END_OF_TEXT, False)]


def _fact_text(rng: random.Random) -> Document:
    """Draw facts, the begin of which is given: after a mere `The`, a story shall follow."""
    text = draw_fact_text(rng)
    cut = text.index(" ", len(text) // 3)
    return [Segment(text[:cut], False), Segment(text[cut:], True)]


def draw_document(
    rng: random.Random, *, long: bool = False, drills: float = 0.0, chats: float = 0.62
) -> Document:
    """Draw one document: a story, a few facts or a conversation.

    Args:
        rng: Source of the draws; the same state gives the same document.
        long: Whether to prefer conversations of many turns.
        drills: Share of documents, in [0, 1], that only practice copying.
        chats: Share of the others, in [0, 0.97], that are conversations.

    Returns:
        Segments whose text ends with the end-of-text token.
    """
    if rng.random() < drills:
        return _drill(rng)
    if rng.random() < 0.03:
        return _sums(rng)
    lot = rng.random()
    if long and lot < 0.5:
        return _chat(rng, long=True)
    if lot < chats:
        return _chat(rng, long=False)
    body = _fact_text(rng) if lot < chats + 0.02 else _raw_story(rng)
    return [*body, Segment(END_OF_TEXT, True)]
