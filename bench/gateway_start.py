"""How long until a gateway answers, against an empty FastAPI application started the same way."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request

from bench.measure import Comparison, alternate
from tests.redis_server import RedisServer, free_port

EMPTY_APP = """
import sys, uvicorn
from fastapi import FastAPI
app = FastAPI()
@app.get("/health/live")
async def live() -> dict[str, str]:
    return {}
uvicorn.run(app, port=int(sys.argv[1]), log_level="error")
"""


def run(redis: RedisServer, log_dir: str) -> Comparison:
    """Start both in turn; seconds from the start of the process to the first answer."""

    def ours() -> float:
        port = free_port()
        environment = {"REDIS_URL": redis.url, "PORT": str(port), "LOG_DIR": log_dir}
        return _seconds_to_answer([sys.executable, "-m", "cli.main", "api"], port, environment)

    def empty() -> float:
        port = free_port()
        return _seconds_to_answer([sys.executable, "-c", EMPTY_APP, str(port)], port, {})

    return alternate("gateway start", ours, "an empty FastAPI app", empty, unit="s")


def _seconds_to_answer(command: list[str], port: int, environment: dict[str, str]) -> float:
    url = f"http://127.0.0.1:{port}/health/live"
    began = time.perf_counter()
    process = subprocess.Popen(
        command, env=os.environ | environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        while not _answers(url):
            assert process.poll() is None, f"{command} ended with {process.returncode}"
            time.sleep(0.005)
        return time.perf_counter() - began
    finally:
        process.terminate()
        process.wait()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1):
            return True
    except urllib.error.URLError:
        return False
