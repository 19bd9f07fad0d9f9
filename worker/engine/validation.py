"""Say what is wrong with a request before it can touch any other.

Pure functions of the request and the model's limits.
"""

from collections.abc import Iterator, Sequence

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
    yield from _bad_ids("prompt_ids", request.prompt_ids, vocab_size)
    yield from _bad_ids("committed_ids", request.committed_ids, vocab_size)
    yield from _bad_ids("stop_token_ids", params.stop_token_ids, vocab_size)
    yield from _bad_biases(params.logit_bias, vocab_size)
    if params.min_tokens and len(params.end_ids(eos_ids)) >= vocab_size:
        yield "stop_token_ids must leave a token for min_tokens, got every one of the vocabulary"


def _bad_ids(name: str, ids: Sequence[int], vocab_size: int) -> Iterator[str]:
    for index, token_id in enumerate(ids):
        if not 0 <= token_id < vocab_size:
            yield f"{name} must be in [0, {vocab_size}), got {token_id} at index {index}"


def _bad_biases(logit_bias: Sequence[tuple[int, float]], vocab_size: int) -> Iterator[str]:
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
            yield f"{name} must be in [{low:g}, {high:g}], got {value}"
    if len(params.stop_token_ids) > MAX_STOP_IDS:
        yield (
            f"stop_token_ids must hold at most {MAX_STOP_IDS} ids, got {len(params.stop_token_ids)}"
        )
    if len(params.logit_bias) > MAX_LOGIT_BIASES:
        yield (
            f"logit_bias must hold at most {MAX_LOGIT_BIASES} tokens, got {len(params.logit_bias)}"
        )
    if "" in params.stop:
        yield "stop strings must not be empty, got ''"
