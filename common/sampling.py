"""How the tokens of a job are drawn and where they end, as it stands in the job's record."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields, replace
from typing import Self

from common.errors import InvalidRequestError
from common.grammar import GrammarSpec

MAX_CHOICES = 128
"""Choices of one job; the engine takes no more."""
MAX_PROMPT_LOGPROBS = 65_536
"""Log-probabilities of one prompt: they take room in its record, about 20 bytes each."""


@dataclass(frozen=True, slots=True)
class SamplingSpec:
    """How the tokens of a job are drawn; checked by the gateway, obeyed by the engine.

    Attributes:
        max_tokens: Tokens to generate at most for each choice; None where the prompt was not
            counted yet: the default, cut to what the context still holds. 0 only with
            `prompt_logprobs`: the prompt is scored, and nothing generated.
        temperature: 0 (greedy) to 2.
        top_p: Nucleus mass, 0 to 1; 0 is greedy.
        top_k: Likeliest tokens to keep; 0 keeps all.
        min_p: Least probability, as a part of the likeliest token's; 0 keeps all.
        stop: Strings that end the text and are not part of it.
        stop_token_ids: Tokens that end the text.
        logit_bias: Pairs of a token id and what is added to its logit.
        logprobs: How many of the likeliest tokens to list beside each generated one, with their
            log-probabilities; None: none of these at all.
        seed: Decides every draw together with the choice and the position.
        time_limit_s: Seconds of execution after which the job expires.
        grammar: What the completion has to look like; None: anything.
        n: Choices of the job, 1 to `MAX_CHOICES`: sequences that differ in their draws alone.
        prompt_logprobs: What `logprobs` is, for the tokens of the prompt.
        skip_special_tokens: Special tokens have no text. Where calls are to be read they have, for
            some models mark their calls with them.
    """

    max_tokens: int | None
    time_limit_s: float
    seed: int
    temperature: float = 0.7
    top_p: float = 0.9
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    min_tokens: int = 0
    grammar: GrammarSpec | None = None
    stop_token_ids: tuple[int, ...] = ()
    logit_bias: tuple[tuple[int, float], ...] = ()
    logprobs: int | None = None
    n: int = 1
    prompt_logprobs: int | None = None
    skip_special_tokens: bool = True

    def with_max_tokens(self, max_tokens: int) -> Self:
        """The same, with the number of tokens decided."""
        return replace(self, max_tokens=max_tokens)

    def check_size(self, num_prompt: int) -> None:
        """Check that the log-probabilities of a prompt of so many tokens are not too many.

        Raises:
            InvalidRequestError: They are more than `MAX_PROMPT_LOGPROBS`.
        """
        if self.prompt_logprobs is None:
            return
        size = num_prompt * (1 + self.prompt_logprobs)
        if size > MAX_PROMPT_LOGPROBS:
            raise InvalidRequestError(
                f"The prompt has {num_prompt} tokens, and prompt_logprobs asks for "
                f"{1 + self.prompt_logprobs} log-probabilities of each: {size} together, but at "
                f"most {MAX_PROMPT_LOGPROBS} are told.",
                param="prompt_logprobs",
            )

    def pack(self) -> str:
        """JSON; values at their default are left out."""
        defaults = {f.name: f.default for f in fields(self)}
        changed = {k: v for k, v in asdict(self).items() if v != defaults[k]}
        return json.dumps(changed, separators=(",", ":"), ensure_ascii=False)

    @classmethod
    def unpack(cls, packed: str) -> Self:
        """The inverse of `pack`."""
        values = json.loads(packed)
        for name in ("stop", "stop_token_ids"):
            values[name] = tuple(values.get(name, ()))
        values["logit_bias"] = tuple((i, bias) for i, bias in values.get("logit_bias", ()))
        values.setdefault("max_tokens", None)
        if "grammar" in values:
            values["grammar"] = GrammarSpec(**values["grammar"])
        return cls(**values)
