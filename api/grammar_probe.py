"""Compile grammars from strangers, in a process that may be killed: run by `grammar_checker`.

Reads lines of JSON, `{"lark": TEXT}`, and answers each with `{"error": TEXT or null}`. What takes
too long, too much memory or too deep a stack ends the process, and how it ended says which. Loads
nothing but llguidance, for it has to be there soon.

Why a process of its own: nesting of some thousand levels overflows llguidance's stack, and a few
schemas compile for a minute within its own limits. Neither can be caught in a thread.
"""

from __future__ import annotations

import json
import random
import resource
import signal
import sys

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

CPU_LIMIT_S = 1.0
MEMORY_BYTES = 512 << 20
"""Beyond what an idle process has."""
STACK_BYTES = 1 << 20
"""A worker's threads have eight times that, or twice: what passes here has room there."""
DEEP_STACK_BYTES = 64 << 20
"""With `--deep`: what ends this one too is no matter of nesting."""
WALK_STEPS = 32
WALK_SEED = 0
MAX_ERROR_CHARS = 300

# As the engine's, `worker.engine.grammar.LIMITS`, which cannot be imported here; a test holds them
# equal.
LIMITS = {
    "max_items_in_row": 2_000,
    "initial_lexer_fuel": 500_000,
    "step_lexer_fuel": 200_000,
    "step_max_items": 10_000,
    "max_lexer_states": 50_000,
    "max_grammar_size": 200_000,
}
_HINTS = (" Enable 'coerce_one_of'", "; following special tokens")
"""Where llguidance goes on with what its own caller could do."""
_NOTHING_FITS = "no text can match it"
NO_FORCING = '\n%llguidance {"no_forcing": true}\n'


def find_error(tokenizer: LLTokenizer, lark: str) -> str | None:
    """Compile a grammar and go some steps along it; return what is wrong with it.

    The tokens are bytes. A model's are more at once, so that a grammar which passes here may still
    go over a step's limit there; its request then fails, and no other.
    """
    grammar = json.dumps({"grammars": [{"lark_grammar": lark + NO_FORCING}]})
    limits = LLParserLimits(**LIMITS, precompute_large_lexemes=False, verbose_errors=False)
    matcher = LLMatcher(tokenizer, grammar, log_level=0, limits=limits)
    draws = random.Random(WALK_SEED)
    for _ in range(WALK_STEPS):
        if matcher.is_stopped():
            break
        ids = _set_bits(matcher.compute_bitmask())
        if matcher.is_error():
            break
        goes_on = [token_id for token_id in ids if token_id != tokenizer.eos_token]
        if not goes_on:
            return None
        matcher.consume_token(draws.choice(goes_on))
    return _explained(matcher.get_error()) if matcher.is_error() else None


def _explained(error: str) -> str:
    """The line that says what is wrong, without where our own text around the client's begins."""
    lines = [line.strip() for line in error.strip().splitlines()]
    if lines[0] == "NoExtensionBias":
        return _NOTHING_FITS
    of_regex = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    _, _, of_schema = lines[0].partition("failed to compile JSON schema: ")
    said = [*of_regex, of_schema or lines[0]][0]
    for hint in _HINTS:
        said = said.partition(hint)[0]
    return said.rstrip(".")[:MAX_ERROR_CHARS]


def _set_bits(bits: bytes) -> list[int]:
    number = int.from_bytes(bits, "little")
    return [index for index in range(number.bit_length()) if number >> index & 1]


def _bound_process(stack_bytes: int) -> None:
    with open("/proc/self/statm", encoding="ascii") as file:
        idle_bytes = int(file.read().split()[0]) * resource.getpagesize()
    most = idle_bytes + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # The main thread's stack grows up to this, also when it is set late.
    resource.setrlimit(resource.RLIMIT_STACK, (stack_bytes, stack_bytes))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # for the gateway alone, which then ends this
    signal.signal(signal.SIGPROF, signal.SIG_DFL)


def main() -> None:
    """Answer until the input ends."""
    tokenizer = LLTokenizer("byte")
    _bound_process(DEEP_STACK_BYTES if "--deep" in sys.argv else STACK_BYTES)
    for line in sys.stdin:
        # Processor time: a busy machine makes no grammar a bad one.
        signal.setitimer(signal.ITIMER_PROF, CPU_LIMIT_S)
        error = find_error(tokenizer, json.loads(line)["lark"])
        signal.setitimer(signal.ITIMER_PROF, 0.0)
        sys.stdout.write(json.dumps({"error": error}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
