"""The OpenAPI 3.1 description of the REST interface, written once and tested against the server."""

from __future__ import annotations

from typing import Any

from edgead._version import __version__

__all__ = ["openapi_document"]

_NUMBER = {"type": ["number", "null"]}
_TEXT = {"type": "string"}
_ID = {"type": "integer", "minimum": 0}
_POLYGONS = {
    "type": "array",
    "items": {
        "type": "array",
        "minItems": 3,
        "items": {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2},
    },
}

_SCHEMAS: dict[str, Any] = {
    "Problem": {
        "type": "object",
        "description": "Every error: a stable code, what is wrong, what to do.",
        "required": ["code", "message", "hint"],
        "properties": {
            "code": {"type": "string", "pattern": "^[A-Z][A-Z0-9_]*$"},
            "message": _TEXT,
            "hint": _TEXT,
            "verdict": {"const": "UNKNOWN"},
            "accept": {"const": False},
        },
    },
    "Verdict": {"enum": ["UNKNOWN", "GOOD", "DEFECT"]},
    "Region": {
        "type": "object",
        "required": ["box_xyxy", "area_px", "area_mm2", "peak", "centroid", "contour"],
        "properties": {
            "box_xyxy": {"type": "array", "items": {"type": "number"}},
            "area_px": {"type": "number"},
            "area_mm2": _NUMBER,
            "peak": {"type": "number"},
            "centroid": {"type": "array", "items": {"type": "number"}},
            "contour": {"type": "array", "items": {"type": "array", "items": {"type": "number"}}},
        },
    },
    "Detection": {
        "type": "object",
        "required": ["frame_id", "verdict", "accept", "score", "threshold", "regions"],
        "properties": {
            "frame_id": _TEXT,
            "verdict": {"$ref": "#/components/schemas/Verdict"},
            "accept": {"type": "boolean", "description": "True only for GOOD."},
            "score": {**_NUMBER, "description": "Larger is more anomalous."},
            "threshold": _NUMBER,
            "confidence": _NUMBER,
            "regions": {"type": "array", "items": {"$ref": "#/components/schemas/Region"}},
            "timings_ms": {"type": "object", "additionalProperties": {"type": "number"}},
            "bundle_hash": _TEXT,
            "backend": _TEXT,
            "precision": _TEXT,
            "is_simulated": {"const": True, "description": "An upload is never a live verdict."},
        },
    },
    "Readiness": {
        "type": "object",
        "required": ["ready", "checks"],
        "properties": {
            "ready": {"type": "boolean"},
            "checks": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["name", "ok", "text"],
                    "properties": {"name": _TEXT, "ok": {"type": "boolean"}, "text": _TEXT},
                },
            },
        },
    },
    "State": {
        "type": "object",
        "required": ["run", "cameras", "ready", "checks", "warnings", "policy"],
        "properties": {
            "run": _TEXT,
            "cameras": {"type": "array", "items": {"type": "object"}},
            "ready": {"type": "boolean"},
            "checks": {"type": "array"},
            "warnings": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["camera", "cause", "text"],
                    "properties": {"camera": _TEXT, "cause": _TEXT, "text": _TEXT},
                },
            },
            "policy": _TEXT,
        },
    },
    "Scores": {
        "type": "object",
        "required": ["camera", "scores"],
        "properties": {
            "camera": _TEXT,
            "scores": {
                "type": "array",
                "description": "[seq, score, verdict], oldest first.",
                "items": {"type": "array"},
            },
        },
    },
    "Drawing": {
        "type": "object",
        "description": "A whole view: what is left out is taken away.",
        "additionalProperties": False,
        "properties": {
            "roi": {
                **_POLYGONS,
                "description": "Only their inside is looked at; none: everywhere.",
            },
            "ignore": {**_POLYGONS, "description": "Their inside is not looked at."},
            "keep_mask": {"type": "boolean", "description": "Keep the bundle's mask image."},
            "mm_per_px": {"type": ["number", "null"], "exclusiveMinimum": 0},
            "min_area_px": {"type": "number", "minimum": 0},
        },
    },
    "View": {
        "type": "object",
        "required": ["bundle", "roi", "ignore", "has_mask", "has_tiles", "mm_per_px", "frame_size"],
        "properties": {
            "bundle": _TEXT,
            "roi": _POLYGONS,
            "ignore": _POLYGONS,
            "has_mask": {"type": "boolean"},
            "has_tiles": {"type": "boolean"},
            "mm_per_px": _NUMBER,
            "min_area_px": {"type": "number"},
            "frame_size": {"type": ["array", "null"], "items": {"type": "integer"}},
        },
    },
    "Saved": {
        "type": "object",
        "required": ["file", "commissioned", "looked_at", "commands"],
        "properties": {
            "file": {**_TEXT, "description": "Empty: nothing was changed."},
            "commissioned": {"type": "boolean", "description": "Its threshold holds for its view."},
            "looked_at": {**_NUMBER, "description": "Share of the frame."},
            "commands": {"type": "array", "items": _TEXT},
        },
    },
}

_CAMERA = {"name": "camera", "in": "path", "required": True, "schema": _ID}
_SEQ = {"name": "seq", "in": "path", "required": True, "schema": _ID}


def openapi_document(*, with_token: bool) -> dict[str, Any]:
    """The document that ``/api/openapi.json`` serves.

    Args:
        with_token: Whether requests need a token.
    """
    document: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": "edgead",
            "version": __version__,
            "description": "Verdicts on images, and the state of an inspection line.",
        },
        "paths": _paths(with_token),
        "components": {"schemas": _SCHEMAS},
    }
    if with_token:
        schemes = {"token": {"type": "http", "scheme": "bearer"}}
        document["components"]["securitySchemes"] = schemes
        document["security"] = [{"token": []}]
    return document


def _paths(with_token: bool) -> dict[str, Any]:
    refused = {"403": _problem("Comes from a page of another site.")}
    if with_token:
        refused["401"] = _problem("No token, or a wrong one.")
    missing = {"404": _problem("There is no such camera or picture.")}
    jpeg = {"200": _answer("A JPEG picture.", {"image/jpeg": {"schema": _TEXT}})}
    page = {"200": _json("State"), **refused}
    return {
        "/api/v1/detect": {"post": _detect(refused)},
        **_view_paths(refused, {**jpeg, **missing, **refused}),
        "/api/v1/state": {"get": _get("Cameras, counters, checks", {**page, "503": _broken()})},
        "/api/v1/model": {
            "get": _get("The model and its certificates", {**refused, "200": _object()})
        },
        "/api/v1/cameras/{camera}/scores": {
            "get": _get("Recent scores", {"200": _json("Scores"), **missing, **refused}, _CAMERA)
        },
        "/api/v1/cameras/{camera}/picture.jpg": {
            "get": _get(
                "The newest judged frame, with its anomaly map",
                {**jpeg, **missing, **refused, "503": _problem("No frame was judged yet.")},
                _CAMERA,
            )
        },
        "/api/v1/cameras/{camera}/rejects/{seq}.jpg": {
            "get": _get(
                "A recent reject, with its anomaly map",
                {**jpeg, **missing, **refused, "503": _problem("It was not drawn in time.")},
                _CAMERA,
                _SEQ,
            )
        },
        "/healthz": {
            "get": {**_get("The process is alive", {"200": _object()}), "security": []},
        },
        "/readyz": {
            "get": _get(
                "The line may be trusted now",
                {"200": _json("Readiness"), "503": _json("Readiness"), **refused},
            )
        },
        "/metrics": {
            "get": _get(
                "Prometheus metrics",
                {"200": _answer("Metrics.", {"text/plain": {"schema": _TEXT}}), **refused},
            )
        },
    }


def _detect(refused: dict[str, Any]) -> dict[str, Any]:
    kinds = ("image/png", "image/jpeg", "image/bmp", "image/tiff", "application/octet-stream")
    binary = {"schema": {"type": "string", "format": "binary"}}
    return {
        "summary": "One image in, one verdict out",
        "description": "PNG, JPEG, BMP or TIFF of the size and format that the bundle was made for.",
        "operationId": "detect",
        "requestBody": {"required": True, "content": dict.fromkeys(kinds, binary)},
        "responses": {
            "200": _json("Detection"),
            "400": _problem("The client went away."),
            "408": _problem("The body took too long."),
            "413": _problem("The body is too large."),
            "415": _problem("The body is compressed."),
            "422": _problem("No image, or one that must not be judged: its verdict is UNKNOWN."),
            "503": _problem("Busy, or the model may not be trusted now."),
            **refused,
        },
    }


def _view_paths(refused: dict[str, Any], picture: dict[str, Any]) -> dict[str, Any]:
    absent = {"404": _problem("Served without a bundle's file, or no mask."), **refused}
    return {
        "/api/v1/view": {
            "get": _get("The view, as the editor draws it", {"200": _json("View"), **absent}),
            "post": _save_view(absent),
        },
        "/api/v1/view/mask.png": {
            "get": _get(
                "The bundle's mask image",
                {"200": _answer("White is not looked at.", {"image/png": {"schema": _TEXT}})}
                | absent,
            )
        },
        "/api/v1/cameras/{camera}/frame.jpg": {
            "get": _get(
                "The newest judged frame as the camera saw it; X-Meta has its size",
                {**picture, "503": _problem("No frame was judged yet.")},
                _CAMERA,
            )
        },
    }


def _save_view(refused: dict[str, Any]) -> dict[str, Any]:
    drawing = {"schema": {"$ref": "#/components/schemas/Drawing"}}
    return {
        "summary": "Save another view as a bundle beside the running one",
        "description": "The line goes on as it is. Another view has no threshold until it is commissioned.",
        "operationId": "save_view",
        "requestBody": {"required": True, "content": {"application/json": drawing}},
        "responses": {
            "200": _json("Saved"),
            "400": _problem("The client went away."),
            "408": _problem("The body took too long."),
            "413": _problem("The body is too large."),
            "415": _problem("The body is compressed, or no JSON."),
            "422": _problem("The drawing cannot be read, or leaves nothing to look at."),
            "503": _problem("Another view is being saved, or the folder cannot be written."),
            **refused,
        },
    }


def _get(summary: str, responses: dict[str, Any], *parameters: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {"summary": summary, "responses": responses}
    if parameters:
        found["parameters"] = list(parameters)
    return found


def _answer(text: str, content: dict[str, Any]) -> dict[str, Any]:
    return {"description": text, "content": content}


def _json(name: str) -> dict[str, Any]:
    reference = {"$ref": f"#/components/schemas/{name}"}
    return _answer(name, {"application/json": {"schema": reference}})


def _object() -> dict[str, Any]:
    return _answer("An object.", {"application/json": {"schema": {"type": "object"}}})


def _problem(text: str) -> dict[str, Any]:
    return {**_json("Problem"), "description": text}


def _broken() -> dict[str, Any]:
    return _problem("The books do not balance.")
