"""A tiny room with one table, to try the request kit on."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Annotated, Any

import psycopg
import pytest
from fastapi import Depends, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field
from sqlalchemy import Integer, Text, select
from sqlalchemy.orm import Mapped, mapped_column

from dumont.core import new_id
from dumont.db import Base, DatabaseUrls, protect, psycopg_url
from dumont.http import Caller, CallerDep, Page, Router, list_document, page_params, permit, problems, public

Pages = Annotated[Page, Depends(page_params("rank", "title", default="rank"))]
NoteNotFound = problems.not_found("note")
_TABLE = """
CREATE TABLE note (
    id text PRIMARY KEY, team_id text NOT NULL, title text NOT NULL, rank integer NOT NULL,
    CONSTRAINT one_title UNIQUE (team_id, title) DEFERRABLE INITIALLY DEFERRED
)
"""


class Note(Base):
    """A note of a team."""

    __tablename__ = "note"
    id: Mapped[str] = mapped_column(Text, primary_key=True)
    team_id: Mapped[str] = mapped_column(Text)
    title: Mapped[str] = mapped_column(Text)
    rank: Mapped[int] = mapped_column(Integer)


class NoteBody(BaseModel):
    """A note as it is sent."""

    title: str = Field(min_length=2, max_length=40)
    rank: int = Field(default=0, ge=0, le=100)
    labels: dict[str, int] = Field(default_factory=dict)


class NoteDocument(BaseModel):
    """A note as it is shown."""

    id: str
    title: str
    rank: int


@dataclass
class Gate:
    """Lets a test hold a request inside its route."""

    entered: asyncio.Event = field(default_factory=asyncio.Event)
    opened: asyncio.Event = field(default_factory=asyncio.Event)


def make_table(urls: DatabaseUrls) -> None:
    with psycopg.connect(psycopg_url(urls.owner)) as connection:
        connection.execute(_TABLE)
        for statement in protect("note"):
            connection.execute(statement)  # type: ignore[arg-type]


def titles(urls: DatabaseUrls) -> list[str]:
    with psycopg.connect(psycopg_url(urls.owner)) as connection:
        return [row[0] for row in connection.execute("SELECT title FROM note ORDER BY title")]


async def store(caller: Caller, body: NoteBody) -> NoteDocument:
    note = Note(id=new_id("note"), team_id=caller.team_id, title=body.title, rank=body.rank)
    caller.session.add(note)
    await caller.session.flush()
    return NoteDocument(id=note.id, title=note.title, rank=note.rank)


def notes_routers(gate: Gate) -> tuple[Router, Router]:
    return writing(gate), reading(gate)


def writing(gate: Gate) -> Router:
    router = Router(prefix="/api/v1/notes", tags=["notes"])

    @router.post("", status_code=201, **permit("gpu.provision"))
    async def add(body: NoteBody, caller: CallerDep, response: Response) -> NoteDocument | Response:
        if body.title == "teapot":
            return Response(status_code=204)
        shown = await store(caller, body)
        response.headers["Location"] = f"/api/v1/notes/{shown.id}"
        return shown

    @router.post("/slow", status_code=201, **permit("gpu.provision"))
    async def add_slowly(body: NoteBody, caller: CallerDep) -> NoteDocument:
        shown = await store(caller, body)
        gate.entered.set()
        await gate.opened.wait()
        return shown

    @router.post("/broken", **permit("gpu.provision"))
    async def add_and_fail(body: NoteBody, caller: CallerDep) -> NoteDocument:
        await store(caller, body)
        raise ZeroDivisionError("the secret is 42")

    @router.post("/released", **permit("gpu.provision"))
    async def add_and_release(body: NoteBody, caller: CallerDep) -> NoteDocument:
        shown = await store(caller, body)
        await caller.release()
        return shown

    return router


def reading(gate: Gate) -> Router:
    router = Router(prefix="/api/v1/notes", tags=["notes"])

    @router.get("/wait", **permit("gpu.view"))
    async def wait(caller: CallerDep) -> dict[str, Any]:
        await caller.release()
        gate.entered.set()
        await gate.opened.wait()
        with pytest.raises(RuntimeError, match="reenter"):
            caller.session  # noqa: B018 - reading it is what is tried
        async with caller.reenter() as session:
            return {"titles": list(await session.scalars(select(Note.title)))}

    @router.get("/stream", **permit("gpu.view", stream=True))
    async def stream(caller: CallerDep) -> Response:
        async def lines() -> AsyncIterator[str]:
            yield "first"
            gate.entered.set()
            await gate.opened.wait()
            async with caller.reenter() as session:
                yield ",".join(await session.scalars(select(Note.title)))

        return StreamingResponse(lines(), media_type="text/event-stream")

    @router.get("", **permit("gpu.view"))
    async def listed(caller: CallerDep, page: Pages) -> dict[str, Any]:
        statement = page.select(select(Note), {"rank": Note.rank, "title": Note.title, "id": Note.id})
        rows = list(await caller.session.scalars(statement))
        return list_document("notes", rows, page, lambda note: {"id": note.id, "title": note.title})

    @router.get("/{note_id}", **permit("gpu.view"))
    async def show(note_id: str, caller: CallerDep) -> NoteDocument:
        note = await caller.session.get(Note, note_id)
        if note is None:
            raise NoteNotFound()
        return NoteDocument(id=note.id, title=note.title, rank=note.rank)

    @router.get("/open", **public())
    async def hello(count: int = 1) -> dict[str, int]:
        return {"count": count}

    return router
