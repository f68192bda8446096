"""The profile's schema as text: the table in the README is made from the models' own descriptions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol


class HasSchema(Protocol):
    """A pydantic model's class, as far as it is needed here."""

    def model_json_schema(self) -> dict[str, Any]: ...


def schema_table(model: HasSchema) -> str:
    """The fields of a model as a Markdown table: key, type, default, meaning. Ends with a newline."""
    schema = model.model_json_schema()
    required = schema.get("required", ())
    rows = ["| Key | Type | Default | Meaning |", "| --- | --- | --- | --- |"]
    for name, field in schema["properties"].items():
        default = "required" if name in required else _default(field.get("default"))
        cells = (f"`{name}`", _type(field), default, field["description"])
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows) + "\n"


def json_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of a profile's file, in which a name may be absent."""
    from nsharness.policy.profile import Profile

    made = Profile.model_json_schema()
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **made,
        "title": "A profile of nsharness",
        "required": [key for key in made.get("required", ()) if key != "name"],
    }


def _type(field: Mapping[str, Any], *, many: bool = False) -> str:
    """A JSON Schema type in words."""
    if "$ref" in field:
        return "rules" if many else "table"
    if "enum" in field:
        return " or ".join(f'`"{choice}"`' for choice in field["enum"])
    if "const" in field:
        return f'`"{field["const"]}"`'
    if "anyOf" in field:
        return " or ".join(_type(choice) for choice in field["anyOf"] if choice.get("type") != "null")
    if field["type"] == "array":
        return f"list of {_type(field['items'], many=True)}"
    if field["type"] == "object":
        return f"table of {_type(field['additionalProperties'], many=True)}"
    return str(field["type"]) + ("s" if many else "")


def _default(value: object) -> str:
    if value is None or value == "":
        return "absent" if value is None else "empty"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, str):
        return f'`"{value}"`'
    if isinstance(value, Mapping):
        return "empty" if not value else "see below"
    if isinstance(value, Iterable):
        items = ", ".join(f'"{item}"' for item in value)
        return f"`[{items}]`" if items else "empty"
    return f"`{value}`"
