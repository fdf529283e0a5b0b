"""Writes ``docs/settings.md`` and ``docs/settings.schema.json`` from the settings: ``make settings-reference``.

A test fails when they are out of step with the settings.
"""

import ast
import functools
import inspect
import json
import typing
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from settings import PROJECT
from settings.all_settings import Settings
from settings.messages import range_of
from settings.section import alternatives_of, is_section, section_of

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "settings.md"
SCHEMA = ROOT / "docs" / "settings.schema.json"

INTRODUCTION = f"""# Settings

Every setting of a stack, written by `make settings-reference` from `settings/`. Settings are structured values under `{PROJECT}:` in
`Pulumi.<stack>.yaml`. Set one with `pulumi config set --path '{PROJECT}:mlflow.host' mlflow.example.com`, and a secret with `--secret`
in front of `--path`. Two settings are required: `cluster.name` (or `cluster.kubeContext`) and `mlflow.host`.

A wrong value is refused before anything is created, with the key and what to write instead. All mistakes come in one message. For
completion in an editor, put `# yaml-language-server: $schema=docs/settings.schema.json` on the first line of a stack file.
"""


@functools.cache
def _described() -> type[Settings]:
    """Return the settings, each with the text below it as its description.

    pydantic does that too (`use_attribute_docstrings`), but in every run of the program, which has no use for it.
    """
    for section in _sections_within(Settings):
        (body,) = ast.parse(inspect.getsource(section)).body
        for field, below in pairwise(cast("ast.ClassDef", body).body):
            match field, below:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                    section.model_fields[name].description = inspect.cleandoc(text)
                case _:
                    pass
        section.model_rebuild(force=True)
    return Settings


def _sections_within(section: type[BaseModel]) -> list[type[BaseModel]]:
    """Return the sections that a section consists of, each before those that contain it."""
    inner = [model for field in section.model_fields.values() if (model := section_of(field.annotation))]
    return [*(deeper for model in inner for deeper in _sections_within(model)), section]


def page() -> str:
    """Write the reference."""
    sections = [INTRODUCTION, *_section("", _described(), "Top level")]
    return "\n".join(sections).rstrip() + "\n"


def schema() -> dict[str, Any]:
    """Write the JSON Schema of a stack file."""
    inner = _described().model_json_schema(by_alias=True)
    definitions = inner.pop("$defs")
    secure = {
        "type": "object",
        "properties": {"secure": {"type": "string"}},
        "required": ["secure"],
        "additionalProperties": False,
    }
    definitions = {**_with_secure_values(definitions), "Secure": secure}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"Pulumi.<stack>.yaml of {PROJECT}",
        "type": "object",
        "properties": {
            "config": {
                "type": "object",
                "properties": {f"{PROJECT}:{key}": value for key, value in inner["properties"].items()},
                "required": [f"{PROJECT}:{key}" for key in inner["required"]],
                "patternProperties": {f"^(?!{PROJECT}:)[a-z][a-z0-9-]*:.+$": {}},
                "additionalProperties": False,
            },
            "encryptionsalt": {"type": "string"},
            "secretsprovider": {"type": "string"},
            "encryptedkey": {"type": "string"},
        },
        "required": ["config"],
        "additionalProperties": False,
        "$defs": definitions,
    }


def _with_secure_values(part: Any) -> Any:
    """In the file a secret is what ``--secret`` made of it."""
    if isinstance(part, list):
        return [_with_secure_values(item) for item in cast("list[Any]", part)]
    if not isinstance(part, dict):
        return part
    mapping = cast("dict[str, Any]", part)
    if mapping.get("format") == "password":
        return {"$ref": "#/$defs/Secure"}
    return {key: _with_secure_values(value) for key, value in mapping.items()}


def write() -> None:
    """Write both files."""
    PAGE.write_text(page())
    SCHEMA.write_text(json.dumps(schema(), indent=2, sort_keys=True) + "\n")


def _section(path: str, model: type[BaseModel], title: str) -> list[str]:
    rows: list[str] = []
    nested: list[str] = []
    for name, field in model.model_fields.items():
        key = f"{path}{field.alias or name}"
        inner = section_of(field.annotation)
        rows.append(
            f"| `{key}` | {_type(field.annotation)}{_limits(field)} | {_default(field)} | {_sentence(field.description)} |"
        )
        if inner is not None:
            nested += _section(f"{key}.", inner, f"`{key}`")
    level = "##" if path.count(".") <= 1 else "###"
    about = _sentence(model.__doc__)
    return [
        f"{level} {title}",
        "",
        about,
        "",
        "| key | type | default | what it does |",
        "|---|---|---|---|",
        *rows,
        "",
        *nested,
    ]


def _type(annotation: Any) -> str:
    names: list[str] = []
    for kind in alternatives_of(annotation):
        origin = typing.get_origin(kind)
        if kind is type(None):
            continue
        if origin is typing.Literal:
            names += [f"`{value}`" for value in typing.get_args(kind)]
        elif origin is list:
            names.append(f"list of {_type(typing.get_args(kind)[0])}s")
        elif origin is dict:
            names.append("map")
        elif kind is SecretStr:
            names.append("secret")
        elif is_section(kind):
            names.append("section")
        else:
            names.append({str: "string", int: "integer", bool: "boolean"}.get(kind, str(kind)))
    return " \\| ".join(names)


def _limits(field: FieldInfo) -> str:
    return range_of(field).replace(" from ", ", ")


def _default(field: FieldInfo) -> str:
    if field.default is PydanticUndefined:
        return "required"
    if isinstance(field.default, BaseModel) or field.default is None or field.default in ([], {}):
        return ""
    return f"`{json.dumps(field.default)}`".replace("|", "\\|")


def _sentence(text: str | None) -> str:
    flat = " ".join((text or "").split())
    return flat.replace("``", "`").replace("|", "\\|")


if __name__ == "__main__":
    write()
