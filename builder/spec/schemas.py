"""The JSON schemas of the file formats, for editors and other programs."""

from __future__ import annotations

from typing import Any

from builder.spec.models import json_schema

__all__ = ["schemas"]


def schemas() -> dict[str, dict[str, Any]]:
    """Schema name → JSON schema: `variant` from its models, `registry` as `builder.registry` reads
    it."""
    return {"registry": _registry(), "variant": json_schema()}


def _registry() -> dict[str, Any]:
    text = {"type": "string"}
    build = {
        "type": "object",
        "description": "One build; unknown fields are kept.",
        "properties": {
            "template_id": text,
            "build_id": text,
            "origin": {"enum": ["built", "adopted"]},
            "digest": {"type": "string", "pattern": "^sha256:[0-9a-f]{64}$"},
            "base_image": text,
            "packages": {"type": "object", "additionalProperties": text},
            "built_at": {"type": "string", "format": "date-time"},
            "steps": {
                "type": "array",
                "description": "identities of the steps, for a target that caches them",
                "items": text,
            },
            "base_fetched": {
                "type": "boolean",
                "description": "that E2B did not have the base image in its cache",
            },
            "other_packages": {"type": "object", "additionalProperties": text},
            "stages": {
                "type": "object",
                "description": "stage → sha256:… of what it and its parents declare",
                "additionalProperties": text,
            },
            "stages_algorithm": {
                "type": "integer",
                "description": "of `stages`: 1, or absent, left out [env], [service], [resources]",
            },
            "provenance": {
                "type": "object",
                "properties": {
                    "commit": text,
                    "dirty": {"type": "boolean", "description": "the specs differed from it"},
                    "renderer": text,
                    "lock": text,
                },
            },
            "checks": {
                "type": "array",
                "description": "the spec's own checks, to be run again",
                "items": {
                    "type": "object",
                    "properties": {
                        "source": text,
                        "name": text,
                        "code": text,
                        "stdout": {"type": ["string", "null"]},
                        "timeout": {"type": "integer"},
                    },
                    "required": ["source", "name", "code", "timeout"],
                },
            },
            "revoked": {"type": "string", "description": "why it must not be used any more"},
            "revoked_at": {"type": "string", "description": "from when on, in UTC"},
            "revocations": {
                "type": "object",
                "description": "`build`, or what it contains → reason, at, by",
                "additionalProperties": {"type": "object"},
            },
            "checksum": {"type": "string", "description": "sha256:… of this record without it"},
            "warnings": {"type": "array", "items": text},
        },
        "required": ["template_id", "origin"],
    }
    event = {
        "type": "object",
        "description": "One change; `chain` is sha256:… of the one before it and of this one.",
        "properties": {
            "action": {
                "enum": [
                    "adopt",
                    "build",
                    "promote",
                    "remove",
                    "repair",
                    "restore",
                    "revoke",
                    "rollback",
                    "unhold",
                ]
            },
            "at": text,
            "by": text,
            "channel": text,
            "from": {"type": ["string", "null"]},
            "to": {"type": ["string", "null"]},
            "build": text,
            "record": text,
            "reason": text,
            "chain": text,
        },
        "required": ["action", "at", "by", "chain"],
    }
    target = {
        "type": "object",
        "properties": {
            "channels": {
                "type": "object",
                "description": "channel → the ref of one of the builds",
                "additionalProperties": text,
            },
            "builds": {"type": "object", "additionalProperties": build},
            "holds": {
                "type": "object",
                "description": "channel → the rollback that it stands at: builds do not move it",
                "additionalProperties": {
                    "type": "object",
                    "properties": {"at": text, "by": text, "reason": text},
                    "required": ["at", "by"],
                },
            },
            "history": {"type": "array", "items": event},
        },
        "required": ["channels", "builds"],
    }
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "registry.json",
        "description": "Template name → target → channels and builds.",
        "type": "object",
        "properties": {
            "version": {"const": 1},
            "changes": {
                "type": "array",
                "description": "in an object store: identities of the latest changes",
                "items": text,
            },
            "revocations": {
                "type": "array",
                "description": "what no build may contain",
                "items": {
                    "type": "object",
                    "properties": {"what": text, "reason": text, "at": text, "by": text},
                    "required": ["what", "reason", "at"],
                },
            },
            "templates": {
                "type": "object",
                "additionalProperties": {"type": "object", "additionalProperties": target},
            },
        },
        "required": ["version", "templates"],
    }
