"""The front door."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response

from api.answers import RootAnswer
from common import __version__

_LINKS = {
    "docs": "/docs",
    "redoc": "/redoc",
    "openapi": "/openapi.json",
    "health": "/health",
    "metrics": "/metrics",
    "models": "/models",
    "generate": "/generate",
}
_PAGE = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Baton</title>
<link rel="icon" href="data:,">
<style>
  body {{ font: 1.05rem/1.6 system-ui, sans-serif; max-width: 36rem; margin: 12vh auto;
         padding: 0 1rem; color: #1c2733; background: #fbfbf9 }}
  h1 {{ margin-bottom: 0 }}
  a {{ color: #0b5ea8 }}
  @media (prefers-color-scheme: dark) {{
    body {{ color: #dde3e9; background: #14181c }} a {{ color: #7bbcf5 }} }}
</style>
<h1>Baton</h1>
<p>A queue-backed LLM inference service, version {version}.</p>
<ul>
  <li><a href="{root}/docs">Try the API</a> (Swagger UI)</li>
  <li><a href="{root}/redoc">Read the API</a> (ReDoc)</li>
  <li><a href="{root}/health">Health</a></li>
  <li><a href="{root}/metrics">Metrics</a></li>
</ul>
</html>
"""


router = APIRouter(tags=["Service"])


@router.get(
    "/",
    operation_id="get_service_info",
    response_model=RootAnswer,
    summary="What this is",
    responses={200: {"content": {"text/html": {"schema": {"type": "string"}}}}},
)
async def root(request: Request) -> Response:
    """JSON for programs, a small page for browsers."""
    if "text/html" in request.headers.get("accept", ""):
        base = request.scope.get("root_path", "")
        return HTMLResponse(_PAGE.format(version=__version__, root=base))
    body = {
        "message": "Baton, a queue-backed LLM inference service",
        "version": __version__,
        "docs": _LINKS["docs"],
        "health": _LINKS["health"],
        "links": _LINKS,
    }
    return JSONResponse(body)
