"""The OpenAPI document of the server."""

from typing import Any

from pneumojax import __version__
from pneumojax.serving.serve_settings import Limits

FIELD = "film"  # of a form, once for each film
_PROBABILITY = {"type": ["number", "null"], "minimum": 0, "maximum": 1}
_DECISION = {"type": ["string", "null"], "enum": ["normal", "pneumonia", None]}
_ROW = {
    "id": {"type": "string", "description": "name of the file"},
    "probability": _PROBABILITY | {"description": "calibrated probability of pneumonia; null if it cannot be read"},
    "decision": _DECISION,
    "threshold": _PROBABILITY,
    "decision_at_sens95": _DECISION,
    "threshold_sens95": _PROBABILITY,
    "ood_score": {"type": ["number", "null"], "minimum": 0},
    "flags": {"type": "array", "items": {"type": "string"}, "description": "look at them before the probability"},
    "error": {"type": ["string", "null"], "description": "why the film cannot be read"},
    "model": {"type": "string"},
    "version": {"type": "string"},
    "digest": {"type": "string"},
    "site": {"type": "string", "description": "that the model is set up for; empty where it is as trained"},
}
_REFUSED = {
    "400": "there is no film, too many of them, or something else; or the form is broken",
    "403": "a page of another site sent it",
    "408": "it took too long",
    "413": "it is too large",
    "415": "it is no form",
    "500": "the server failed",
    "503": "too many films wait",
}


def document(limits: Limits) -> dict[str, Any]:
    """Return the document."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "PneumoJAX",
            "version": __version__,
            "description": "Pneumonia or normal on chest radiographs. Not a medical device: for research only.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": {
            "/": {"get": _operation("page", "A page that computes in the browser", _answer("text/html", None))},
            "/health": {"get": _operation("health", "Whether the server runs", _answer(_JSON, "Health"))},
            "/openapi.json": {"get": _operation("describe", "This document", _answer(_JSON, None, {"type": "object"}))},
            "/predict": {"post": _predict(limits)},
        },
        "components": {
            "schemas": {
                "Row": _object(_ROW),
                "Rows": _object({"rows": {"type": "array", "minItems": 1, "items": _reference("Row")}}),
                "Error": _object({"error": {"type": "string"}}),
                "Health": _object(
                    {
                        "status": {"const": "ok"},
                        "model": _object({"name": {"type": "string"}, "digest": {"type": "string"}}),
                        "films": {"type": "integer", "minimum": 0, "description": "films that have no answer yet"},
                    }
                ),
            }
        },
    }


_JSON = "application/json"


def _predict(limits: Limits) -> dict[str, Any]:
    films = {
        "type": "array",
        "minItems": 1,
        "maxItems": limits.films,
        "items": {"type": "string", "format": "binary"},
        "description": f"JPEG, PNG, TIFF, BMP, WebP or DICOM; {limits.bytes // 1_000_000:,} MB in all",
    }
    summary = "Predict films: a row for each, as --mode=predict writes it"
    operation = _operation("predict", summary, _answer(_JSON, "Rows"))
    refused = {status: {"description": meaning, **_answer(_JSON, "Error")} for status, meaning in _REFUSED.items()}
    operation["responses"] |= refused
    schema = _object({FIELD: films})
    return operation | {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}


def _operation(name: str, summary: str, answer: dict[str, Any]) -> dict[str, Any]:
    return {"operationId": name, "summary": summary, "responses": {"200": {"description": summary, **answer}}}


def _answer(kind: str, name: str | None, schema: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"content": {kind: {"schema": _reference(name) if name else schema or {"type": "string"}}}}


def _reference(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object", "properties": properties, "required": list(properties), "additionalProperties": False
    }  # fmt: skip
