"""Refuses grammars that cannot be compiled in bounded time and memory, off the event loop.

Each is compiled in a child process (`grammar_probe`), which is killed where it takes too much, and
started again for the next. What was found is remembered.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import signal
import sys
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from common.errors import InternalError, InvalidRequestError, QueueFullError, RateLimitError
from common.grammar import GrammarSpec

NUM_PROBES = 2
"""Grammars that are tried at the same time; of one key there is one at a time."""
MAX_WAITING_PER_KEY = 8
WALL_LIMIT_S = 10.0
"""A probe ends itself after a second of processor time. Here the machine itself is too busy."""
RETRY_AFTER_S = 1.0
REMEMBERED = 1024
PARAM = "response_format"

_PROBE = Path(__file__).with_name("grammar_probe.py")
_MAX_ANSWER_BYTES = 64 * 1024
_TOO_DEEP = "it is nested too deeply"
_BREAKS = "the compiler breaks on it"
_DEATHS = {
    signal.SIGPROF: "it takes more than a second to compile",
    signal.SIGSEGV: _TOO_DEEP,
    signal.SIGBUS: _TOO_DEEP,
    signal.SIGABRT: "it takes too much memory to compile",
}


class GrammarChecker:
    """Tries grammars for one gateway; nothing is started before the first one."""

    def __init__(self) -> None:
        self._slots = asyncio.Semaphore(NUM_PROBES)
        self._idle: list[_Probe] = []
        self._found: OrderedDict[bytes, str | None] = OrderedDict()
        self._turns: dict[str, _Turn] = {}

    async def check(self, grammar: GrammarSpec, key_id: str) -> None:
        """Return where a grammar can be used.

        Raises:
            InvalidRequestError: It cannot; the message says why.
            RateLimitError: The key has many grammars waiting to be tried.
            QueueFullError: The machine is too busy to try it.
        """
        lark = grammar.lark()
        digest = hashlib.sha256(lark.encode()).digest()
        if digest not in self._found:
            async with self._turn_of(key_id):
                if digest not in self._found:
                    self._remember(digest, await self._try(lark))
        self._found.move_to_end(digest)
        error = self._found[digest]
        if error is not None:
            raise InvalidRequestError(f"{PARAM} cannot be used: {error}.", param=PARAM)

    async def close(self) -> None:
        """End the child processes."""
        while self._idle:
            await self._idle.pop().kill()

    def _remember(self, digest: bytes, error: str | None) -> None:
        self._found[digest] = error
        while len(self._found) > REMEMBERED:
            self._found.popitem(last=False)

    @asynccontextmanager
    async def _turn_of(self, key_id: str) -> AsyncIterator[None]:
        """Let one key's grammars wait for each other, so that others need not wait for them."""
        turn = self._turns.setdefault(key_id, _Turn())
        if turn.num_waiting > MAX_WAITING_PER_KEY:
            raise RateLimitError(
                f"Too many requests with a new {PARAM} at once", retry_after_s=RETRY_AFTER_S
            )
        turn.num_waiting += 1
        try:
            async with turn.lock:
                yield
        finally:
            turn.num_waiting -= 1
            if not turn.num_waiting:
                self._turns.pop(key_id, None)

    async def _try(self, lark: str) -> str | None:
        async with self._slots:
            probe = self._idle.pop() if self._idle else await _Probe.start()
            is_usable = False
            try:
                async with asyncio.timeout(WALL_LIMIT_S):
                    error = await probe.ask(lark)
                is_usable = probe.is_alive
            except TimeoutError:
                raise QueueFullError(
                    f"The server is too busy to check the {PARAM}.", retry_after_s=RETRY_AFTER_S
                ) from None
            finally:  # also where the client has gone: an answer would come for somebody else
                if is_usable:
                    self._idle.append(probe)
                else:
                    await probe.kill()
            return await self._why_it_crashed(lark) if error == _TOO_DEEP else error

    async def _why_it_crashed(self, lark: str) -> str:
        """Tell a stack that was too small from a fault of the compiler, which no stack helps."""
        probe = await _Probe.start("--deep")
        try:
            async with asyncio.timeout(WALL_LIMIT_S):
                return _BREAKS if await probe.ask(lark) == _TOO_DEEP else _TOO_DEEP
        except TimeoutError:
            return _TOO_DEEP
        finally:
            await probe.kill()


class _Turn:
    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.num_waiting = 0


class _Probe:
    """One child process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, *options: str) -> _Probe:
        # -P: its neighbours in this folder are not for importing by their bare names.
        command = (sys.executable, "-P", str(_PROBE), *options)
        pipe, nowhere = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
        process = await asyncio.create_subprocess_exec(
            *command, stdin=pipe, stdout=pipe, stderr=nowhere, limit=_MAX_ANSWER_BYTES
        )
        return cls(process)

    @property
    def is_alive(self) -> bool:
        return self._process.returncode is None

    async def ask(self, lark: str) -> str | None:
        """What is wrong with a grammar, also where that has ended the process."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        try:
            stdin.write(json.dumps({"lark": lark}).encode() + b"\n")
            await stdin.drain()
            answer = await stdout.readline()
        except ConnectionError:
            answer = b""
        if answer:
            error: str | None = json.loads(answer)["error"]
            return error
        status = await self._process.wait()
        if status < 0 and signal.Signals(-status) in _DEATHS:
            return _DEATHS[signal.Signals(-status)]
        raise InternalError(f"A process that tries grammars has ended with status {status}")

    async def kill(self) -> None:
        if self.is_alive:
            self._process.kill()
        await self._process.wait()
