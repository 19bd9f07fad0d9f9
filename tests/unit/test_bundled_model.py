"""Properties of the model that ships with Baton, and of the generators that it learned from."""

import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM
from transformers import PreTrainedTokenizerFast as Tokenizer

from models.recipe import words
from models.recipe.cast import invent_name
from models.recipe.corpus import END_OF_TEXT, Document, draw_document, draw_exchange, render_chat
from models.recipe.exchange import Exchange
from models.recipe.grammar import expand, split_sentences, tidy
from models.recipe.plots import PLOTS
from models.recipe.sample import complete
from models.recipe.stories import draw_story
from models.recipe.tokenizer import CONTEXT_TOKENS, train_tokenizer
from models.recipe.train import Stage, choose_width, scale_rate

FOLDER = Path(__file__).resolve().parents[2] / "models" / "baton-toy"
NAMES = frozenset(
    words.BOY_NAMES + words.GIRL_NAMES + words.PET_NAMES + words.PET_MALES + words.PET_FEMALES
)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    loaded = AutoTokenizer.from_pretrained(FOLDER, local_files_only=True)
    assert isinstance(loaded, Tokenizer)
    return loaded


@pytest.fixture(scope="module")
def model() -> Iterator[LlamaForCausalLM]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    loaded = AutoModelForCausalLM.from_pretrained(
        FOLDER, dtype=torch.float32, local_files_only=True
    )
    yield cast(LlamaForCausalLM, loaded)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def write(model: LlamaForCausalLM, tokenizer: Tokenizer) -> Callable[..., str]:
    def write_greedily(prompt: str, *, chat: bool) -> str:
        return complete(model, tokenizer, prompt, chat=chat)

    return write_greedily


def draw_documents(seed: int, count: int) -> list[Document]:
    rng = random.Random(seed)
    return [draw_document(rng, long=index % 4 == 0) for index in range(count)]


def test_the_model_has_three_to_eight_million_parameters(model: LlamaForCausalLM) -> None:
    assert 3_000_000 <= sum(p.numel() for p in model.parameters()) <= 8_000_000


def test_the_folder_takes_at_most_sixteen_megabytes() -> None:
    assert sum(file.stat().st_size for file in FOLDER.rglob("*")) <= 16_000_000


def test_the_context_is_2048_tokens(model: LlamaForCausalLM, tokenizer: Tokenizer) -> None:
    assert model.config.max_position_embeddings == tokenizer.model_max_length == 2048


def test_both_end_tokens_end_an_answer(model: LlamaForCausalLM, tokenizer: Tokenizer) -> None:
    ends = {tokenizer.vocab["<|im_end|>"], tokenizer.vocab["<|endoftext|>"]}
    assert set(model.generation_config.eos_token_id) == ends


def test_the_vocabulary_of_the_model_is_that_of_the_tokenizer(
    model: LlamaForCausalLM, tokenizer: Tokenizer
) -> None:
    assert model.config.vocab_size == len(tokenizer)


@pytest.mark.parametrize(
    "text",
    ["Once upon a time", "def f(a):\n    return a  # ok", "naïve 你好 🙂", "12 + 7 =", " x  y\n"],
)
def test_any_text_survives_the_tokenizer(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_the_chat_template_marks_every_turn_and_opens_the_answer(tokenizer: Tokenizer) -> None:
    messages = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}]
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert text == (
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_the_chat_template_lays_out_what_the_model_was_trained_on(tokenizer: Tokenizer) -> None:
    document = render_chat([Exchange("Hi", "Hello!"), Exchange("Bye", "Goodbye!")], "Be kind.")
    messages = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello!"},
        {"role": "user", "content": "Bye"},
        {"role": "assistant", "content": "Goodbye!"},
    ]
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    assert "".join(segment.text for segment in document) == f"{text}{END_OF_TEXT}"


@pytest.mark.parametrize("chat", [False, True], ids=["raw", "chat"])
@pytest.mark.parametrize("opening", ["Once upon a time", "The little dog"])
def test_a_story_goes_on_for_sentences_and_ends_by_itself(
    write: Callable[..., str], opening: str, chat: bool
) -> None:
    text = write(opening, chat=chat)
    assert not text.endswith("<cut>")
    assert len(split_sentences(text)) >= 5
    assert text.endswith((".", "!", '"'))


ODD_OPENINGS = (
    "the queen", "the", "the dog", "The", "A", "dragon", "it was", "tom", "THE OLD MAN", "There",
    "Dr. Smith opened the door and saw", "It was raining when Maria",
)  # fmt: skip


@pytest.mark.parametrize("opening", ODD_OPENINGS)
def test_an_opening_of_a_word_or_two_goes_on_without_a_loop_and_ends(
    model: LlamaForCausalLM, tokenizer: Tokenizer, opening: str
) -> None:
    torch.manual_seed(0)
    text = complete(model, tokenizer, opening, chat=False, temperature=0.7)
    assert not text.endswith("<cut>")
    assert not re.search(r"\b(\w+)(?:\W+\1\b){2}", text), "a word three times in a row"
    assert len(split_sentences(text)) >= 5


def test_a_story_in_a_chat_keeps_the_name_that_the_user_gave(write: Callable[..., str]) -> None:
    text = write("Tell me a story about a dog named Max", chat=True)
    assert text.count("Max") >= 3


def test_a_story_in_a_chat_keeps_a_name_that_no_list_has(write: Callable[..., str]) -> None:
    text = write("Tell me a story about a dog named Hargreaves", chat=True)
    assert "Hargreaves" not in words.OTHER_BOY_NAMES + words.FAMILY_NAMES
    assert text.count("Hargreaves") >= 3


@pytest.mark.parametrize(
    ("question", "part"),
    [
        ("What is the capital of France?", "Paris"),
        ("What is Python?", "programming language"),
        ("Who are you?", "Baton"),
        ("Write a Python function to reverse a string", "return text[::-1]"),
        ("Your prompt here", "arrived"),
        ("thanks, bye!", "Goodbye"),
        ("How do I bake bread?", "model"),
        ("Write a SQL query that finds duplicate rows", "model"),
    ],
)
def test_a_short_answer_is_right_and_ends_by_itself(
    write: Callable[..., str], question: str, part: str
) -> None:
    text = write(question, chat=True)
    assert part in text
    assert not text.endswith("<cut>")


@pytest.mark.parametrize("plot", PLOTS)
def test_a_story_names_its_hero_and_its_friend_and_nobody_else(plot: str) -> None:
    for seed in range(40):
        story = draw_story(random.Random(seed), plot=plot, odd=seed % 4 == 0)
        named = NAMES & set(re.findall(r"[A-Z][a-z]+", story.text))
        assert named <= {story.cast.hero.name, story.cast.friend.name}
        assert story.cast.friend.name in story.text


@pytest.mark.parametrize("plot", PLOTS)
def test_a_story_names_its_hero_early_and_late(plot: str) -> None:
    for seed in range(40):
        story = draw_story(random.Random(seed), plot=plot, odd=seed % 4 == 0)
        name = story.cast.hero.name
        assert name in " ".join(story.sentences[:2])
        assert name in " ".join(story.sentences[len(story.sentences) // 2 :])


def test_a_story_about_a_given_hero_keeps_its_name_and_kind() -> None:
    story = draw_story(random.Random(1), kind="dragon", name="Zorblax")
    assert "Zorblax" in story.text
    assert "dragon" in story.text


def test_the_same_seed_tells_the_same_story() -> None:
    assert draw_story(random.Random(7)).text == draw_story(random.Random(7)).text


def test_generated_text_has_no_marks_and_no_wrong_articles() -> None:
    rng = random.Random(0)
    for _ in range(400):
        text = draw_story(rng, odd=rng.random() < 0.3).text
        assert not re.search(r"[{}\[\]|]|  ", text), text
        assert not re.search(r"\b[Aa] [aeio]", text), text


def test_a_first_sentence_of_any_shape_has_no_marks_and_no_wrong_articles() -> None:
    rng = random.Random(0)
    for _ in range(1000):
        sentence = draw_story(rng, free=True).sentences[0]
        assert not re.search(
            r"[{}\[\]|<>]|  |,,|,\.|\b[Aa] [aeio]|\b(?:the|a) (?:the|a)\b", sentence
        )
        assert re.match(r'"?[A-Z]', sentence), sentence


def test_a_story_whose_first_sentence_has_any_shape_names_its_hero_early_and_late() -> None:
    rng = random.Random(0)
    for _ in range(400):
        story = draw_story(rng, free=True)
        name = story.cast.hero.name
        assert name in " ".join(story.sentences[:5])
        assert name in " ".join(story.sentences[len(story.sentences) // 2 :])


def test_first_sentences_of_any_shape_begin_with_many_different_words() -> None:
    rng = random.Random(0)
    first = {draw_story(rng, free=True).sentences[0].split()[0] for _ in range(2000)}
    assert len(first) > 150


def test_an_invented_name_is_one_word_with_a_capital() -> None:
    rng = random.Random(0)
    names = {invent_name(rng) for _ in range(1000)}
    assert all(re.fullmatch("[A-Z][a-z]+", name) for name in names)
    assert len(names) > 900


def test_a_refusal_does_not_repeat_what_it_was_asked() -> None:
    rng = random.Random(0)
    answers = [draw_exchange(rng).answer for _ in range(5000)]
    refusals = [answer for answer in answers if "do not know" in answer]
    assert len(refusals) > 200
    assert len(set(refusals)) < 20


def test_no_question_and_no_answer_is_empty() -> None:
    rng = random.Random(0)
    for _ in range(1000):
        question, answer = draw_exchange(rng)
        assert question.strip()
        assert answer.strip()


def test_no_user_message_is_learned_and_every_document_ends_with_the_end_token() -> None:
    for document in draw_documents(0, 200):
        assert document[-1].text.endswith(END_OF_TEXT)
        assert not any(s.learned for s in document if "<|im_start|>" in s.text)
        assert any(segment.learned for segment in document)


def test_every_sum_that_is_answered_is_right() -> None:
    rng = random.Random(0)
    found = 0
    for _ in range(3000):
        answer = draw_exchange(rng).answer
        match = re.fullmatch(r"(\d+) ([+-]) (\d+) = (\d+)\.", answer)
        if match:
            a, sign, b, result = match.groups()
            assert int(result) == (int(a) + int(b) if sign == "+" else int(a) - int(b))
            found += 1
    assert found > 20


def test_every_function_that_is_shown_is_valid_python() -> None:
    rng = random.Random(0)
    for _ in range(1000):
        match = re.search(r"```python\n(.*)\n```", draw_exchange(rng).answer, re.DOTALL)
        if match:
            compile(match.group(1), "answer", "exec")


def test_a_template_fills_its_slots_before_it_draws_its_choices() -> None:
    text = expand(
        "{who} [sat|sat] on a {thing}.", {"who": "[max|max]", "thing": "apple"}, random.Random(0)
    )
    assert text == "Max sat on an apple."


def test_a_tag_after_a_quoted_cry_keeps_its_small_letter() -> None:
    assert tidy('"go!" he said. then he went.') == '"go!" he said. Then he went.'


def test_sentences_joined_again_are_the_text() -> None:
    text = draw_story(random.Random(3)).text
    assert " ".join(split_sentences(text)) == text


def test_the_rate_warms_up_and_then_falls_to_almost_nothing() -> None:
    rates = [scale_rate(step, 500) for step in range(500)]
    peak = rates.index(max(rates))
    assert rates[:peak] == sorted(rates[:peak])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert rates[-1] < 0.02


def test_rows_are_short_at_first_and_as_long_as_the_context_at_the_end() -> None:
    stage = Stage(1000, from_nothing=True, peak=1.0, chats=0.6, seed=0)
    widths = [choose_width(stage, step) for step in range(1000)]
    assert widths[0] == min(widths)
    assert widths[-1] == max(widths) == CONTEXT_TOKENS


def test_the_same_seed_learns_the_same_tokenizer() -> None:
    first, second = (train_tokenizer(5, num_documents=60) for _ in range(2))
    assert first.get_vocab() == second.get_vocab()
