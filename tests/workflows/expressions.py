"""GitHub's expressions, as far as the workflows of this repository use them."""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

_TOKEN = re.compile(r"\s*('(?:[^']|'')*'|[0-9]+|&&|\|\||==|!=|[!().,\[\]]|[\w-]+)")
_WHOLE = re.compile(r"\$\{\{(.*?)\}\}", re.DOTALL)

Functions = Mapping[str, Callable[..., Any]]


class UnsupportedError(Exception):
    """An expression is not understood here."""


def contains(where: Any, what: Any) -> bool:
    """Return True if a list or a text has a part."""
    return what in (where or [])


PLAIN: Functions = {
    "contains": contains,
    "fromJSON": json.loads,
    "format": lambda text, *values: str(text).format(*values),
}
"""Functions that do not ask for the state of the job."""


def evaluate(text: str, contexts: Mapping[str, Any], functions: Functions = PLAIN) -> Any:
    """Return the value of an expression, written without its braces.

    Raises:
        UnsupportedError: the expression is not understood here.
    """
    parser = _Parser(text, contexts, functions)
    value = parser.either()
    if parser.tokens:
        raise UnsupportedError(f"{text}: at {parser.tokens[0]}")
    return value


def fill(text: Any, contexts: Mapping[str, Any], functions: Functions = PLAIN) -> Any:
    """Return a text of a workflow with its expressions replaced. A text that is one expression keeps its kind."""
    if not isinstance(text, str):
        return text
    if (whole := _WHOLE.fullmatch(text.strip())) and text.count("${{") == 1:
        return evaluate(whole[1], contexts, functions)
    return _WHOLE.sub(lambda match: as_text(evaluate(match[1], contexts, functions)), text)


def as_text(value: Any) -> str:
    """Return a value as GitHub writes it."""
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)


class _Parser:
    """Descends by precedence: or, and, comparison, not, value."""

    def __init__(self, text: str, contexts: Mapping[str, Any], functions: Functions) -> None:
        self.text, self.contexts, self.functions = text, contexts, functions
        self.tokens: list[str] = []
        at, text = 0, text.rstrip()
        while at < len(text):
            match = _TOKEN.match(text, at)
            if not match:
                raise UnsupportedError(f"{text}: at {text[at:]}")
            self.tokens.append(match[1])
            at = match.end()

    def take(self, *wanted: str) -> str | None:
        return self.tokens.pop(0) if self.tokens and self.tokens[0] in wanted else None

    def need(self, wanted: str) -> None:
        if self.take(wanted) is None:
            raise UnsupportedError(f"{self.text}: {wanted} is missing")

    # Both sides are read in any case, because reading moves on.
    def either(self) -> Any:
        value = self.both()
        while self.take("||"):
            other = self.both()
            value = value or other
        return value

    def both(self) -> Any:
        value = self.compared()
        while self.take("&&"):
            other = self.compared()
            value = value and other
        return value

    def compared(self) -> Any:
        value = self.negated()
        while operator := self.take("==", "!="):
            other = self.negated()
            # Nothing and the empty text are equal, as on GitHub.
            same = (value or "") == (other or "")
            value = same if operator == "==" else not same
        return value

    def negated(self) -> Any:
        return not self.negated() if self.take("!") else self.value()

    def value(self) -> Any:
        if self.take("("):
            value = self.either()
            self.need(")")
            return value
        if not self.tokens:
            raise UnsupportedError(f"{self.text}: ends early")
        token = self.tokens.pop(0)
        if token.startswith("'"):
            return token[1:-1].replace("''", "'")
        if token.isdigit():
            return int(token)
        if token in ("true", "false"):
            return token == "true"
        if self.take("("):
            return self.called(token)
        if token not in self.contexts:
            raise UnsupportedError(f"{self.text}: there is no {token}")
        value = self.contexts[token]
        while separator := self.take(".", "["):
            name = self.tokens.pop(0) if separator == "." else self.either()
            if separator == "[":
                self.need("]")
            value = value.get(name) if isinstance(value, Mapping) else None
        return value

    def called(self, name: str) -> Any:
        arguments: list[Any] = []
        while not self.take(")"):
            arguments.append(self.either())
            self.take(",")
        if name not in self.functions:
            raise UnsupportedError(f"{self.text}: there is no function {name}")
        return self.functions[name](*arguments)
