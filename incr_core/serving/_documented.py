"""OpenAPI document of a server, derived from the job's columns."""

from __future__ import annotations

from typing import Any

from incr_core.serving._arrow import ARROW
from incr_core.serving._champion import Champion
from incr_core.serving._request import body_schema
from incr_core.shown import shown

__all__ = ["documented"]

ANSWER: dict[str, Any] = {
    "type": "object",
    "required": ["version", "predictions", "refused"],
    "properties": {
        "version": {"type": "integer"},
        "predictions": {"type": "array", "items": {"type": ["object", "null"]}},
        "refused": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["row", "column", "reason"],
                "properties": {
                    "row": {"type": "integer"},
                    "column": {"type": ["string", "null"]},
                    "reason": {"type": "string"},
                },
            },
        },
    },
}
"""Schema of the answer to /predict."""

IDS = {"type": "array", "items": {"type": ["string", "null"]}}
"""Ids by which labels are sent later, if predictions are recorded; null for a row without an answer."""

REFUSALS = {
    400: "The body is neither JSON nor an Arrow stream.",
    401: "The token is missing or another.",
    408: "The body did not come in time.",
    413: "The body has too many bytes or rows.",
    415: "The body has another media type, or is compressed.",
    422: "The rows lack columns of the model, or have values of another type.",
    429: "There are too many requests a second; ask again.",
    503: "There are too many requests at a time, or the journal cannot be written; ask again.",
}

DETAIL = {"type": "object", "required": ["detail"], "properties": {"detail": {"type": "string"}}}


def documented(champion: Champion, max_rows: int, *, feedback: bool = False, shadow: bool = False) -> dict[str, Any]:
    """Return the OpenAPI document of a server.

    Args:
        champion: The champion that it serves.
        max_rows: Maximum number of rows of a request.
        feedback: Whether it receives labels.
        shadow: Whether it has a shadow.
    """
    answer: dict[str, Any] = ANSWER
    if feedback:
        answer = {
            **ANSWER,
            "required": [*ANSWER["required"], "ids"],
            "properties": {**ANSWER["properties"], "ids": IDS},
        }
    body = body_schema(champion.current.columns, champion.required, max_rows)
    predict = {
        "summary": "Predict rows, as JSON or, many at once, as an Arrow stream",
        "requestBody": _json(body, arrow=True) | {"required": True},
        "responses": {"200": {"description": "An answer for each row"} | _json(answer, arrow=True)} | _refusals(),
    }
    beside = {
        "summary": "Ask the shadow, the version that is compared with the champion; nothing is kept",
        "requestBody": _json(body) | {"required": True},
        "responses": {"200": {"description": "An answer for each row"} | _json(ANSWER)} | _refusals(),
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "incr",
            "version": "1",
            "description": f"Predictions of the champion of {shown(champion.directory)}",
        },
        "paths": {
            "/predict": {"post": predict},
            **({"/feedback": {"post": _feedback()}} if feedback else {}),
            **({"/shadow": {"post": beside}} if shadow else {}),
            "/version": {"get": _told("Which version answers")},
            "/health": {"get": _told("Whether the version that answers is the champion")},
            "/ready": {"get": _told("Whether labelled rows can be written")},
        },
    }


def _feedback() -> dict[str, Any]:
    one = {"type": "object", "required": ["id", "label"], "properties": {"id": {"type": "string"}, "label": {}}}
    told = {"type": "object", "required": ["feedback"], "properties": {"feedback": {"type": "array", "items": one}}}
    more = {"404": "The id is not of this server.", "409": "The id has its label.", "410": "The id is too old."}
    return {
        "summary": "Send the true labels of predictions",
        "requestBody": _json({"anyOf": [told, one]}) | {"required": True},
        "responses": {"200": {"description": "How many labels are kept"} | _json({"type": "object"})}
        | _refusals()
        | {status: {"description": text} | _json(DETAIL) for status, text in more.items()},
    }


def _json(schema: dict[str, Any], *, arrow: bool = False) -> dict[str, Any]:
    """Return content with this schema; arrow: or an Arrow stream, which a JSON schema cannot describe."""
    stream = {ARROW: {"schema": {"type": "string", "format": "binary"}}} if arrow else {}
    return {"content": {"application/json": {"schema": schema}, **stream}}


def _told(summary: str) -> dict[str, Any]:
    return {"summary": summary, "responses": {"200": {"description": summary} | _json({"type": "object"})}}


def _refusals() -> dict[str, Any]:
    return {str(status): {"description": text} | _json(DETAIL) for status, text in REFUSALS.items()}
