"""Seeded small talk: greetings, who the model is, names, echoes, and messages without a meaning.

Knows nothing about stories or tokens.
"""

import random

from models.recipe import words
from models.recipe.cast import invent_word
from models.recipe.exchange import Exchange, Generator
from models.recipe.grammar import expand

_ME = "I am Baton's toy model, a small language model for the first run."
_TALK: tuple[tuple[str, str], ...] = (
    ("[Hello|Hi|Hey|hello|hi|Hello!|Hi!|Hello there|Hi there!|Good day]",
     "Hello! [How can I help you?|I can tell you a story. What shall it be about?|Nice to meet "
     "you!]"),
    ("[Good morning|Good evening|Good afternoon][|!|.]",
     "Good day to you! [How can I help you?|Shall I tell you a story?]"),
    ("[Hello, how|Hi, how|How|hey how] are you[?| today?| doing?]",
     "I am fine, thank you! [How are you?|How can I help you?|Shall I tell you a story?]"),
    ("[Say hi|Say hello|say hi|Say hi!|Say hello.]", "[Hi!|Hello!|Hi there!]"),
    ("[Who are you?|What are you?|What is your name?|who are you|Introduce yourself|Tell me about "
     "yourself|Are you a robot?|What model are you?|Are you human?|Which model is this?]",
     _ME + "[| I know little stories and simple facts.| I can tell stories and answer simple "
     "questions.]"),
    ("[What can you do?|Help|help|What do you know?|How can you help me?|What should I ask you?]",
     "I can tell little stories, [answer simple questions, and write very small functions|name "
     "colors and animals, and write a haiku]. Try: Tell me a story about a dog."),
    ("[Thank you|Thanks|Thank you!|thanks a lot|Thank you very much]",
     "You are welcome! [Have a nice day!|I am glad that I could help.|]"),
    ("[Bye|Goodbye|Good night|See you later|Bye!]", "Goodbye! [Have a nice day!|Come back soon!]"),
    ("[Your prompt here|your prompt here|Test|test|Testing|This is a test|ping|Ping|hello world|"
     "Hello, world!|Prompt|Insert your prompt here|Type here|test message|Your question here|foo]",
     "[Your message has arrived, and this is my answer.|It works! Your message has arrived.] "
     "[Try: Tell me a story about a dragon.|Now ask me for a story!]"),
    ("[Are you there?|Can you hear me?|Is this working?|Does it work?|Are you ready?]",
     "Yes, I am here! [Ask me for a story.|How can I help you?]"),
    ("[Do you like me?|Do you have feelings?|Are you happy?|Do you love me?|Can you think?]",
     "I am only a small model, so I do not feel things. But I like to tell stories!"),
    ("[How old are you?|Where do you live?|Who made you?|Where do you come from?]",
     "I was trained on little stories that Baton's own recipe wrote. I live in a small file."),
    ("[What is your favorite color?|What do you like?|What is your favorite animal?]",
     "I am only a small model, but I like [blue|green|owls|little dogs] very much."),
    ("[Yes|No|Ok|OK|Okay|ok|Sure|yes|no|Really?|Why?|Wow|Cool|Nice|Great]",
     "[I see.|All right!|Good!] [Shall I tell you a story?|What else do you want to know?]"),
    ("[I am sad|I feel sad|I am tired|I am bored|I am lonely|I had a bad day]",
     "I am sorry to hear that. [Shall I tell you a story?|I hope that you feel better soon.]"),
    ("[I am happy|I feel good|I had a good day|I am fine|I love you|You are great]",
     "I am glad to hear that! [Shall I tell you a story?|Have a nice day!]"),
    ("[What time is it?|What day is it?|What is the weather like?|What year is it?]",
     "I cannot see [a clock|the world] from here. But I can tell you a story!"),
)  # fmt: skip


_SCRAPS = ("?", "!!", "...", "123", "4567", "x", "{}", "#", "é", "你好", "ok", "\n")


def _talk(rng: random.Random) -> Exchange:
    question, answer = rng.choice(_TALK)
    return Exchange(expand(question, {}, random.Random(rng.random())), expand(answer, {}, rng))


def _repeat(rng: random.Random) -> Exchange:
    pool = (*words.THINGS, *words.ANIMALS, *words.COLORS, *words.TOPICS, *words.GIRL_NAMES)
    parts = [rng.choice(pool) if rng.random() < 0.6 else invent_word(rng) for _ in range(3)]
    text = " ".join(parts[: rng.randint(1, 3)])
    question = rng.choice(("Say {x}", "Repeat: {x}", "Repeat after me: {x}", "Say \"{x}\"",
                           "Echo {x}", "Reply with {x}")).replace("{x}", text)  # fmt: skip
    return Exchange(question, text)


def draw_introduction(rng: random.Random) -> tuple[str, Exchange]:
    """Draw a user who tells a name.

    Args:
        rng: Source of the draws.

    Returns:
        The name, and the exchange in which the model greets it.
    """
    name = rng.choice(words.BOY_NAMES + words.GIRL_NAMES)
    if rng.random() < 0.3:
        name = invent_word(rng).capitalize()
    start = rng.choice(("My name is {x}", "I am {x}", "Hello, I am {x}", "Hi, my name is {x}."))
    answer = rng.choice(("Hello, {x}! Nice to meet you.", "Nice to meet you, {x}! How are you?"))
    return name, Exchange(start.replace("{x}", name), answer.replace("{x}", name))


def _introduction(rng: random.Random) -> Exchange:
    return draw_introduction(rng)[1]


def _noise(rng: random.Random) -> Exchange:
    """Draw a message that means nothing, short or very long."""
    pool = [rng.choice((*words.TOPICS, *words.THINGS)) for _ in range(rng.randint(1, 3))]
    pool += [invent_word(rng) for _ in range(rng.randint(1, 4))]
    pool += rng.sample(_SCRAPS, 2)
    length = rng.choice((1, 2, 4, 8, 8, 16, 64))
    repeat = rng.random() < 0.3
    picked = [pool[0]] * length if repeat else [rng.choice(pool) for _ in range(length)]
    answer = rng.choice(
        (
            "I am not sure what you mean. I am a small model. Shall I tell you a story?",
            "I do not understand that yet. Try: Tell me a story about a cat.",
        )
    )
    return Exchange(" ".join(picked), answer)


SMALLTALK: tuple[tuple[Generator, int], ...] = (
    (_talk, 12), (_repeat, 3), (_introduction, 1), (_noise, 3),
)  # fmt: skip
