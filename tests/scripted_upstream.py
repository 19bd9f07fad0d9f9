"""A server with OpenAI's API whose every answer the test writes, down to the bytes."""

from __future__ import annotations

import asyncio
import json
import queue
import threading
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Literal

from tests.loopback_server import LoopbackServer

MODEL = "m"
CONTEXT_LENGTH = 4096


@dataclass(slots=True)
class Says:
    """One answer to a request that generates.

    Attributes:
        beats: Comments before the last text, one each 0.1 s.
        usage: Tokens of the prompt and of the completion; None: it does not tell.
        ends: `done`; `cut`: the connection breaks in the middle of an event; `silence`: nothing
            comes any more; `early`: the answer just stops, without a finish reason.
        status: Another one than 200 goes with `body`, and no text.
        raw: These bytes as they are, in place of texts.
        gate: The last text is held back until it is set.
    """

    texts: tuple[str, ...] = ()
    finish_reason: str = "stop"
    usage: tuple[int, int] | None = (7, 5)
    ends: Literal["done", "cut", "silence", "early"] = "done"
    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    raw: bytes | None = None
    gate: threading.Event | None = None
    beats: int = 0


class ScriptedUpstream(LoopbackServer):
    """One server on a thread of its own; it answers with what is next in `script`.

    Attributes:
        script: Answers to come; the last one stays.
        requests: The path and body of each request that generates.
        left: Gets the number of a request whose client has gone before its end.
        list_status: Of the list of models.
        keys: What came as `Authorization`.
    """

    def __init__(self, *script: Says, owner: str = "vllm", model: str = MODEL) -> None:
        self.script = deque(script)
        self.requests: queue.Queue[tuple[str, dict[str, Any]]] = queue.Queue()
        self.left: queue.Queue[int] = queue.Queue()
        self.keys: list[str | None] = []
        self.list_status = 200
        self.num_requests = 0
        self._owner, self._model = owner, model
        super().__init__()
        self.url = f"http://127.0.0.1:{self.port}/v1"

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        method, path, _ = head.split(" ", 2)
        headers = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if line)
        self.keys.append(headers.get("authorization"))
        if method == "GET":
            await _send(writer, self.list_status, self._list())
            return
        body = json.loads(await reader.readexactly(int(headers["content-length"])))
        number, self.num_requests = self.num_requests, self.num_requests + 1
        says = self.script.popleft() if len(self.script) > 1 else self.script[0]
        self.requests.put((path, body))
        if says.status != 200:
            await _send(writer, says.status, says.body, says.headers)
            return
        watch = asyncio.create_task(self._watch(reader, number))
        try:
            await _stream(writer, says, is_chat=path.endswith("/chat/completions"))
        finally:
            watch.cancel()

    async def _watch(self, reader: asyncio.StreamReader, number: int) -> None:
        await reader.read()
        self.left.put(number)

    def _list(self) -> dict[str, Any]:
        model = {"id": self._model, "owned_by": self._owner, "max_model_len": CONTEXT_LENGTH}
        return {"object": "list", "data": [model]}


async def _send(
    writer: asyncio.StreamWriter, status: int, body: Any, headers: dict[str, str] | None = None
) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status} x", f"content-length: {len(content)}", "connection: close"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    writer.write("\r\n".join([*lines, "", ""]).encode() + content)
    await writer.drain()
    writer.close()
    await writer.wait_closed()


async def _stream(writer: asyncio.StreamWriter, says: Says, *, is_chat: bool) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n")
    if says.raw is not None:
        writer.write(says.raw)
        await writer.drain()
        return
    for index, text in enumerate(says.texts):
        if says.gate is not None and index == len(says.texts) - 1:
            await asyncio.get_running_loop().run_in_executor(None, says.gate.wait, 20)
        if index == len(says.texts) - 1:
            for _ in range(says.beats):
                await asyncio.sleep(0.1)
                writer.write(b": beat\n\n")
                await writer.drain()
        part = {"delta": {"content": text}} if is_chat else {"text": text}
        writer.write(_event({"choices": [{"index": 0, **part, "finish_reason": None}]}))
        await writer.drain()
    if says.ends == "silence":
        await asyncio.Event().wait()
    if says.ends == "cut":
        writer.write(b'data: {"choices": [{"ind')
    if says.ends == "done":
        part = {"delta": {}} if is_chat else {"text": ""}
        end = {"index": 0, **part, "finish_reason": says.finish_reason}
        writer.write(_event({"choices": [end]}))
        if says.usage is not None:
            prompt, completion = says.usage
            usage = {"prompt_tokens": prompt, "completion_tokens": completion}
            writer.write(_event({"choices": [], "usage": usage}))
        writer.write(b"data: [DONE]\n\n")
    await writer.drain()


def _event(data: Any) -> bytes:
    return f"data: {json.dumps(data)}\n\n".encode()
