"""The application object: routes of all rooms behind one edge, health, problem pages and OpenAPI."""

import asyncio
import html
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from sqlalchemy import text
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from dumont.core import Problem, Settings, derive_key
from dumont.db import Database, DatabaseUnavailable
from dumont.http import errors, problems
from dumont.http.access import public
from dumont.http.caller import Authenticator, DatabaseDep
from dumont.http.edge import Edge
from dumont.http.openapi import LazyOpenapi
from dumont.http.rates import Limits
from dumont.http.routing import Route, Router

HEALTH_TIMEOUT_SECONDS = 3.0
_root = Router(tags=["about"])


def create_app(
    *,
    database: Database,
    authenticator: Authenticator,
    secret: bytes,
    limits: Limits | None = None,
    routers: Sequence[Router] = (),
    title: str = "Dumont Cloud",
    version: str = "1",
    lifespan: Callable[[FastAPI], AbstractAsyncContextManager[Any]] | None = None,
) -> FastAPI:
    """Build the API from the routers of the rooms.

    Shapes: `app.state` holds `database`, `authenticator` and `limits` for the routes; without `limits` the usual ones
    hold, counted in this process.
    Errors: ValueError for a route that asks for a permission nobody can hold.
    """
    app = FastAPI(
        title=title,
        version=version,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    app.state.database = database
    app.state.authenticator = authenticator
    app.state.limits = limits or Limits(Settings(home=Path()))
    app.state.idempotency_key = derive_key(secret, "idempotency")
    app.state.openapi = LazyOpenapi()
    app.add_middleware(Edge)
    app.add_exception_handler(Problem, errors.show_problem)
    app.add_exception_handler(RequestValidationError, errors.show_validation)
    app.add_exception_handler(HTTPException, errors.show_http_exception)
    mount(app, _root, *routers)
    return app


def mount(app: FastAPI, *routers: Router) -> None:
    """Add routers to an application, fixed path segments before parameters.

    Errors: ValueError for a route that asks for a permission nobody can hold, TypeError for a foreign route.
    """
    known: frozenset[str] = app.state.authenticator.permissions
    for route in (route for router in routers for route in router.routes):
        if not isinstance(route, Route):
            raise TypeError(f"{route!r} is not a route of dumont.http.Router")
        wanted = route.access.permission
        if wanted is not None and wanted not in known:
            raise ValueError(f"{route.path} asks for the permission {wanted!r}, which no role can hold")
        app.router.routes.append(route)
    app.router.routes.sort(key=_specificity)


def _specificity(route: Any) -> list[bool]:
    """Sort key that puts `/snapshots/prune` before `/snapshots/{id}`."""
    return [segment.startswith("{") for segment in str(getattr(route, "path", "")).split("/")]


@_root.get("/health", **public(limited=False))
async def health(database: DatabaseDep) -> dict[str, str]:
    """Tell whether the API can serve: 200 only while the database answers."""
    try:
        async with asyncio.timeout(HEALTH_TIMEOUT_SECONDS):
            async with database.begin() as session:
                await session.execute(text("SELECT 1"))
    except TimeoutError as error:
        raise DatabaseUnavailable("The database did not answer in time.", retry_after=1) from error
    return {"status": "ok", "database": "ok"}


@_root.get("/openapi.json", **public())
@_root.get("/api/v1/openapi.json", **public())
async def openapi(request: Request) -> Response:
    """Return the OpenAPI document of this API."""
    return JSONResponse(await request.app.state.openapi.document(request.app))


@_root.get("/problems/{code}", **public())
async def problem_page(code: str, request: Request) -> Response:
    """Explain a problem code: what it means and what to do about it."""
    kind = Problem.registry.get(code)
    if kind is None:
        raise problems.RouteNotFound("There is no problem with this code.")
    meaning = " ".join((kind.__doc__ or kind.title).split())
    document = {"code": code, "title": kind.title, "status": kind.status, "act": kind.act.value, "meaning": meaning}
    if "text/html" not in request.headers.get("accept", ""):
        return JSONResponse(document)
    lines = "".join(f"<dt>{name}</dt><dd>{html.escape(str(value))}</dd>" for name, value in document.items())
    return HTMLResponse(f'<!doctype html><html lang="en"><title>{html.escape(code)}</title><dl>{lines}</dl></html>')
