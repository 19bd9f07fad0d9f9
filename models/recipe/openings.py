"""First sentences of every shape, so that a story can go on from any word of any of them.

A shape holds `<part>` marks, each drawn afresh from a small grammar of subjects, deeds, events and
things, and `{slot}` marks of the cast. After it, a bridge brings in the hero.
Knows nothing about plots.
"""
# ruff: noqa: E501, SIM905 - shapes and rows of plain words read as tables

import random
import re
from typing import NamedTuple

from models.recipe import words

_MARK = re.compile(r"<(\w+)>")


class Subject(NamedTuple):
    """Who does it, with the words that must agree with it."""

    text: str
    he: str
    his: str
    was: str


def _subjects(he: str, his: str, was: str, texts: str) -> tuple[Subject, ...]:
    return tuple(Subject(text, he, his, was) for text in texts.split("|"))


_HERO = _subjects(
    "{he}", "{his}", "was",
    "{name}|{name}|{name}|the {kind}|the {adj} {kind}|a {kind}|a {adj} {kind}|a {kind} named {name}"
    "|{name} the {kind}|my friend {name}|our {kind}|this {kind}",
) + _subjects("they", "their", "were", "{name} and <other>|{name} and I|<other> and {name}")  # fmt: skip
_OTHERS = (
    *_subjects("she", "her", "was", "my grandmother|my mother|the old woman|my sister|my aunt|my sister <other>|the "
               "queen of the land|the teacher|our neighbor|the girl next door|her mother|a nurse"),
    *_subjects("he", "his", "was", "my grandfather|my father|the old man|my brother|my uncle|the "
               "king|the mayor|the captain|the man with the hat|his father|the doctor|a stranger"),
    *_subjects("they", "their", "were", "they|the children|<other> and <other>|two brothers|the three sisters|my "
               "parents|the students|the people of the village|some sailors|my friends|the guests|"
               "the twins|the soldiers|all the animals|both of them|many people|the boys|her "
               "friends|most of the girls|the farmers"),
    *_subjects("we", "our", "were", "we|my sister and I|my brother and I|my friend and I|my mother "
               "and I|all of us|my cousins and I|my friend <other> and I|<other> and I|the two of us|my family and I"),
    *_subjects("I", "my", "was", "I|I"),
    *_subjects("you", "your", "were", "you"),
    *_subjects("", "the", "was", "nobody|everybody|somebody|no one|someone|everyone|each of them|"
               "one of us|the whole town|the old dog|the black cat|a little bird|the wind|one of "
               "the children|the youngest of them"),
)  # fmt: skip

# What anybody may do: the plain form, the past and the form on -ing, then what follows.
_DEEDS = tuple(
    tuple(row.split("/"))
    for row in (
        "go/went/going/ to {place}|walk/walked/walking/ through the <room>|run/ran/running/ away|"
        "come/came/coming/ home late|sit/sat/sitting/ by the fire|sleep/slept/sleeping/ all day|"
        "open/opened/opening/ the <noun>|close/closed/closing/ the door|see/saw/seeing/ <thing>|"
        "find/found/finding/ <thing>|lose/lost/losing/ <his> <noun>|look/looked/looking/ for <thing>|"
        "look/looked/looking/ at <thing>|hear/heard/hearing/ a strange sound|build/built/building/ "
        "<thing>|make/made/making/ <thing>|eat/ate/eating/ {fruits}|drink/drank/drinking/ some water|"
        "buy/bought/buying/ <thing>|sell/sold/selling/ <thing>|write/wrote/writing/ a letter|"
        "read/read/reading/ an old book|sing/sang/singing/ a song|dance/danced/dancing/ in the rain|"
        "laugh/laughed/laughing/ out loud|cry/cried/crying/ for a long time|wait/waited/waiting/ "
        "near {place}|travel/traveled/traveling/ to the <room>|fly/flew/flying/ a kite|"
        "swim/swam/swimming/ across the lake|climb/climbed/climbing/ a mountain|fall/fell/falling/ "
        "into the water|wake/woke/waking/ up early|dream/dreamed/dreaming/ of <thing>|"
        "think/thought/thinking/ about <thing>|tell/told/telling/ a story|ask/asked/asking/ for "
        "help|leave/left/leaving/ the house|bring/brought/bringing/ <thing>|take/took/taking/ <thing>"
        "|hide/hid/hiding/ behind the <noun>|play/played/playing/ with <thing>|work/worked/working/ "
        "very hard|talk/talked/talking/ about <thing>|live/lived/living/ in {home}|stay/stayed/"
        "staying/ at home|cook/cooked/cooking/ soup|bake/baked/baking/ {food}|give/gave/giving/ away "
        "<thing>|forget/forgot/forgetting/ the <noun>|break/broke/breaking/ the <noun>|win/won/"
        "winning/ the race|learn/learned/learning/ to fly|draw/drew/drawing/ <thing>|carry/carried/"
        "carrying/ <thing>|follow/followed/following/ the <noun>|help/helped/helping/ the <one>|"
        "meet/met/meeting/ the <one>|visit/visited/visiting/ the <one>|love/loved/loving/ <thing>|"
        "want/wanted/wanting/ <thing>|need/needed/needing/ <thing>|stand/stood/standing/ in the dark|"
        "turn/turned/turning/ around|smile/smiled/smiling/ at the <one>|feel/felt/feeling/ {glad}"
        "|feel/felt/feeling/ {sad}|arrive/arrived/arriving/ late|have/had/having/ <thing>|"
        "have/had/having/ no time|drive/drove/driving/ to the city|pick/picked/picking/ some {fruits}"
    ).split("|")
)  # fmt: skip
NOUNS = tuple(
    "house door window garden forest river mountain sea sky moon star sun road bridge tower castle "
    "city village school shop market kitchen table chair bed lamp book letter key box bag hat coat "
    "shoe ring crown sword ship boat train car bicycle balloon clock bell drum flute song picture "
    "mirror map tree flower leaf stone seed apple cake cup bottle basket blanket toy "
    "doll ball kite robot computer phone machine dog cat bird horse cow fish mouse rabbit fox bear "
    "wolf owl frog dragon giant ghost witch wizard storm wind fire light shadow night "
    "morning winter summer island cave lake beach field farm barn library museum hospital station "
    "street room wall roof tunnel desert valley secret dream story voice child friend "
    "stranger party gift coin treasure wagon rope ladder pencil camera suitcase ticket piano".split()
)
_PLURALS = tuple(
    "children cats dogs birds horses mice men women brothers sisters friends houses trees flowers "
    "stars boats books keys doors apples kings queens giants dragons robots sailors clouds bells "
    "chairs letters roads bears owls frogs rabbits boxes hats stones people girls boys ships eggs "
    "candles windows wolves fish sheep shoes lamps".split()
)
QUALITIES = tuple(
    "strange old new big small dark empty quiet cold warm heavy bright beautiful "
    "broken magic golden round soft loud wonderful dangerous important".split()
)
_PARTS: dict[str, tuple[str, ...]] = {
    "noun": NOUNS,
    "other": words.OTHER_BOY_NAMES + words.OTHER_GIRL_NAMES + words.BOY_NAMES + words.GIRL_NAMES,
    "room": tuple("garden forest kitchen castle city village school shop house tower cave valley "
                  "desert barn library museum hospital station street tunnel field hall market "
                  "dark snow water mountains woods park ship train box drawer cellar".split()),
    "thing": (
        "a <noun>", "the <noun>", "an old <noun>", "the big <noun>", "<his> <noun>", "some <plural>",
        "a {color} <noun>", "<count> <plural>", "a new <noun>", "the last <noun>", "the <plural>",
        "the <noun> of the <one>", "something <quality>", "a <noun> in the <room>",
    ),
    "plural": _PLURALS,
    "count": (*"two three four five six seven ten twelve many some several".split(), "a few",
              "a hundred", "a lot of", "so many"),
    "one": tuple("king queen farmer teacher baker sailor doctor neighbor stranger captain child "
                 "wizard gardener cook giant painter".split()),
    "quality": QUALITIES,
    "adverb": tuple("suddenly slowly quietly luckily sadly finally soon then later usually often "
                    "sometimes still again carefully happily".split()),
    "lead": (
        "suddenly", "yesterday", "today", "then", "soon", "at first", "at last", "finally",
        "one day", "one night", "one {weather} {time}", "last night", "last {season}", "once",
        "long ago", "many years ago", "in the end", "in the morning", "at midnight", "after school",
        "on Monday", "every {time}", "every day", "all at once", "of course", "luckily", "sadly",
        "slowly", "quietly", "the next day", "a week later", "in {season}", "during the storm",
        "before breakfast", "after a long day", "early one morning", "sometimes", "often", "again",
        "behind the <noun>", "in the <room>", "under the <noun>", "near {place}", "with a smile",
        "without a word", "to everyone's surprise", "for many years", "deep in the forest",
        "from time to time", "that night", "this morning", "when I was young", "maybe", "perhaps",
        "meanwhile", "now", "later", "in those days", "for some reason", "at the end of the road",
    ),
    "joint": ("when", "when", "while", "because", "before", "after", "until", "as", "since", "as "
              "soon as", "whenever"),
    "link": ("and", "but", "so", "because", "when", "while", "before", "until", "as if", "and then",
             "although", "for", "after", "where", "even though"),
    "turn": ("fell down", "was gone", "began to shine", "made a strange sound", "was empty", "broke",
             "was open", "was <quality>", "was very <quality>", "stood still", "had no name",
             "never moved", "disappeared", "smelled of {fruits}", "was full of <plural>",
             "belonged to the <one>", "looked <quality>", "was so <quality>", "shook", "stopped",
             "had been <quality> for years", "was always <quality>", "was not there any more"),
    "event": (
        "it began to rain", "it was raining", "the lights went out", "the bell rang",
        "the clock struck twelve", "the sun went down", "there was a knock at the door",
        "the <noun> <turn>", "the <noun> <turn>", "it was {weather}", "it was <quality>",
        "it was too late", "there was <thing>", "there were <count> <plural> in the <room>",
        "the <one> <past>", "the <one> <past>", "nobody was at home", "everybody was asleep",
        "something <quality> happened", "the <plural> were gone", "it got dark",
    ),
    "fact": (
        "<event>", "<event>", "the <noun> <turn>", "everything would be fine", "winter was coming",
        "nobody should <plain>", "the <one> would <plain>", "one day the <one> would <plain>",
        "every <noun> has a story", "there was a <noun> under the <noun>", "<plural> could talk",
        "it was time to <plain>", "a good friend is better than gold", "<who> would never <plain>",
        "<who> could <plain>", "<who> had to <plain>", "nothing was as <quality> as a <noun>",
    ),
    "say": ("said", "always said", "knew", "thought", "believed", "hoped", "heard", "told me", "felt",
            "could see", "noticed", "dreamed", "wrote", "never forgot", "remembered", "often told us",
            "felt sure", "did not know", "used to say", "understood", "decided", "found out"),
    "who": ("I", "we", "they", "he", "she", "you", "the <one>", "my sister", "my sister and I",
            "the children", "nobody", "{name}", "the {kind}"),
    "asked": ("why", "how", "where", "when", "if", "whether", "what happened when", "how often"),
    "will": ("could", "would", "must", "should", "did not", "could not", "might", "will",
             "can", "would never", "wanted to", "had to", "tried to", "used to", "began to", "liked "
             "to", "<was> not able to", "<was> going to", "<was> about to", "never had to"),
}  # fmt: skip
# `<s>` is the subject; `<he>`, `<his>` and `<was>` agree with it.
_SHAPES = (
    "<s> <past>.", "<s> <past>.", "<lead><c> <s> <past>.", "<lead><c> <s> <past>.",
    "<lead><c> <s> <past> <link> <event>.", "<s> <past> <link> <event>.",
    "<s> <past> and <past>.", "<s> <past>, <past> and <past>.", "<s> <past>, so <event>.",
    "<s> <past> with <thing>.", "<s> <was> <ing> when <event>.", "<lead><c> <s> <was> <ing>.",
    "<s> <was> <ing>, and <event>.", "<joint> <s> <past>, <event>.", "<joint> <s> <past>, <event>.",
    "<joint> <event>, <s> <past>.", "<joint> <event>, <s> <past>.", "<joint> <s> <was> <ing>, <event>.",
    "<joint> the <noun> <turn>, <s> <past>.", "if <s> <past>, the <one> would <plain>.",
    "if the <noun> <turn>, <s> would <plain>.", "<s> <say> that <fact>.", "<s> <say> that <fact>.",
    "<s> always said that <fact>.", "<lead><c> <s> <say> that <fact>.", "<s> <say> <fact>.",
    "<s> asked <asked> <event>.", "<s> wondered <asked> <event>.", "<s> did not know <asked> <event>.",
    "<s> told the <one> that <fact>.", "<s> asked the <one> to <plain>.", "<s> <will> <plain>.",
    "<s> <will> <plain>, but <event>.", "<s> <will> <plain> because <event>.",
    "<lead><c> <s> <will> <plain>.", "<s> had never <done> before.", "<s> had just <done> when <event>.",
    "<s> wanted the <one> to <plain>.", "<s> stopped <ing> and <past>.", "<s> kept <ing> until <event>.",
    "<s> liked <ing> more than anything.", "<ing>, <s> <past>.", "to <plain>, <s> <past>.",
    "without <ing>, <s> <past>.", "<s>, who <past>, <past>.", "{name}, the {adj} {kind}, <past>.", "the {kind}, whose name was {name}, <past>.", "<s> <was> the only one who <past>.",
    "<s> <was> very <quality>.", "<s> <was> so <quality> that <event>.", "<s> <was> too tired to <plain>.",
    "<s> <was> not <quality> at all.", "<s> <adverb> <past>.", "<adverb>, <s> <past>.", "<adverb> <s> <past>.",
    "all <s> wanted was <thing>.", "what <s> saw was <thing>.", "the <noun> that <s> found was <quality>.",
    "the day <s> <past>, <event>.", "the first time <s> <past>, <event>.", "every time <s> <past>, <event>.",
    "nobody knew <asked> <s> <past>.", "nobody knew why <s> <past>.", "everybody thought that <s> <past>.",
    "it was strange that <s> <past>.", "it was <his> <noun> that <s> wanted.", "no one believed that <s> <past>.",
    "<s> had <thing>.", "<s> had <count> <plural>.", "<s> saw <count> <plural> in the <room>.",
    "<s> could see <thing> from the <room>.", "<his> <noun> was <quality>, so <s> <past>.",
    "<his> <noun> was <quality>, and <his> <noun> was <quality>.", "<s> <past>; <event>.", "<s> <past> - <event>.",
)  # fmt: skip
# Shapes without that subject.
_FREE = (
    "there was <thing>.", "there was a <quality> <noun> in the <room>.", "there was no <noun> in {home}.",
    "there was once a <noun> that <turn>.", "there was something <quality> about the <noun>.",
    "there were <count> <plural>.", "there were <count> <plural> in the <room>.", "there were three <plural> who <past>.",
    "there were <count> <plural> and a <noun>.", "there are <count> <plural> in the <room>.", "there is a <noun> in {home}.",
    "there were once two <plural> who lived in {home}.", "<count> <plural> lived in {home}.", "<count> <plural> <past>.",
    "<count> <plural> were <ing> when <event>.", "[two|three|some|many|none] of the <plural> <past>.", "one of the <plural> was <quality>.",
    "it was a <quality> <noun>.", "it was a {weather} {time}, and <event>.", "it was raining, and <event>.",
    "it was the <noun> that <turn>.", "it was late when <event>.", "it was so cold that <event>.", "it was <quality> in the <room>.",
    "it all began when <event>.", "it was not the <noun> that <turn>.", "it was <count> days before <event>.", "it is said that <fact>.",
    "the <noun> <turn>.", "the <noun> <turn>, and <event>.", "the <noun> in the <room> <turn>.", "the <noun> of the <one> <turn>.",
    "the <quality> <noun> <turn>.", "the <quality> <noun> <turn> <link> <event>.", "the <noun> and the <noun> were <quality>.",
    "the <noun> that the <one> made <turn>.", "the <plural> <past>.", "the <plural> were <quality>, and <event>.", "the <one> <past>.",
    "the <one> <say> that <fact>.", "the <one> and the <one> <past>.", "the <one> of the <noun> <past>.", "the <one>, an old man, <past>.",
    "the <one> who <past> was very <quality>.", "the problem was that <fact>.", "the truth is that <fact>.", "the first thing that I saw was <thing>.",
    "a <noun> <turn>.", "a <noun> and a <noun> <turn>.", "a <quality> <noun> stood in the <room>.", "a <one> <past>.", "an old <one> <past> <link> <event>.",
    "nobody knew why the <noun> <turn>.", "nobody knew <asked> <event>.", "nobody knew what was in the <room>.", "nobody <say> that <fact>.",
    "nobody had ever <done>.", "nothing <quality> ever happened in {home}.", "no <noun> was as <quality> as this one.", "everything was <quality>.",
    "some <plural> are <quality>.", "some people say that <fact>.", "all the <plural> <past>.", "most <plural> like {fruits}.", "every <noun> has a <noun>.",
    "each of the <plural> <past>.", "both <plural> were <quality>.", "another <noun> <turn>.", "this is how the <one> <past>.", "this <noun> was <quality>.",
    "that <noun> was <quality>.", "these <plural> were <quality>.", "those were <quality> days.", "that was the day when <event>.", "here is what happened when <event>.",
    "<lead><c> there was <thing>.", "<lead><c> there were <count> <plural>.", "<lead><c> <event>.", "<lead><c> <event>.", "<lead><c> the <noun> <turn>.",
    "<joint> <event>, there was <thing>.", "in the <room>, there was <thing>.", "in the <room> there were <count> <plural>.", "on the <noun> stood a <noun>.",
    "under the <noun>, there lived <count> <plural>.", "at the <room>, <event>.", "from the <room> came a <quality> sound.", "beyond the <room>, <event>.",
    "my <noun> was <quality>.", "my <noun> <turn>.", "my favorite <noun> was gone.", "our <noun> <turn>.", "his <noun> was <quality>.", "her <noun> <turn>.",
    "their <noun> was full of <plural>.", "my mother's <noun> <turn>.", "the <one>'s <noun> <turn>.", "not far from {place}, <event>.", "as <quality> as the <noun> was, <event>.",
    "why was the <noun> <quality>?", "why did the <one> <plain>?", "why does the <noun> look so <quality>?", "why is there a <noun> in the <room>?", "why do <plural> <plain>?",
    "how did the <one> <plain>?", "how can a <noun> be so <quality>?", "where did the <plural> go?", "where was the <noun>?", "who took the <noun>?", "who was the <one>?",
    "what was in the <room>?", "what did the <one> see?", "what would you do if <event>?", "when did the <one> <plain>?", "did you know that <fact>?",
    "have you ever seen <thing>?", "do you remember when <event>?", "can a <noun> be <quality>?", "what a <quality> <noun>!", "how <quality> the <noun> was!",
    "imagine that <fact>.", "imagine a <quality> <noun>.", "listen, and I will tell you <asked> <event>.", "let me tell you <asked> <event>.", "look at the <noun>!",
    '"where is the <noun>?" asked the <one>.', '"I want <thing>," said the <one>.', '"<event>," said the <one>.', '"help me!" cried the <one>.', '"why?" asked the <one>.',
    "I remember the day when <event>.", "I will never forget <asked> <event>.", "I have <thing>.", "I am <quality>.", "I like <plural>.", "we live in {home}.",
    "only the <one> knew that <fact>.", "neither the <one> nor the <one> <past>.", "either the <noun> was <quality> or <event>.", "not many people know that <fact>.",
    "once, <event>.", "once a <one> <past>.", "years passed before <event>.", "summer was over when <event>.", "rain fell on the <noun>.", "time went by, and <event>.",
)  # fmt: skip
# How the story comes to its hero, by what the first sentence has said of the hero.
_BRIDGES = {
    "name": ("{name} was a {adj} {kind}. {lived}", "{he} was a {adj} {kind}. {liked}",
             "{name} was a {adj} {kind}. {liked}", "{name}, a {adj} {kind}, lived in {home}."),
    "kind": ("{his} name was {name}. {lived}", "The {kind} was called {name}. {liked}",
             "The name of the {kind} was {name}. {liked}", "{his} name was {name}. {liked}"),
    "": ("In those days, a {adj} {kind} [named|called] {name} lived nearby. {liked}",
         "[This|Here] is the story of a {adj} {kind} [named|called] {name}. {liked}",
         "There was also a {adj} {kind}. {his} name was {name}. {liked}",
         "Only {name}, a {adj} {kind}, was not afraid. {liked}",
         "{name}, the {adj} {kind}, saw it all. {lived}",
         "A {adj} {kind} [named|called] {name} was there, too. {liked}",
         "And {name}? {name} was a {adj} {kind}. {liked}"),
}  # fmt: skip
_PARTICIPLES = (
    "been so <quality>", "seen <thing>", "found <thing>", "gone home", "been to {place}",
    "eaten {fruits}", "heard of <thing>", "lost <his> <noun>", "made <thing>", "come home",
    "left the house", "slept so well", "told a story", "opened the <noun>", "begun to sing",
)  # fmt: skip


def _draw_part(part: str, subject: Subject, rng: random.Random) -> str:
    if part in ("s", "he", "his", "was"):
        return {"s": subject.text, "he": subject.he, "his": subject.his, "was": subject.was}[part]
    if part == "c":
        return rng.choice((",", ",", ""))
    if part == "done":
        return rng.choice(_PARTICIPLES)
    forms = ("plain", "past", "ing")
    if part in forms:
        deed = rng.choice(_DEEDS)
        return deed[forms.index(part)] + deed[3]
    return rng.choice(_PARTS[part])


def draw_opening(rng: random.Random) -> str:
    """Draw a first sentence of any shape and the bridge to the hero.

    Args:
        rng: Source of the draws; the same state gives the same opening.

    Returns:
        A template with the slots of a cast, `{lived}` and `{liked}`, whose sentences may still
        begin with small letters.
    """
    is_free = rng.random() < 0.4
    subject = rng.choice(_OTHERS if is_free or rng.random() < 0.5 else _HERO)
    if is_free:
        # Nobody is named whom `his` could mean.
        subject = Subject("", "", "the", "was")
    text = rng.choice(_FREE if is_free else _SHAPES)
    while _MARK.search(text):
        text = _MARK.sub(lambda match: _draw_part(match.group(1), subject, rng), text)
    told = "name" if "{name}" in text else "kind" if "{kind}" in text else ""
    first = 1 if text.startswith('"') else 0
    text = text[:first] + text[first].upper() + text[first + 1 :]
    return f"{text} {rng.choice(_BRIDGES[told])}"
