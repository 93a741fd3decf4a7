"""The request kit: callers, permissions, one transaction per request, idempotency, lists and problems."""

from dumont.http import problems
from dumont.http.access import AccessNotDeclared, permit, public, signed_in
from dumont.http.app import create_app, mount
from dumont.http.caller import Authenticator, Caller, CallerDep, CallerFacts, DatabaseDep, GlanceDep
from dumont.http.edge import foreseen
from dumont.http.errors import problem_response
from dumont.http.idempotency import Claim, IdempotencyRecord, forget_keys, read_key, read_open_claim
from dumont.http.openapi import raises
from dumont.http.pages import Page, list_document, page_params
from dumont.http.rates import Limits, LimitsDep, Rule, address_of, refusal, spend
from dumont.http.routing import Route, Router, apart
from dumont.http.seal import seal, unseal
from dumont.http.shapes import MomentText, MoneyDocument, ProblemDocument, money, written
from dumont.http.text import Line, Lines

__all__ = [
    "AccessNotDeclared",
    "Authenticator",
    "Caller",
    "CallerDep",
    "CallerFacts",
    "Claim",
    "DatabaseDep",
    "GlanceDep",
    "IdempotencyRecord",
    "Limits",
    "LimitsDep",
    "Line",
    "Lines",
    "MomentText",
    "MoneyDocument",
    "Page",
    "ProblemDocument",
    "Route",
    "Router",
    "Rule",
    "address_of",
    "apart",
    "create_app",
    "foreseen",
    "forget_keys",
    "list_document",
    "money",
    "mount",
    "page_params",
    "permit",
    "problem_response",
    "problems",
    "public",
    "raises",
    "read_key",
    "read_open_claim",
    "refusal",
    "seal",
    "signed_in",
    "spend",
    "unseal",
    "written",
]
