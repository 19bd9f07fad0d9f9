"""`baton api`: the gateway under uvicorn, until it is asked to stop.

On SIGTERM or SIGINT it stops accepting, ends the open streams at once (their clients resume
elsewhere by Last-Event-ID), answers waiting requests, gives running ones `SHUTDOWN_S`, and exits 0.
A second SIGINT ends it at once.
"""

from __future__ import annotations

import logging
import resource
import signal
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn

from api.gateway import Gateway
from api.main import create_app
from common import log
from common.settings import Settings

_log = logging.getLogger(__name__)


class Server(uvicorn.Server):
    """uvicorn, with a word to the gateway before it waits for its connections to close.

    Args:
        config: uvicorn's.
        begin_shutdown: Ends what would otherwise go on for long.
    """

    def __init__(self, config: uvicorn.Config, begin_shutdown: Callable[[], None]) -> None:
        super().__init__(config)
        self._begin_shutdown = begin_shutdown

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Source: uvicorn.Server."""
        await super().startup(sockets)
        if self.started:
            host = self.config.host
            shown = f"[{host}]" if ":" in host else host
            _log.info("listening on http://%s:%d", shown, self.config.port)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Source: uvicorn.Server."""
        self._begin_shutdown()
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Source: uvicorn.Server, which would also end the process by the signal it caught."""
        if self.should_exit and sig == signal.SIGINT:
            self.force_exit = True
        self.should_exit = True


def server(settings: Settings) -> Server:
    """A server that is about to run.

    Raises:
        SettingsError: There is no REDIS_URL.
    """
    app = create_app(settings)
    gateway: Gateway = app.state.gateway
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        proxy_headers=True,
        forwarded_allow_ips=settings.trusted_proxies,
        server_header=False,
        timeout_graceful_shutdown=settings.shutdown_s,  # type: ignore[arg-type]  # it takes a float
    )
    return Server(config, gateway.begin_shutdown)


def run(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        SettingsError: There is no REDIS_URL, or the log folder cannot be written.
    """
    log.configure(settings, "gateway")
    _allow_many_connections()
    server(settings).run()


def _allow_many_connections() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
