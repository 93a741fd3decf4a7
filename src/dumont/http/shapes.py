"""Shapes that the documents of many rooms hold: money, problems, moments."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter
from pydantic_core import to_json
from starlette.responses import Response
from typing_extensions import NotRequired, TypedDict

from dumont.core import money_document

_MOMENT = {"format": "date-time"}
MomentText = Annotated[str, Field(json_schema_extra=_MOMENT)]
"""A time that was stored as text: RFC 3339, UTC."""


class MoneyDocument(BaseModel):
    """An amount of money: a decimal string, never a float."""

    amount: str = Field(pattern=r"^-?[0-9]+\.[0-9]{2,6}$")
    currency: str = Field(pattern=r"^[A-Z]{3}$", description="ISO 4217.")


class FieldErrorDocument(TypedDict):
    """What is wrong with one field; never the value that was sent."""

    pointer: str
    detail: str
    code: str


class ProblemDocument(TypedDict):
    """What went wrong and what to do about it (RFC 9457); some codes carry members of their own."""

    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]

    type: str
    title: str
    status: Annotated[int, Field(ge=400, le=599)]
    detail: Annotated[str, Field(description="Sentences for a person; never what the caller sent.")]
    code: Annotated[str, Field(pattern=r"^[a-z0-9-]+$")]
    act: Literal["fix", "pay", "wait", "report"]
    instance: Annotated[str | None, Field(description="The id of the request or of the operation.")]
    errors: NotRequired[list[FieldErrorDocument]]


def money(nano: int) -> MoneyDocument:
    """Show nano-dollars as Money."""
    return MoneyDocument(**money_document(nano))


def written(document: Any, status: int = 200) -> Response:
    """Answer with a document that is known to have its shape, written once and not checked again.

    For long lists, where the check costs more than the work; the tests compare every such answer with its schema.
    """
    return Response(to_json(document), status, media_type="application/json")


def problem_schemas() -> dict[str, Any]:
    """Return the components `Problem` and `FieldErrorDocument` of the OpenAPI document."""
    schema = TypeAdapter(ProblemDocument).json_schema(ref_template="#/components/schemas/{model}")
    inner: dict[str, Any] = schema.pop("$defs", {})
    return {**inner, "Problem": {**schema, "title": "Problem"}}
