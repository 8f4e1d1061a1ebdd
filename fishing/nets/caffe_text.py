"""Prototxts without Caffe: protobuf's text format.

In goes the text of a message, out comes a `Message`. Fields that the schema does not
know are read over and noted, so that who converts a layer can refuse to guess.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from fishing.nets.caffe_schema import (
    ENUMS,
    MESSAGES,
    Field,
    Message,
    Tally,
    in_range,
)

_TOKEN = re.compile(
    r"""
    (?P<space>\s+|\#[^\n]*)
    |(?P<string>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')
    |(?P<number>-?\s*(?:0[xX][0-9a-fA-F]+|(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?[fF]?)
       (?![\w.]))
    |(?P<word>-?[A-Za-z_]\w*)
    |(?P<mark>[][{}<>:,;])
    """,
    re.VERBOSE,
)
_ESCAPE = re.compile(rb"\\(x[0-9a-fA-F]{1,2}|[0-7]{1,3}|.)")
_ESCAPES = dict(zip(b"abfnrtv", b"\a\b\f\n\r\t\v", strict=True))
_BRACKETS = {"{": "}", "<": ">"}
_BOOLS = {
    **dict.fromkeys(("true", "True", "t", "1"), True),
    **dict.fromkeys(("false", "False", "f", "0"), False),
}


def parse_text(text: str, kind: str = "NetParameter") -> Message:
    """Read a message in protobuf's text format.

    Parameters
    ----------
    text : str
    kind : str
        One of `MESSAGES`.

    Returns
    -------
    Message

    Raises
    ------
    ValueError
        If the text is malformed; it begins with the line that is at fault.

    Examples
    --------
    >>> net = parse_text('layer { name: "relu1" relu_param { negative_slope: 0.1 } }')
    >>> net.layer[0].name, net.layer[0].relu_param.negative_slope
    ('relu1', 0.1)
    """
    parser = _Parser(text)
    try:
        return parser.message(kind, "")
    except RecursionError:
        raise ValueError("messages within messages without end") from None


class _Parser:
    """The tokens of a text and the place that has been reached."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._place = 0
        self._tally = Tally()
        self._advance()

    def message(self, kind: str, end: str) -> Message:
        """Read the fields of a message up to `end` and over it."""
        message = Message(kind)
        while self._token != end:
            name = self._take("word", "the name of a field")
            self._tally.add()
            field = MESSAGES[kind].get(name)
            if field is None:
                message.unknown.append(name)
            if field is None or field.kind == "ignored":
                self._skip_value()
                if field:
                    message.fields[name] = None
            else:
                self._field(message, name, field)
            if self._token in (",", ";"):
                self._advance()
        if end:
            self._advance()
        return message

    def _field(self, message: Message, name: str, field: Field) -> None:
        """Read the value of a field, or the values of a repeated one."""
        has_colon = self._colon()
        if not has_colon and field.kind not in MESSAGES:
            raise self._error(f"':' after '{name}'")
        values = []
        if field.many and self._token == "[":
            self._advance()
            while self._token != "]":
                values.append(self._value(field))
                if self._token == ",":
                    self._advance()
                elif self._token != "]":
                    raise self._error("',' or ']'")
            self._advance()
        else:
            values.append(self._value(field))
        if field.many:
            message.fields.setdefault(name, []).extend(values)
        elif name in message.fields:
            raise self._error(f"'{name}' once")
        else:
            message.fields[name] = values[0]

    def _value(self, field: Field) -> Any:
        self._tally.add()
        if field.kind in MESSAGES:
            return self.message(field.kind, self._open_bracket())
        if field.kind == "string":
            value = self._string()
            while self._group == "string":
                value += self._string()
            return value
        if field.kind in ENUMS:
            return self._enum(ENUMS[field.kind])
        read: Callable[[str], Any] = _SCALARS.get(field.kind, _number)
        try:
            number = read(self._token)
        except (KeyError, ValueError, OverflowError):
            raise self._error(f"a value of type {field.kind}") from None
        self._advance()
        return number

    def _string(self) -> str:
        literal = self._take("string", "a text in quotes")
        content = _ESCAPE.sub(_unescape, literal[1:-1].encode())
        return content.decode("utf-8", errors="replace")

    def _enum(self, values: dict[str, int]) -> str:
        names = {str(number): name for name, number in values.items()}
        name = names.get(self._token, self._token)
        if name not in values:
            raise self._error(f"one of {' '.join(values)}")
        self._advance()
        return name

    def _skip_value(self) -> None:
        """Read over a value of any type."""
        has_colon = self._colon()
        if self._token in _BRACKETS:
            depth = [_BRACKETS[self._token]]
            self._advance()
            while depth:
                if self._token in _BRACKETS:
                    depth.append(_BRACKETS[self._token])
                elif self._token == depth[-1]:
                    depth.pop()
                elif not self._token:
                    raise self._error(f"'{depth[-1]}'")
                self._advance()
        elif not has_colon:
            raise self._error("':' or '{'")
        elif self._token == "[":
            while self._token != "]":
                if not self._token:
                    raise self._error("']'")
                self._advance()
            self._advance()
        else:
            is_text = self._group == "string"
            if self._group not in ("string", "number", "word"):
                raise self._error("a value")
            self._advance()
            while is_text and self._group == "string":
                self._advance()

    def _open_bracket(self) -> str:
        if self._token not in _BRACKETS:
            raise self._error("'{'")
        end = _BRACKETS[self._token]
        self._advance()
        return end

    def _colon(self) -> bool:
        found = self._token == ":"
        if found:
            self._advance()
        return found

    def _take(self, group: str, wanted: str) -> str:
        token = self._token
        if self._group != group:
            raise self._error(wanted)
        self._advance()
        return token

    def _advance(self) -> None:
        """Go on to the next token; at the end of the text it is empty."""
        while True:
            match = _TOKEN.match(self._text, self._place)
            self._start = self._place
            if match is None:
                self._token, self._group = self._text[self._place :][:1], "end"
                if self._token:
                    raise self._error("a name, a value or a bracket")
                return
            self._place = match.end()
            if match.lastgroup != "space":
                self._token, self._group = match.group(), str(match.lastgroup)
                return

    def _error(self, wanted: str) -> ValueError:
        line = self._text.count("\n", 0, self._start) + 1
        found = repr(self._token[:100]) if self._token else "the end of the text"
        return ValueError(f"line {line}: {found} in place of {wanted}")


def _unescape(match: re.Match[bytes]) -> bytes:
    """Read an escape: a byte by its number, or a character by its letter."""
    code = match[1]
    if code[:1] == b"x" and len(code) > 1:
        return bytes([int(code[1:], 16)])
    if code.isdigit():
        return bytes([int(code, 8) % 256])
    return bytes([_ESCAPES.get(code[0], code[0])])


def _integer(token: str) -> int:
    """Read a decimal, hexadecimal or octal whole number."""
    digits = token.replace(" ", "").lower()
    is_octal = re.fullmatch(r"-?0[0-7]+", digits)
    return int(digits, 8 if is_octal else 16 if "0x" in digits else 10)


def _number(token: str) -> float:
    """Read a floating-point number, which may end with an f."""
    digits = token.replace(" ", "").lower()
    if "0x" in digits:
        return float(_integer(digits))
    is_name = digits.lstrip("-") in ("inf", "infinity", "nan")
    return float(digits if is_name else digits.removesuffix("f"))


_SCALARS: dict[str, Callable[[str], Any]] = {
    "bool": _BOOLS.__getitem__,
    "int": lambda token: in_range(_integer(token), "int"),
    "long": lambda token: in_range(_integer(token), "long"),
}
