"""A server that plays Ollama's documented wire format; no Ollama was ever run for these tests.

The format is that of Ollama's docs/api.md, docs/api/errors.mdx, api/types.go and server/routes.go
as published for version 0.33: NDJSON in chunks, `done_reason`, durations in nanoseconds, errors as
`{"error": ...}` with a status before an answer and as a last line within one. What it generates
comes from the seed and the prompt alone, a word for each token; bytes are sent in small parts, cut
in the middle of lines and characters.
"""

from __future__ import annotations

import asyncio
import json
import queue
import random
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal

from tests.loopback_server import LoopbackServer

CONTEXT_LENGTH = 4096
WORDS = ("the ", "café ", "日本 ", "🙂 ", "of ", "river ", "naïve ", "\n", "Ωmega ", "end. ")
NUM_WORDS = 40
"""Of an answer that is not cut before."""


@dataclass(slots=True)
class Model:
    """One that the server has."""

    parameters: str = 'stop                           "<|eot|>"\ntemperature                    0.6'
    capabilities: tuple[str, ...] = ("completion",)
    digest: str = "d1"
    loaded_length: int | None = None
    is_broken: bool = False


@dataclass(slots=True)
class Turn:
    """How one request that generates goes, where it is not well.

    Attributes:
        status: An error before the answer.
        error: Its message, or that of a last line in place of an end.
        ends: `done`; `error`; `cut`: the connection breaks in the middle of a line; `silence`;
            `early`: the answer is over, without its last line; `load`: nothing is generated.
        after: Words before an end that is not `done`, or before `gate` has to be set.
        gate: Awaited after so many words; after none, as the model is loaded.
        texts: These words in place of what the seed gives.
    """

    status: int = 200
    error: str = "an error was encountered while running the model"
    ends: Literal["done", "error", "cut", "silence", "early", "load"] = "done"
    after: int = 0
    gate: threading.Event | None = None
    texts: tuple[str, ...] | None = None


def words(seed: int, prompt: str, salt: str = "") -> Iterator[str]:
    """What a model without end would say."""
    draws = random.Random(f"{seed} {prompt} {salt}")
    while True:
        yield draws.choice(WORDS)


def answer(seed: int, prompt: str, count: int = NUM_WORDS, salt: str = "") -> str:
    """What the server says, in one piece."""
    said = words(seed, prompt, salt)
    return "".join(next(said) for _ in range(min(count, NUM_WORDS)))


@dataclass
class OllamaServer(LoopbackServer):
    """One server on a thread of its own.

    Attributes:
        models: By name with tag.
        turns: How the next requests go; after these all is well.
        salt: Another one makes other answers.
        requests: The path and body of each request that generates.
        left: Gets the number of a request whose client has gone before its end.
        part: Bytes that are sent at once.
        num_ctx: Tokens of context where a request does not say.
    """

    models: dict[str, Model] = field(default_factory=lambda: {"llama2:latest": Model()})
    version: str = "0.33.0"
    salt: str = ""
    part: int = 7
    num_ctx: int = CONTEXT_LENGTH
    turns: deque[Turn] = field(default_factory=deque)
    requests: queue.Queue[tuple[str, dict[str, Any]]] = field(default_factory=queue.Queue)
    left: queue.Queue[int] = field(default_factory=queue.Queue)
    num_requests: int = 0
    num_shown: int = 0

    def __post_init__(self) -> None:
        super().__init__()
        self.url = f"http://127.0.0.1:{self.port}"

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        _, path, _ = head.split(" ", 2)
        headers = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if line)
        length = int(headers.get("content-length", 0))
        body = json.loads(await reader.readexactly(length)) if length else {}
        if path in ("/api/version", "/api/tags", "/api/ps"):
            await _send(writer, 200, self._told(path))
        elif _tagged(body["model"]) not in self.models:
            await _send(writer, 404, {"error": f"model '{body['model']}' not found"})
        elif path == "/api/show":
            self.num_shown += 1
            model = self.models[_tagged(body["model"])]
            told = {"error": "file not found"} if model.is_broken else self._show(model)
            await _send(writer, 500 if model.is_broken else 200, told)
        else:
            await self._generate(reader, writer, path, body)

    def _told(self, path: str) -> dict[str, Any]:
        if path == "/api/version":
            return {"version": self.version}
        if path == "/api/ps":
            loaded = {name: m.loaded_length for name, m in self.models.items() if m.loaded_length}
            return {"models": [{"name": n, "context_length": c} for n, c in loaded.items()]}
        listed = [
            {"name": name, "model": name, "digest": model.digest, "details": {"format": "gguf"}}
            for name, model in self.models.items()
        ]
        return {"models": listed}

    def _show(self, model: Model) -> dict[str, Any]:
        return {
            "parameters": model.parameters,
            "capabilities": list(model.capabilities),
            "model_info": {"general.architecture": "llama", "llama.context_length": 8192},
            "details": {"family": "llama"},
        }

    async def _generate(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        path: str,
        body: dict[str, Any],
    ) -> None:
        number, self.num_requests = self.num_requests, self.num_requests + 1
        turn = self.turns.popleft() if self.turns else Turn()
        self.requests.put((path, body))
        prompt = body["prompt"] if path == "/api/generate" else json.dumps(body["messages"])
        num_ctx = body["options"].get("num_ctx", self.num_ctx)
        if turn.status == 200 and len(prompt.split()) >= num_ctx and body["truncate"] is False:
            turn = Turn(400, "the input length exceeds the context length")
        if turn.status != 200:
            await _send(writer, turn.status, {"error": turn.error})
            return
        watch = asyncio.create_task(self._watch(reader, number))
        try:
            await self._stream(_Chunks(writer, self.part), path, body, prompt, turn)
        except ConnectionError:  # a write may notice it before the watch does
            if not watch.done():
                self.left.put(number)
            raise
        finally:
            watch.cancel()

    async def _watch(self, reader: asyncio.StreamReader, number: int) -> None:
        with suppress(ConnectionError):
            await reader.read()
        self.left.put(number)

    async def _stream(
        self, chunks: _Chunks, path: str, body: dict[str, Any], prompt: str, turn: Turn
    ) -> None:
        line = _chat_line if path == "/api/chat" else _generate_line
        options, told = body["options"], {"model": body["model"], "created_at": "2026-01-01T00:00Z"}
        model = self.models[_tagged(body["model"])]
        if "thinking" in model.capabilities and body.get("think") is not False:
            for thought in ("Let me ", "see."):
                await chunks.send(told | line("", thought) | {"done": False})
        said = words(options["seed"], prompt, self.salt)
        texts = [next(said) for _ in range(NUM_WORDS)] if turn.texts is None else [*turn.texts]
        count = min(len(texts), options["num_predict"])
        reason = "length" if count < len(texts) else "stop"
        for index, text in enumerate(texts[:count]):
            if index == turn.after:
                if turn.gate is not None:
                    await asyncio.get_running_loop().run_in_executor(None, turn.gate.wait, 60)
                if turn.ends != "done":
                    break
            if any(stop in text for stop in options.get("stop", ())):
                count, reason = index, "stop"
                break
            await chunks.send(told | line(text) | {"done": False})
        if turn.ends == "silence":
            await asyncio.Event().wait()
        if turn.ends == "cut":
            await chunks.write(b'{"model":"llama2","crea')
            return
        if turn.ends == "error":
            await chunks.send({"error": turn.error})
        elif turn.ends == "load":
            await chunks.send(told | line("") | {"done": True, "done_reason": "load"})
        elif turn.ends == "done":
            await chunks.send(told | line("") | _metrics(len(prompt.split()), count, reason))
        await chunks.close()


class _Chunks:
    """The body of an answer, in the chunks of HTTP, each of a few bytes."""

    def __init__(self, writer: asyncio.StreamWriter, part: int) -> None:
        self._writer, self._part = writer, part
        head = "HTTP/1.1 200 OK", "content-type: application/x-ndjson", "connection: close"
        writer.write("\r\n".join([*head, "transfer-encoding: chunked", "", ""]).encode())

    async def send(self, said: dict[str, Any]) -> None:
        await self.write(json.dumps(said, ensure_ascii=False).encode() + b"\n")

    async def write(self, content: bytes) -> None:
        for begin in range(0, len(content), self._part):
            part = content[begin : begin + self._part]
            self._writer.write(b"%x\r\n%s\r\n" % (len(part), part))
            await self._writer.drain()

    async def close(self) -> None:
        self._writer.write(b"0\r\n\r\n")
        await self._writer.drain()


def _chat_line(text: str, thought: str = "") -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    return {"message": message | ({"thinking": thought} if thought else {})}


def _generate_line(text: str, thought: str = "") -> dict[str, Any]:
    return {"response": text} | ({"thinking": thought} if thought else {})


def _metrics(num_prompt: int, count: int, reason: str) -> dict[str, Any]:
    return {
        "done": True,
        "done_reason": reason,
        "total_duration": 4_883_583_458,
        "load_duration": 1_334_875,
        "prompt_eval_count": num_prompt,
        "prompt_eval_duration": 342_546_000,
        "eval_count": count,
        "eval_duration": 4_535_599_000,
    }


def _tagged(name: str) -> str:
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


async def _send(writer: asyncio.StreamWriter, status: int, body: Any) -> None:
    content = json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status} x", f"content-length: {len(content)}", "connection: close"]
    writer.write("\r\n".join([*lines, "", ""]).encode() + content)
    await writer.drain()
    writer.close()
    await writer.wait_closed()
