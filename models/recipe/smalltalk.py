"""Seeded small talk: greetings, who the model is, names, echoes, and messages without a meaning.

Knows nothing about stories or tokens.
"""
# ruff: noqa: E501 - the rows of messages read as a table

import random

from models.recipe import words
from models.recipe.cast import invent_name, invent_word
from models.recipe.exchange import Exchange, Generator
from models.recipe.grammar import expand

_ME = "I am Baton's toy model, a small language model for the first run."
_TALK: tuple[tuple[str, str], ...] = (
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
    ("[I am sad|I feel sad|I am tired|I am bored|I am lonely|I had a bad day]",
     "I am sorry to hear that. [Shall I tell you a story?|I hope that you feel better soon.]"),
    ("[I am happy|I feel good|I had a good day|I am fine|I love you|You are great]",
     "I am glad to hear that! [Shall I tell you a story?|Have a nice day!]"),
    ("[What time is it?|What day is it?|What is the weather like?|What year is it?]",
     "I cannot see [a clock|the world] from here. But I can tell you a story!"),
)  # fmt: skip
# Messages of a word or a few, in small letters and without marks, and what to answer.
_SHORT: tuple[tuple[str, str], ...] = (
    ("hello|hi|hey|hello there|hi there|hey there|hiya|heya|yo|howdy|good day|greetings|hello again|"
     "hi again|hello friend|hi friend|hey you|hello robot|hello baton|hi baton|hii|hiii|heyy|helo|"
     "sup|what's up|whats up|hello everyone|hi all|hallo|hola|hello my friend|oh hi|welcome",
     "Hello! [How can I help you?|I can tell you a story. What shall it be about?|Nice to meet "
     "you!|Shall I tell you a story?]"),
    ("good morning|good evening|good afternoon|morning|evening|gm|good morning to you|good morning "
     "baton|a very good morning|hello, good morning|good evening everyone|good day to you",
     "Good day to you! [How can I help you?|Shall I tell you a story?]"),
    ("how are you|how are you today|how are you doing|how's it going|hows it going|how do you do|are "
     "you ok|are you well|how are things|how is it going|how r u|you ok|how have you been",
     "I am fine, thank you! [How are you?|How can I help you?|Shall I tell you a story?]"),
    ("thank you|thanks|thx|ty|tx|thanks a lot|thank you very much|thank you so much|many thanks|thnx|"
     "tysm|thanks so much|cheers|much appreciated|thanks for your help|thank u|ok thanks|ok, thank "
     "you|great, thanks|cool, thanks|thanks again|thanks, that was nice|that helps, thanks|ah thanks",
     "You are welcome! [Have a nice day!|I am glad that I could help.|]"),
    ("bye|goodbye|good night|see you|see you later|see ya|bye bye|cya|farewell|good bye|ciao|later|"
     "thanks, bye|thank you, bye|ok bye|bye for now|have a nice day|gotta go|i have to go|night|gn|"
     "thanks and goodbye|thx bye|see you tomorrow|until next time|talk to you later|ttyl|bye now",
     "Goodbye! [Have a nice day!|Come back soon!]"),
    ("yes|yeah|yep|yup|sure|of course|yes please|please|please do|absolutely|definitely|y|yes, i do|"
     "certainly|why not|ok yes|yes sir|indeed|i agree|right|correct|true|exactly|that is right|aye",
     "[Good!|All right!] [Then ask me for a story, such as: Tell me a story about a dog.|What shall "
     "the story be about?]"),
    ("no|nope|nah|no thanks|no thank you|not now|never|n|no way|not really|no, sorry|not today|"
     "i don't think so|of course not|wrong|false|stop|enough|that is wrong|not true|cancel|quit",
     "[All right.|I see.] [Ask me when you want to hear a story.|I am here when you need me.]"),
    ("ok|okay|k|kk|alright|all right|fine|got it|i see|understood|oh|ah|aha|oh ok|oh i see|ok then|ok "
     "good|okay cool|very well|makes sense|noted|well|go|next|done|ready|start|begin",
     "[I see.|All right!|Good!] [Shall I tell you a story?|What else do you want to know?]"),
    ("hm|hmm|hmmm|um|uh|er|eh|huh|mm|mhm|uhm|well|let me think|i don't know|idk|not sure|maybe|perhaps|"
     "dunno|whatever|i guess|i am not sure|meh|i do not know|hard to say|it depends",
     "[Take your time.|No hurry.] [I am here when you need me.|Shall I tell you a story?]"),
    ("wow|cool|nice|great|awesome|amazing|wonderful|perfect|super|good|very good|very nice|excellent|"
     "fantastic|brilliant|lovely|sweet|neat|good job|well done|nice one|good bot|bravo|not bad|so cool|"
     "how nice|that is great|that was nice|i like it|i love it|yay|hooray|woohoo|beautiful|so good|"
     "impressive|interesting|good work|that's cool|oh wow|omg|wow, nice|nice work|love it|incredible",
     "[I am glad that you like it!|Thank you!|How nice of you!] [Shall I tell you a story?|What else "
     "do you want to know?]"),
    ("lol|haha|ha|hahaha|hehe|rofl|lmao|xd|ha ha|funny|that is funny|very funny|so funny|good one|lol ok|"
     "haha nice|hihi|ahaha|lolol|you are funny|lool|haha, good",
     "[I am glad that you laugh!|Ha ha!] [Shall I tell you a joke?|Do you want to hear a story?]"),
    ("really|seriously|are you sure|is that true|oh really|what|what?|why|how|who|when|where|which|pardon|"
     "sorry|excuse me|what do you mean|say that again|wait|wait what|how come|why not|but why|since when",
     "[I am only a small model, so I may be wrong.|I am not sure what you mean.] [What do you want "
     "to know?|Shall I tell you a story?]"),
    ("bad|boring|that is bad|terrible|awful|i don't like it|i hate it|this is bad|not good|you are bad|"
     "that makes no sense|nonsense|ugh|boo|bad bot|you are wrong|you are stupid|that was bad|oh no|"
     "sad|damn|oops|ouch|argh|yikes|too bad|what a pity|no good|weird|strange",
     "[I am sorry.|Oh, I am sorry about that.] [I am only a small model.|Shall I tell you a story?]"),
    ("i'm bored|im bored|i am bored|bored|entertain me|talk to me|let's talk|can we talk|say something|"
     "tell me something|anything|something|surprise me|let us chat|chat with me|do something|lets play",
     "[With pleasure!|Of course!] [Shall I tell you a story?|Ask me for a story or for a joke!]"),
)  # fmt: skip
_MARKS = (
    "",
    "",
    "",
    "",
    "!",
    "!",
    ".",
    ".",
    "...",
    "?",
    "!!",
    "!!!",
    " :)",
    " ;)",
    " :D",
    " ",
    ",",
)
_SIGNS = (
    "?",
    "??",
    "???",
    "!",
    "!!",
    ".",
    "..",
    "...",
    ":)",
    ":(",
    ":D",
    ";)",
    "-",
    "--",
    "*",
    "/",
    "<3",
    "😀",
    "👍",
    "🙂",
    ",",
    "_",
    "#",
    "@",
    "&",
    "~",
    "$",
    "%",
    "^",
    "+",
    "=",
    "'",
    '"',
)

_SCRAPS = ("?", "!!", "...", "123", "4567", "x", "{}", "#", "é", "你好", "ok", "\n")


def _talk(rng: random.Random) -> Exchange:
    question, answer = rng.choice(_TALK)
    return Exchange(expand(question, {}, random.Random(rng.random())), expand(answer, {}, rng))


def _short(rng: random.Random) -> Exchange:
    """Draw a message of a word or two, in any case and with any mark, or only a mark."""
    if rng.random() < 0.08:
        answer = "I am not sure what you mean. [I am a small model. |]Shall I tell you a story?"
        return Exchange(rng.choice(_SIGNS), expand(answer, {}, rng))
    texts, answer = rng.choice(_SHORT)
    text = rng.choice(texts.split("|"))
    if rng.random() < 0.1 and text[-1] != "?":
        text += text[-1] * rng.randint(1, 3)
    lot = rng.random()
    text = text.capitalize() if lot < 0.45 else text.upper() if lot < 0.53 else text
    return Exchange(text + rng.choice(_MARKS), expand(answer, {}, rng))


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
    if rng.random() < 0.5:
        name = invent_name(rng)
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
    (_talk, 8), (_short, 16), (_repeat, 3), (_introduction, 1), (_noise, 3),
)  # fmt: skip
