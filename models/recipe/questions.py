"""Seeded questions with short true answers, and graceful words where nothing is known.

Each generator returns one exchange. Knows nothing about stories or tokens.
"""

import json
import random

from models.recipe import facts, words
from models.recipe.cast import invent_word
from models.recipe.exchange import Exchange, Generator, ask
from models.recipe.grammar import tidy

# The subject is not said again: the model would misspell what it has never seen.
_NOT_KNOWN = (
    "I am only a small model, and I do not know that. Ask me for a story instead!",
    "That is a good question, but I am too small to know the answer.",
    "I do not know. I am a toy model for the first run. But I can tell you a story!",
    "I have not learned that yet. I know short stories and simple facts.",
    "I wish I knew more about that. I am a toy model, so I only know simple things.",
    "I am sorry, I do not know much about that. I am a small model, and I tell little stories.",
)
_NO_HELP = (
    "I am too small to help you with that, but I wish you luck. Take it step by step!",
    "I do not know how to do that. I am a toy model. Start with a small step, and ask a friend!",
    "I am a toy model, so I cannot tell you how. A larger model can help you with that.",
    "I am a small model, and I do not know how. But I can tell you a story!",
)


def _fact(rng: random.Random) -> Exchange:
    key, answer = rng.choice(tuple(facts.FACTS.items()))
    bare = key.removeprefix("a ").removeprefix("an ").removeprefix("the ")
    question = ask(
        rng,
        "What is {x}?",
        "What is {x}?",
        "What's {x}?",
        "What is {b}?",
        "what is {b}",
        "Explain {x} in [simple terms|simple words|one sentence|a few words]",
        "Explain {b}[| to me| to a child| in simple terms| simply]",
        "Tell me about {x}",
        "Tell me something about {b}",
        "Describe {x}",
        "Define {b}",
        "What do you know about {b}?",
        "What does {b} mean?",
        "Do you know what {x} is?",
        "{b}?",
        x=key,
        b=bare,
    )
    return Exchange(question, answer)


def _unknown(rng: random.Random) -> Exchange:
    topic = rng.choice(words.TOPICS) if rng.random() < 0.55 else invent_word(rng)
    if rng.random() < 0.25:
        topic = f"{rng.choice(('the', 'the', 'a', 'my', 'your'))} {topic.removeprefix('the ')}"
    lot = rng.random()
    if lot < 0.2:
        topic = f"{topic} {rng.choice(('and', 'in', 'of', 'for'))} {rng.choice(words.TOPICS)}"
    elif lot < 0.5:
        article = rng.choice(("the", "the", "the", "a", ""))
        topic = f"{article} {rng.choice(words.ASPECTS)} {rng.choice(('of', 'of', 'in'))} {topic}"
        topic = topic.strip()
    known = {key.removeprefix("the ").lower() for key in facts.FACTS}
    if topic.removeprefix("the ").lower() in known:
        return _fact(rng)
    question = ask(
        rng,
        "What is {x}?",
        "Who [is|was|invented] {x}?",
        "Explain {x}[| in simple terms| to me| in detail| step by step]",
        "Tell me [|something |everything ]about {x}",
        "How does {x} work?",
        "Why [is|does|do] {x} [important|matter]?",
        "What are the [best|main] [parts|kinds|benefits|problems] of {x}?",
        "Write [an essay|a report|an article|a summary|an email] about {x}",
        "Give me [three|five|some] [tips|ideas|facts] about {x}",
        "What do you think about {x}?",
        "Where can I find {x}?",
        "Summarize {x}",
        "Compare {x} with {y}",
        "{x}",
        "List the [steps|rules] of {x}",
        "When did {x} [start|begin|end]?",
        "What is the difference between {x} and {y}?",
        "How [big|old|far|long|expensive|many people] is {x}?",
        "How much does {x} cost?",
        "Is {x} [good|bad|better than {y}|real|dangerous|true]?",
        "Can you explain {x}[ to me|]?",
        "Who [wrote|discovered|painted|made|won|is the president of|founded] {x}?",
        "Which {x} [is the best|should I buy|do you like]?",
        "[Recommend|Suggest] [a book|a film|a song|something] about {x}",
        "[Analyze|Review|Discuss|Outline|Improve|Fix|Classify|Rewrite] {x}",
        "Give me an example of {x}",
        "What [happens|happened] [when|if|to|in] {x}?",
        "[Should|Can|Could|Will|Do|Does|Did|Are|Has] {x} [change|help|work|win|exist|come back]?",
        "What should I know about {x}?",
        "I have a question about {x}",
        "I need [help|advice] with {x}",
        "{x} vs {y}",
        "{x} {y}?",
        x=topic,
        y=rng.choice(words.TOPICS),
    )
    return Exchange(question, rng.choice(_NOT_KNOWN))


def _why(rng: random.Random) -> Exchange:
    thing = rng.choice((*words.SKIES, *words.THINGS, *words.ANIMALS))
    quality = rng.choice((*words.COLORS, *words.ADJECTIVES, "so big", "hot", "cold", "wet"))
    question = ask(
        rng,
        "Why is the {x} {q}?",
        "Why is {x} {q}?",
        "Why do [we|they|people|cats|birds|stars] [sleep|sing|fly|fall|cry|dream|shine]?",
        "Why does the {x} [shine|move|smell|grow|look {q}]?",
        x=thing,
        q=quality,
    )
    return Exchange(question, rng.choice(_NOT_KNOWN))


def _errand(rng: random.Random) -> Exchange:
    errand = rng.choice(words.ERRANDS)
    lot = rng.random()
    if lot < 0.55:
        things = (*words.THINGS, *words.FOODS, *words.ANIMALS, *words.TOPICS, *words.FRUITS)
        thing = rng.choice(things) if lot < 0.4 else invent_word(rng)
        article = rng.choice(("the ", "a ", "my ", "", "", "some "))
        end = rng.choice(("", "", "", " at home", " for my mother", " without money", " in a day"))
        errand = tidy(f"{rng.choice(words.CHORES)} {article}{thing}{end}")
        errand = errand[0].lower() + errand[1:]
    question = ask(
        rng,
        "How do I {x}?",
        "How do I {x}?",
        "how do i {x}",
        "How to {x}[?|]",
        "How can I {x}?",
        "How [do|can|should|would] [you|we|people|I] {x}?",
        "What is the [best|easiest|fastest] way to {x}?",
        "Help me [to |]{x}",
        "I want to {x}. What should I do?",
        "[Teach|Show|Tell] me how to {x}",
        "Explain how to {x}",
        "Can you {x} for me?",
        "What do I need to {x}?",
        "Should I {x}?",
        "Is it [hard|safe|easy|possible] to {x}?",
        "Give me [a recipe|instructions|a plan|steps] to {x}",
        x=errand,
    )
    return Exchange(question, rng.choice(_NO_HELP))


def _sum(rng: random.Random) -> Exchange:
    if rng.random() < 0.2:
        sign = rng.choice(("+", "-", "*", "/", "x", "times", "divided by", "multiplied by"))
        top = rng.choice((10, 12, 100, 9999))
        a, b = rng.randint(2, top), rng.randint(11 if sign in "+-" else 2, max(top, 20))
        if rng.random() < 0.3:
            sign, a = "-", rng.randint(0, 10)
            b = a + rng.randint(1, 9)
        text = f"{a} {sign} {b}" if rng.random() < 0.8 or len(sign) > 1 else f"{a}{sign}{b}"
        question = rng.choice(
            ("What is {t}?", "What is {t}?", "{t}", "{t} =", "Compute {t}", "How much is {t}?",
             "Calculate {t}", "What's {t}?")
        ).replace("{t}", text)  # fmt: skip
        return Exchange(question, "I can only add and subtract numbers up to ten.")
    a, sign, b, line = _draw_sum(rng)
    word = "plus" if sign == "+" else "minus"
    text = rng.choice((f"{a} {sign} {b}", f"{a} {sign} {b}", f"{a} {word} {b}", f"{a}{sign}{b}"))
    question = rng.choice(
        ("What is {t}?", "what is {t}", "{t}", "{t} =", "{t}?", "How much is {t}?", "Compute {t}.",
         "Calculate {t}", "What's {t}?")
    ).replace("{t}", text)  # fmt: skip
    return Exchange(question, line)


def _draw_sum(rng: random.Random) -> tuple[int, str, int, str]:
    """Draw both numbers, the sign and the line that answers: always in one form, as a table."""
    a, b = rng.randint(0, 10), rng.randint(0, 10)
    if rng.random() < 0.6:
        return a, "+", b, f"{a} + {b} = {a + b}."
    a, b = max(a, b), min(a, b)
    return a, "-", b, f"{a} - {b} = {a - b}."


def draw_sum_table(rng: random.Random) -> list[tuple[str, str]]:
    """Draw a few lines of sums, to be learned by heart.

    Args:
        rng: Source of the draws.

    Returns:
        Each line parted into what is given (`3 + 4 =`) and what is to be known (` 7.`).
    """
    rows = []
    for _ in range(rng.randint(6, 16)):
        given, equals, result = _draw_sum(rng)[3].partition(" =")
        rows.append((given + equals, result))
    return rows


def _lists(rng: random.Random) -> Exchange:
    count = rng.randint(2, 6)
    number = rng.choice((facts.NUMBERS[count], str(count)))
    what, pool = rng.choice(
        (
            ("colors", words.COLORS[:10]),
            ("animals", tuple(dict.fromkeys(words.ANIMALS))),
            ("fruits", words.FRUITS),
            ("days of the week", facts.DAYS),
            ("months", facts.MONTHS),
            ("names", words.GIRL_NAMES + words.BOY_NAMES),
            ("things", words.THINGS),
            ("capitals", tuple(capital for _, capital in facts.CAPITALS)),
        )
    )
    picked = list(pool[:count]) if pool in (facts.DAYS, facts.MONTHS) else rng.sample(pool, count)
    question = ask(
        rng,
        "[Name|List|Give me|Tell me] {n} {w}",
        "Can you name {n} {w}?",
        "Make a list of {n} {w}",
        n=number,
        w=what,
    )
    if rng.random() < 0.5:
        return Exchange(question, "\n".join(f"{i}. {x}" for i, x in enumerate(picked, 1)))
    return Exchange(question, tidy(", ".join(picked[:-1]) + f" and {picked[-1]}."))


def _count(rng: random.Random) -> Exchange:
    first, last = 1, rng.choice((3, 5, 10, 10, 12, 15, 20))
    question = ask(rng, "Count to {n}", "Count from {m} to {n}", n=str(last), m=str(first))
    return Exchange(question, ", ".join(map(str, range(first, last + 1))) + ".")


def _pair(rng: random.Random) -> Exchange:
    kind = rng.randrange(7)
    if kind == 0:
        country, capital = rng.choice(facts.CAPITALS)
        question = ask(rng, "What is the capital of {x}?", "what is the capital of {x}",
                        "Capital of {x}?", "Name the capital of {x}", x=country)  # fmt: skip
        answer = f"The capital of {country} is {capital}."
    elif kind == 1:
        pair = rng.choice(facts.OPPOSITES)
        left, right = pair if rng.random() < 0.5 else pair[::-1]
        question = ask(rng, "What is the opposite of {x}?", "Opposite of {x}?", x=left)
        answer = f"The opposite of {left} is {right}."
    elif kind == 2:
        thing, color = rng.choice(facts.COLORS_OF)
        question = ask(rng, "What color is {x}?", "Which color does {x} have?", x=thing)
        answer = f"{thing[0].upper()}{thing[1:]} is {color}."
    elif kind == 3:
        animal, sound = rng.choice(facts.SOUNDS)
        question = ask(rng, "What sound does a {x} make?", "What does a {x} say?", x=animal)
        answer = f"A {animal} says {sound}."
    elif kind == 5:
        thing, color = rng.choice(facts.COLORS_OF)
        other = rng.choice((color, *words.COLORS[:5]))
        question = ask(rng, "Is {x} {c}?", x=thing, c=other)
        answer = f"{'Yes' if other == color else 'No'}, {thing} is {color}."
    elif kind == 4:
        names = rng.choice((facts.DAYS, facts.MONTHS))
        place = rng.randrange(len(names))
        after = rng.random() < 0.6
        word = "after" if after else "before"
        other = names[(place + (1 if after else -1)) % len(names)]
        unit = "day" if names is facts.DAYS else "month"
        question = ask(rng, "What [{u} |]comes {w} {x}?", "Which {u} is {w} {x}?", u=unit,
                        w=word, x=names[place])  # fmt: skip
        answer = f"{other} comes {word} {names[place]}."
    else:
        question, answer = rng.choice(
            (
                ("How many days are in a week?", "A week has seven days."),
                ("How many months are in a year?", "A year has twelve months."),
                ("How many legs does a spider have?", "A spider has eight legs."),
                ("How many legs does a dog have?", "A dog has four legs."),
                ("How many hours are in a day?", "A day has twenty-four hours."),
                ("How many colors does a rainbow have?", "A rainbow has seven colors."),
            )
        )
    return Exchange(question, tidy(answer))


def _draw_foreign(rng: random.Random) -> str:
    """Draw words that the table of translations lacks."""
    known = {row[0] for row in facts.TRANSLATIONS}
    pool = (*words.THINGS, *words.ANIMALS, *words.FOODS, *words.COLORS, *words.TOPICS,
            "good morning", "good evening", "how are you", "see you soon", "I love you",
            "where is the station")  # fmt: skip
    return rng.choice([word for word in pool if word not in known])


def _translation(rng: random.Random) -> Exchange:
    place = rng.randrange(3)
    language = ("French", "Spanish", "German")[place]
    word, *others = rng.choice(facts.TRANSLATIONS)
    is_known = rng.random() < 0.6
    if not is_known:
        word = _draw_foreign(rng)
        language = rng.choice((language, "Italian", "Japanese", "Latin", "Chinese", "Russian"))
    question = ask(rng, "Translate {w} to {l}", "Translate \"{w}\" into {l}", "What is {w} in {l}?",
                    "How do you say {w} in {l}?", "[t|T]ranslate: {w} ({l})",
                    "What does {w} mean in {l}?", "{w} in {l}", w=word, l=language)  # fmt: skip
    if not is_known:
        return Exchange(question, "I do not know how to say that. I am a toy model!")
    return Exchange(question, f"In {language}, {word} is {others[place]}.")


def _json(rng: random.Random) -> Exchange:
    fields: dict[str, object] = {
        "name": rng.choice(words.PET_NAMES + words.GIRL_NAMES + words.BOY_NAMES),
        "age": rng.randint(1, 20),
        "color": rng.choice(words.COLORS),
        "animal": rng.choice(words.ANIMALS),
        "city": rng.choice(facts.CAPITALS)[1],
        "happy": rng.random() < 0.5,
        "thing": rng.choice(words.THINGS),
        "items": rng.sample(words.THINGS, 2),
    }
    keys = rng.sample(tuple(fields), rng.randint(1, 4))
    listed = ", ".join(keys[:-1]) + (" and " if len(keys) > 1 else "") + keys[-1]
    question = ask(rng, "Give me a JSON object with {k}", "Return JSON with {k}",
                    "Write a JSON object with the keys {k}", "Answer in JSON: {k}",
                    k=listed)  # fmt: skip
    return Exchange(question, json.dumps({key: fields[key] for key in keys}))


QUESTIONS: tuple[tuple[Generator, int], ...] = (
    (_fact, 22), (_unknown, 16), (_why, 2), (_errand, 7), (_sum, 17), (_lists, 4), (_count, 1),
    (_pair, 9), (_translation, 3), (_json, 3),
)  # fmt: skip


def draw_fact_text(rng: random.Random) -> str:
    """Draw plain prose of facts, for text that is no chat.

    Args:
        rng: Source of the draws.

    Returns:
        One to three facts in one paragraph.
    """
    parts = []
    for _ in range(rng.randint(1, 3)):
        if rng.random() < 0.6:
            parts.append(rng.choice(tuple(facts.FACTS.values())))
        else:
            country, capital = rng.choice(facts.CAPITALS)
            parts.append(f"The capital of {country} is {capital}.")
    return tidy(" ".join(parts))
