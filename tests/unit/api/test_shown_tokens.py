"""Log-probabilities cover the text that a client has, by the engine's own transcript of it."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from api.openai.shown_tokens import ShownTokens
from api.token_texts import TokenTexts
from common.model_entries import BUNDLED_DIR
from common.sampling import SamplingSpec
from common.token_logprobs import TokenLogprobs
from worker.engine.detokenizer import TokenTable
from worker.engine.sequence import Request, SamplingParams
from worker.engine.transcript import Transcript

TOKENIZER = Tokenizer.from_file(str(BUNDLED_DIR / "tokenizer.json"))
TABLE, TEXTS = TokenTable(TOKENIZER), TokenTexts(TOKENIZER)
EOS = TOKENIZER.encode("<|im_end|>", add_special_tokens=False).ids


@dataclass
class Told:
    """What one client is told of a choice, in pieces."""

    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)


def logprobs_of(ids: list[int]) -> list[TokenLogprobs]:
    return [TokenLogprobs(-float(i)) for i in ids]


def tell(ids: list[int], stop: tuple[str, ...], piece: int) -> tuple[Told, list[int]]:
    """What is told of generated tokens, in pieces of so many; and the tokens until the end."""
    params = SamplingParams(max_tokens=len(ids), stop=stop)
    transcript = Transcript(Request("r", (1,), params), TABLE, frozenset())
    texts = []
    for token_id in ids:
        texts.append(transcript.append(token_id))
        if transcript.finish_reason is not None:
            break
    ids = ids[: len(texts)]
    shown = ShownTokens(SamplingSpec(max_tokens=1, time_limit_s=1, seed=0, stop=stop), TEXTS)
    told = Told()
    for start in [*range(0, len(ids), piece), None]:
        part = slice(0, 0) if start is None else slice(start, start + piece)
        text = transcript.tail() if start is None else "".join(texts[part])
        tokens = shown.take(text, ids[part], logprobs_of(ids[part]), is_last=start is None)
        told.text += text
        told.token_ids += tokens[0]
        told.logprobs += tokens[1]
    return told, ids


def num_covering(ids: list[int], text: str) -> int:
    """The fewest tokens whose text has all of this one."""
    return next(n for n in range(len(ids) + 1) if TEXTS.decode(ids[:n]).startswith(text))


TEXT = st.text(st.sampled_from("ab é中 .\n"), max_size=12)


@given(
    TEXT.map(lambda text: TOKENIZER.encode(text, add_special_tokens=False).ids),
    st.lists(st.text(st.sampled_from("ab é中 ."), min_size=1, max_size=3), max_size=3),
    st.integers(1, 4),
)
@example(TOKENIZER.encode("Tom has a dog.").ids, ["as a"], 1)
@example([*TOKENIZER.encode("a").ids, *TOKENIZER.encode("b").ids], ["abc", "b"], 1)
def test_the_tokens_told_are_those_of_the_text_however_it_comes(
    ids: list[int], stop: list[str], piece: int
) -> None:
    told, generated = tell(ids, tuple(stop), piece)
    is_cut = len(told.text) < len(TEXTS.decode(generated))
    count = num_covering(generated, told.text) if is_cut else len(generated)
    assert told.token_ids == generated[:count]
    assert told.logprobs == logprobs_of(generated[:count])


@pytest.mark.parametrize("piece", [1, 2, 100])
def test_a_token_that_the_cut_goes_through_stays_and_those_behind_go(piece: int) -> None:
    ids = TOKENIZER.encode("Tom has a little dog.", add_special_tokens=False).ids
    names = [TEXTS.bytes_of(i).decode() for i in ids]
    place = names.index(" little")
    told, generated = tell(ids, ("ittle dog",), piece)
    assert told.text == "Tom has a l"
    assert told.token_ids == ids[: place + 1]
    assert len(generated) == place + 2


def test_the_token_that_ends_an_answer_stays_where_no_stop_text_was_found() -> None:
    assert [TEXTS.is_special(i) for i in EOS] == [True]
    ids = [*TOKENIZER.encode("A dog", add_special_tokens=False).ids, *EOS]
    told, _ = tell(ids, ("cat",), 1)
    assert told.token_ids == ids


def test_without_stop_texts_no_token_waits() -> None:
    shown = ShownTokens(SamplingSpec(max_tokens=1, time_limit_s=1, seed=0), TEXTS)
    [half, *_] = TOKENIZER.encode("中", add_special_tokens=False).ids
    assert shown.take("", [half], logprobs_of([half])) == ((half,), tuple(logprobs_of([half])))
