"""`baton up`: Redis, a worker and the gateway as one foreground process tree.

    up
    |-- redis     embedded, where REDIS_URL is empty; started first, stopped last
    |-- worker    the launcher, with one worker process per device below it
    `-- gateway   started beside the worker: it does not wait for the model

It decides what runs and tells the user how far it is; the supervisor does the rest.
"""

from __future__ import annotations

import errno
import http.client
import json
import os
import shlex
import socket
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cli import embedded_redis
from common import log
from common.child_process import Child, module_environment
from common.errors import SettingsError
from common.model_catalog import ModelCatalog
from common.settings import Settings, environment_of
from common.supervisor import Supervisor
from worker import launcher

PROBE_TIMEOUT_S = 1.0
FIRST_POLL_S = 0.5
LONGEST_POLL_S = 5.0
# On top of `shutdown_s`: to close the server after the last request.
GATEWAY_MARGIN_S = 5.0


def run(settings: Settings) -> int:
    """Run everything until a signal; the exit status of the command.

    Raises:
        SettingsError: HOST and PORT cannot be listened on, or LOG_DIR cannot be written.
        EmbeddedRedisError: There is no REDIS_URL and the embedded server cannot be started.
    """
    check_can_listen(settings.host, settings.port)
    log.configure(settings, "baton")
    gateway = Gateway(settings)
    children = process_tree(settings, gateway)
    names = ", ".join(child.name for child in children)
    _tell(f"Starting {names} (logs in {settings.log_dir}). Ctrl-C stops everything.")
    return Supervisor(
        children,
        when_ready=Progress(settings, gateway, _tell),
        when_stopping=lambda: _tell("Stopping. Once more kills everything at once."),
    ).run()


def process_tree(settings: Settings, gateway: Gateway) -> list[Child]:
    """What runs, in the order of the start.

    With an embedded Redis this takes the data directory's lock.

    Raises:
        EmbeddedRedisError: It cannot be started.
    """
    children, redis_url = [], settings.redis_url
    if redis_url is None:
        server = embedded_redis.prepare(settings.data_dir)
        children, redis_url = [server.child], server.url
    environment = (
        module_environment(os.environ) | environment_of(settings) | {"REDIS_URL": redis_url}
    )
    return [
        *children,
        Child("worker", _baton("worker"), environment, grace_s=launcher.stop_grace_s(settings)),
        Child(
            "gateway",
            _baton("api"),
            environment,
            grace_s=settings.shutdown_s + GATEWAY_MARGIN_S,
            ready=gateway.is_alive,
        ),
    ]


def check_can_listen(host: str, port: int) -> None:
    """Find out before anything is started whether the gateway will get its port.

    Raises:
        SettingsError: It will not.
    """
    error = _listen_error(host, port)
    if error is None:
        return
    if error.errno == errno.EADDRINUSE:
        other = port + 1 if port < 65_535 else 8000
        problem = f"PORT={port}: it is in use on {host} already. Example: PORT={other}"
    elif error.errno == errno.EACCES:
        problem = f"PORT={port}: it may not be used by this user. Example: PORT=8000"
    else:
        problem = f"HOST={host}: it is no address of this machine. Example: HOST=127.0.0.1"
    raise SettingsError(problem) from error


def _listen_error(host: str, port: int) -> OSError | None:
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        return error
    errors = []
    for family, kind, protocol, _, address in addresses:
        try:
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
        except OSError as error:
            errors.append(error)
    # `localhost` may also stand for an IPv6 address that the machine does not have.
    serious = [error for error in errors if error.errno != errno.EADDRNOTAVAIL]
    if len(errors) == len(addresses):
        serious += errors
    return serious[0] if serious else None


@dataclass(frozen=True)
class Gateway:
    """The gateway as seen from outside, over HTTP on this machine."""

    settings: Settings

    @property
    def url(self) -> str:
        """Where this machine reaches it."""
        # The addresses that mean "all of mine" can be listened on, but not everywhere called.
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.settings.host, self.settings.host)
        shown = f"[{host}]" if ":" in host else host
        return f"http://{shown}:{self.settings.port}"

    def is_alive(self) -> bool:
        """Whether it answers at all."""
        return self._get("/health/live")[0] == 200

    def is_ready(self) -> bool:
        """Whether the default model is loaded."""
        return self._get("/health")[1].get("model_loaded") is True

    def problem(self) -> str | None:
        """What keeps the service from its work; None while it may only be slow."""
        health = self._get("/health")[1]
        if health.get("redis_connected") is False:
            return "Redis cannot be reached; trying again"
        if health.get("state") != "error":
            return None
        reason = health.get("reason") or health.get("message") or "see the log"
        return f"The model {_default_model(self.settings)} cannot be loaded. {reason}"

    def _get(self, path: str) -> tuple[int, dict[str, Any]]:
        """Status and JSON object of an answer; 0 and nothing where there is none."""
        try:
            try:
                # No proxy: it may be set for the machine, and cannot reach a loopback address.
                answer = _without_proxy.open(self.url + path, timeout=PROBE_TIMEOUT_S)
            except urllib.error.HTTPError as error:
                answer = error
            with answer:
                body = json.loads(answer.read())
        except (OSError, http.client.HTTPException, ValueError):
            return 0, {}
        return answer.status, body if isinstance(body, dict) else {}


class Progress:
    """Tells the user once that the gateway answers, and later what became of the model."""

    def __init__(self, settings: Settings, gateway: Gateway, tell: Callable[[str], None]) -> None:
        self._settings = settings
        self._gateway = gateway
        self._tell = tell
        self._greeted = False
        self._told_problem: str | None = None
        self._pause_s = FIRST_POLL_S

    def __call__(self) -> float | None:
        """Say what is new; the seconds after which to ask again, None when all is said."""
        if not self._greeted:
            self._greeted = True
            self._greet()
        if self._gateway.is_ready():
            self._tell(f"The model {_default_model(self._settings)} is loaded.")
            return None
        problem = self._gateway.problem()
        if problem is not None and problem != self._told_problem:
            self._tell(problem)
        self._told_problem = problem or self._told_problem
        # A download takes minutes, and every question is a line in the access log.
        self._pause_s = min(self._pause_s * 1.25, LONGEST_POLL_S)
        return self._pause_s

    def _greet(self) -> None:
        key = self._settings.api_keys[0]
        self._tell("")
        self._tell(f"  Baton answers at  {self._gateway.url}  (documentation: /docs)")
        self._tell(f"  API key           {key}")
        self._tell(f"  Try it            {curl_line(self._gateway.url, key)}")
        self._tell("")
        self._tell(f"The model {_default_model(self._settings)} is loading; jobs wait for it.")


def curl_line(url: str, key: str) -> str:
    """A command to paste into a shell that generates text and waits for it."""
    headers = (f"X-API-Key: {key}", "Content-Type: application/json", "Prefer: wait=60")
    shown = " ".join(f"-H {shlex.quote(header)}" for header in headers)
    body = shlex.quote(json.dumps({"prompt": "Once upon a time", "max_tokens": 100}))
    return f"curl {url}/generate {shown} -d {body}"


def _default_model(settings: Settings) -> str:
    return ModelCatalog(settings).default.model


_without_proxy = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def _baton(command: str) -> list[str]:
    return [sys.executable, "-m", "cli.main", command, "--child"]


def _tell(line: str) -> None:
    print(line, flush=True)
