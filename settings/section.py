"""The base of every section of the settings."""

import typing
from typing import Any, TypeGuard

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator
from pydantic.alias_generators import to_camel

from settings.problem import Problem


class Section(BaseModel):
    """A structured setting: camelCase in YAML and snake_case in Python, unknown keys refused, frozen.

    The types and ranges of fields are pydantic's to check. Rules that need several values are in `problems`.
    """

    model_config = ConfigDict(
        alias_generator=to_camel,
        extra="forbid",
        frozen=True,
        strict=True,
        hide_input_in_errors=True,
    )

    @field_validator("*", mode="before")
    @classmethod
    def _as_text(cls, value: Any, field: ValidationInfo) -> Any:
        """Make a text of a whole number or a truth value where a text is meant.

        `pulumi config set --path` writes 1234, true and false without quotes. A number with a point is refused: whoever
        wrote 1.10 in YAML would get 1.1. So is a password that YAML may have changed in the same way.
        """
        kinds = kinds_of(cls.model_fields[field.field_name or ""].annotation)
        if str not in kinds or kinds & {bool, int}:
            return value
        if isinstance(value, list):
            return [_text(item) for item in typing.cast("list[Any]", value)]
        if isinstance(value, dict):
            pairs = typing.cast("dict[str, Any]", value)
            # A section converts its own values.
            return pairs if any(map(is_section, kinds)) else {key: _text(item) for key, item in pairs.items()}
        return _text(value)

    def problems(self) -> list[Problem]:
        """Return what is wrong with the section's values together."""
        return []

    def all_problems(self) -> list[Problem]:
        """Return the problems of the section and of the sections in it."""
        inner: list[Problem] = []
        for name in type(self).model_fields:
            value = getattr(self, name)
            if isinstance(value, Section):
                inner += [problem.within(yaml_key(type(self), name)) for problem in value.all_problems()]
        # What follows from a problem is no problem of its own.
        return [*inner, *(one for one in self.problems() if not any(one.follows_from(known.key) for known in inner))]


def _text(value: Any) -> Any:
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int) else value


def kinds_of(annotation: Any) -> set[Any]:
    """Return the types of which an annotation is made, unions, lists and maps opened."""
    if typing.get_origin(annotation) is typing.Literal:
        return {type(value) for value in typing.get_args(annotation)}
    inner = typing.get_args(annotation)
    return {kind for argument in inner for kind in kinds_of(argument)} if inner else {annotation}


def alternatives_of(annotation: Any) -> list[Any]:
    """Return the alternatives of a union; a list or a map stays whole."""
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return alternatives_of(typing.get_args(annotation)[0])
    if origin in {typing.Literal, list, dict} or not typing.get_args(annotation):
        return [annotation]
    return [kind for argument in typing.get_args(annotation) for kind in alternatives_of(argument)]


def is_section(kind: Any) -> TypeGuard[type[BaseModel]]:
    """Return True for the type of a section."""
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def section_of(annotation: Any) -> type[BaseModel] | None:
    """Return the section among the types of an annotation, of which there is one at most."""
    return next(filter(is_section, kinds_of(annotation)), None)


def yaml_key(section: type[BaseModel], name: str) -> str:
    """Return a field's key in YAML."""
    return section.model_fields[name].alias or name
