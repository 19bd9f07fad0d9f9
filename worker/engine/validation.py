"""Say what is wrong with a request before it can touch any other.

Pure functions of the request and the model's limits. Types are looked at too: what a caller hands
in that a later step could not compute with would end that step, and with it everybody's.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from worker.engine.errors import RequestError
from worker.engine.sequence import (
    MAX_CHOICES,
    MAX_LOGIT_BIASES,
    MAX_LOGPROBS,
    MAX_STOP_IDS,
    Request,
    SamplingParams,
)

# Scores are fp32: what lies beyond would turn into an infinity or a zero there.
_MAX_INT = 2**31 - 1
_MAX_FLOAT = 1e30
_MIN_FLOAT = 1e-30
_MAX_BIAS = 100
_PRIORITIES = (0, 1, 2)

_MOST_SHOWN = 60
"""Letters of a value in a message, or entries."""


def validate(
    request: Request,
    *,
    vocab_size: int,
    context_length: int,
    eos_ids: frozenset[int] = frozenset(),
) -> None:
    """Check that a request can run on a model of these limits.

    What is too long is refused before it is looked through.

    Args:
        request: What the caller asks for.
        vocab_size: Token ids are below this.
        context_length: Prompt and completion together, in tokens, at most.
        eos_ids: The ids that end a sequence.

    Raises:
        RequestError: `invalid_request`, naming the first fault found.
    """
    fault = next(_faults(request, vocab_size, context_length, eos_ids), None)
    if fault is not None:
        raise RequestError("invalid_request", fault)


def _faults(
    request: Request, vocab_size: int, context_length: int, eos_ids: frozenset[int]
) -> Iterator[str]:
    yield from _bad_types(request)
    num_prompt, params = len(request.prompt_ids), request.params
    if not num_prompt:
        yield "prompt_ids must hold at least one token id, got none"
    # Reading a prompt leaves its last token out, so one that fills the context has room.
    if num_prompt > context_length or (num_prompt == context_length and params.max_tokens):
        yield (
            f"prompt_ids must be shorter than the context of {context_length} tokens, "
            f"got {num_prompt}"
        )
    yield from _bad_params(params)
    if num_prompt + params.max_tokens > context_length:
        yield (
            f"prompt and max_tokens must fit in the context of {context_length} tokens, "
            f"got {num_prompt} + {params.max_tokens}"
        )
    if len(request.committed_ids) > params.max_tokens:
        yield (
            f"committed_ids must hold at most max_tokens = {params.max_tokens} ids, "
            f"got {len(request.committed_ids)}"
        )
    if not 0 <= request.choice < MAX_CHOICES:
        yield f"choice must be in [0, {MAX_CHOICES}), got {request.choice}"
    if request.priority not in _PRIORITIES:
        yield f"priority must be 0 (high), 1 (normal) or 2 (low), got {request.priority}"
    yield from _bad_ids("prompt_ids", request.prompt_ids, vocab_size)
    yield from _bad_ids("committed_ids", request.committed_ids, vocab_size)
    yield from _bad_ids("stop_token_ids", params.stop_token_ids, vocab_size)
    yield from _bad_biases(params.logit_bias, vocab_size)
    if params.min_tokens and len(params.end_ids(eos_ids)) >= vocab_size:
        yield "stop_token_ids must leave a token for min_tokens, got every one of the vocabulary"


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_time(value: object) -> bool:
    return isinstance(value, int | float) and _is_number(value) and not math.isnan(value)


def _is_list(value: object) -> bool:
    # A text is a sequence too, of its letters, which nobody means.
    return isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray)


_Check = tuple[str, Callable[[object], bool]]
_INT: _Check = ("an integer", _is_int)
_NUMBER: _Check = ("a number", _is_number)
_TIME: _Check = ("a number of seconds", _is_time)
_BOOL: _Check = ("True or False", lambda value: isinstance(value, bool))
_STRINGS: _Check = ("a tuple of strings", _is_list)
_IDS: _Check = ("a tuple of token ids", _is_list)
_BIASES: _Check = ("a tuple of pairs (token id, bias)", _is_list)


def _or_none(check: _Check) -> _Check:
    return f"{check[0]} or None", lambda value: value is None or check[1](value)


_REQUEST_TYPES: dict[str, _Check] = {
    "prompt_ids": _IDS,
    "params": ("SamplingParams", lambda value: isinstance(value, SamplingParams)),
    "priority": _INT,
    "time_limit_s": _or_none(_TIME),
    "used_s": _TIME,
    "committed_ids": _IDS,
    "choice": _INT,
    "grammar": _or_none(("a string", lambda value: isinstance(value, str))),
}

_PARAMS_TYPES: dict[str, _Check] = {
    **dict.fromkeys(("max_tokens", "top_k", "seed", "min_tokens"), _INT),
    **dict.fromkeys(("temperature", "top_p", "min_p", "repetition_penalty"), _NUMBER),
    **dict.fromkeys(("presence_penalty", "frequency_penalty"), _NUMBER),
    **dict.fromkeys(("ignore_eos", "skip_special_tokens"), _BOOL),
    **dict.fromkeys(("logprobs", "prompt_logprobs"), _or_none(_INT)),
    "stop": _STRINGS,
    "stop_token_ids": _IDS,
    "logit_bias": _BIASES,
}


def _bad_types(request: Request) -> Iterator[str]:
    """What has the wrong type, from the outside: nothing is looked through here."""
    for owner, types in ((request, _REQUEST_TYPES), (request.params, _PARAMS_TYPES)):
        for name, (expected, is_right) in types.items():
            value = getattr(owner, name)
            if not is_right(value):
                yield f"{name} must be {expected}, got {_shown(value)}"


def _shown(value: Any) -> str:
    """A value for a message, as Python writes it, cut where it is long."""
    # Of what may be huge, not even its text is made.
    if isinstance(value, Sequence | dict | set) and len(value) > _MOST_SHOWN:
        return f"a {type(value).__name__} of {len(value)}"
    text = repr(value)
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."


def _bad_ids(name: str, ids: Sequence[Any], vocab_size: int) -> Iterator[str]:
    for index, token_id in enumerate(ids):
        if not _is_int(token_id):
            yield f"{name} must be integers, got {_shown(token_id)} at index {index}"
        if not 0 <= token_id < vocab_size:
            yield f"{name} must be in [0, {vocab_size}), got {token_id} at index {index}"


def _bad_biases(logit_bias: Sequence[tuple[int, float]], vocab_size: int) -> Iterator[str]:
    for pair in logit_bias:
        if not _is_list(pair) or len(pair) != 2 or not _is_number(pair[1]):
            yield f"logit_bias must be pairs (token id, bias), got {_shown(pair)}"
    yield from _bad_ids("logit_bias", [token_id for token_id, _ in logit_bias], vocab_size)
    for token_id, bias in logit_bias:
        if not -_MAX_BIAS <= bias <= _MAX_BIAS:  # also true of a NaN
            yield (
                f"logit_bias must be in [-{_MAX_BIAS}, {_MAX_BIAS}], got {bias} for token "
                f"{token_id}"
            )
    if len({token_id for token_id, _ in logit_bias}) < len(logit_bias):
        yield "logit_bias must name each token once, got one that is named twice"


def _bad_params(params: SamplingParams) -> Iterator[str]:
    bounds: tuple[tuple[str, float, float, float], ...] = (
        ("max_tokens", params.max_tokens, 0, _MAX_INT),
        ("temperature", params.temperature, 0, _MAX_FLOAT),
        ("top_p", params.top_p, 0, 1),
        ("top_k", params.top_k, 0, _MAX_INT),
        ("min_p", params.min_p, 0, 1),
        ("repetition_penalty", params.repetition_penalty, _MIN_FLOAT, _MAX_FLOAT),
        ("presence_penalty", params.presence_penalty, -_MAX_FLOAT, _MAX_FLOAT),
        ("frequency_penalty", params.frequency_penalty, -_MAX_FLOAT, _MAX_FLOAT),
        ("min_tokens", params.min_tokens, 0, params.max_tokens),
        ("logprobs", params.logprobs or 0, 0, MAX_LOGPROBS),
        ("prompt_logprobs", params.prompt_logprobs or 0, 0, MAX_LOGPROBS),
    )
    for name, value, low, high in bounds:
        if not low <= value <= high:  # also false for a NaN
            yield f"{name} must be in [{_bound(low)}, {_bound(high)}], got {value}"
    if len(params.stop_token_ids) > MAX_STOP_IDS:
        yield (
            f"stop_token_ids must hold at most {MAX_STOP_IDS} ids, got {len(params.stop_token_ids)}"
        )
    if len(params.logit_bias) > MAX_LOGIT_BIASES:
        yield (
            f"logit_bias must hold at most {MAX_LOGIT_BIASES} tokens, got {len(params.logit_bias)}"
        )
    for text in params.stop:
        if not isinstance(text, str):
            yield f"stop must be strings, got {_shown(text)}"
    if "" in params.stop:
        yield "stop strings must not be empty, got ''"


def _bound(number: float) -> str:
    """A bound for a message: integers in full."""
    return str(number) if isinstance(number, int) else f"{number:g}"
