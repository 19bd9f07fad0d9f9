"""Routes whose bodies are JSON: read for those alone who have a key, and not nested too deeply."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from api.dependencies import check_key
from common.errors import InvalidRequestError
from common.json_depth import NestingError, parsed


class JsonRoute(APIRoute):
    """A route that reads its body within bounds; for `APIRouter(route_class=...)`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Source: APIRoute."""
        handle = super().get_route_handler()

        async def handle_bounded(request: Request) -> Response:
            # The framework reads the body before it asks who calls, and reading megabytes of
            # brackets holds the gateway up.
            if self.body_field is not None:
                await check_key(request)
            return await handle(_BoundedRequest(request.scope, request.receive))

        return handle_bounded


class _BoundedRequest(Request):
    async def json(self) -> Any:
        if not hasattr(self, "_json"):
            try:
                self._json = parsed(await self.body())
            except NestingError as error:
                raise InvalidRequestError(f"The body is {error}.") from error
        return self._json
