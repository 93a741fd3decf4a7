"""The OpenAPI document is complete: whoever reads it knows every shape, limit and refusal."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from tests.support.whole_api import Op, WholeApi, furnish

from dumont.core import Problem

pytestmark = pytest.mark.requires_postgres
PROBLEM = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}


def test_every_operation_says_what_it_is_and_who_may_call_it(api: WholeApi) -> None:
    names = [op.described["operationId"] for op in api.operations()]
    assert len(names) == len(set(names)) and len(names) >= 25
    assert api.document["components"]["securitySchemes"]["bearer"]["scheme"] == "bearer"
    for op in api.operations():
        assert op.described["summary"] and op.described["description"].endswith("."), op.name
        assert op.described["tags"], op.name
        assert op.described["security"] == ([] if op.public else [{"bearer": []}]), op.name


def test_every_answer_has_a_typed_schema(api: WholeApi) -> None:
    for op in api.operations():
        good = {status: said for status, said in op.described["responses"].items() if status.startswith("2")}
        assert good, op.name
        for status, said in good.items():
            if status == "204":
                continue
            schema = said["content"]["application/json"]["schema"]
            assert list(bare(schema, api.document, op.name)) == []


def bare(schema: dict[str, Any], document: dict[str, Any], where: str, depth: int = 0) -> Iterator[str]:
    """Name each place in a schema that says nothing: no type, or an object without members and without a word."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        schema, where = document["components"]["schemas"][name], f"{where} {name}"
    choices = [one for kind in ("anyOf", "allOf", "oneOf") for one in schema.get(kind, ())]
    if not choices and not schema.keys() & {"type", "enum", "const"}:
        yield where
    members = schema.get("properties", {})
    told = (
        members or isinstance(schema.get("additionalProperties"), dict) or (depth and "additionalProperties" in schema)
    )
    if schema.get("type") == "object" and not told:
        yield where
    inner = {**members, **({"items": schema["items"]} if "items" in schema else {}), **dict(enumerate(choices))}
    for name, one in inner.items() if depth < 8 else ():
        yield from bare(one, document, f"{where} {name}", depth + 1)


def test_every_parameter_and_field_of_a_request_has_limits(api: WholeApi) -> None:
    for op in api.operations():
        for parameter in op.described.get("parameters", ()):
            assert limited(parameter["schema"], api.document), f"{op.name}: {parameter['name']} has no limits"
        body = op.described.get("requestBody")
        if body is not None:
            assert limited(body["content"]["application/json"]["schema"], api.document), op.name


def limited(schema: dict[str, Any], document: dict[str, Any]) -> bool:
    """Tell whether text has a length or a form, a number two ends and a list a size, all the way down."""
    if "$ref" in schema:
        return limited(document["components"]["schemas"][schema["$ref"].rpartition("/")[2]], document)
    choices = [*schema.get("anyOf", ()), *schema.get("allOf", ()), *schema.get("oneOf", ())]
    if choices:
        return all(limited(one, document) for one in choices)
    kind = schema.get("type")
    if kind == "string":
        return bool(schema.keys() & {"maxLength", "pattern", "enum", "const", "format"})
    if kind in ("integer", "number"):
        return bool(schema.keys() & {"minimum", "exclusiveMinimum"} and schema.keys() & {"maximum", "exclusiveMaximum"})
    if kind == "array":
        return "maxItems" in schema and limited(schema["items"], document)
    if kind == "object" and "properties" not in schema:
        return "maxProperties" in schema
    return all(limited(one, document) for one in schema.get("properties", {}).values())


def test_every_refusal_is_a_problem_and_is_named(api: WholeApi) -> None:
    known = api.document["x-problems"]
    for op in api.operations():
        bad = {status: said for status, said in op.described["responses"].items() if not status.startswith("2")}
        assert "default" in bad and all(said["content"] == PROBLEM for said in bad.values()), op.name
        for status, said in bad.items():
            for code in said.get("x-codes", ()):
                assert str(known[code]["status"]) == status, (op.name, code)
        assert set(expected(op)) <= set(bad), op.name


def expected(op: Op) -> Iterator[str]:
    yield "422"
    if not op.public:
        yield from ("401", "404", "503")
    if op.permission:
        yield "403"
    if op.method != "GET":
        yield "413"
    if op.method != "GET" and not op.public:
        yield "409"
    if "requestBody" in op.described:
        yield from ("400", "415")


def test_states_are_enumerations(api: WholeApi) -> None:
    schemas = api.document["components"]["schemas"]
    for name in ("InstanceDocument", "OperationDocument", "SnapshotDocument", "HibernationDocument"):
        status = schemas[name]["properties"]["status"]
        status = schemas[status["$ref"].rpartition("/")[2]] if "$ref" in status else status
        assert len(status["enum"]) >= 3, name


async def test_every_problem_has_its_page(api: WholeApi) -> None:
    assert len(Problem.registry) >= 40
    for code, kind in Problem.registry.items():
        page = await api.http.get(f"/problems/{code}")
        assert page.status_code == 200 and page.json()["code"] == code and page.json()["status"] == kind.status
        assert len(page.json()["meaning"]) > 15
        shown = await api.http.get(f"/problems/{code}", headers={"accept": "text/html"})
        assert shown.headers["content-type"].startswith("text/html") and code in shown.text
    assert (await api.http.get("/problems/none-such")).status_code == 404


async def test_the_judge_of_answers_can_say_no(api: WholeApi) -> None:
    """The check that every answer of these tests goes through is no rubber stamp."""
    team = await furnish(api)
    judge = next(hook for hook in api.http.event_hooks["response"]).__self__  # type: ignore[attr-defined]
    good = await api.http.get(f"/api/v1/instances/{team.instance_id}", headers=team.person.headers)
    for spoiled in (good.text.replace('"creating"', '"dreaming"'), good.text.replace('"version":1,', "")):
        assert spoiled != good.text
        await judge.hear(httpx.Response(200, headers=good.headers, text=spoiled, request=good.request))
    await judge.hear(httpx.Response(418, headers=good.headers, text="{}", request=good.request))
    assert len(judge.wrong) == 3
    judge.wrong.clear()
