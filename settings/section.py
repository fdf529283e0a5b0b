"""The base of every section of the settings."""

from pydantic import BaseModel, ConfigDict
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


def yaml_key(section: type[BaseModel], name: str) -> str:
    """Return a field's key in YAML."""
    return section.model_fields[name].alias or name
