"""Deploy nets from Caffe's files, without Caffe."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from google.protobuf import text_format

from fishing.errors import NetError
from fishing.files import read_at_most
from fishing.nets.caffe_messages import (
    TEST,
    NetParameter,
    garbled,
    set_layers,
    strangers,
    upgrade_inputs,
    upgrade_layers,
)
from fishing.nets.caffe_weights import parse_binary

#: The most bytes of a deploy net, and values in the text format. The largest nets in
#: use have a hundredth of these bytes and a twentieth of these values.
MAX_NET_BYTES, MOST_VALUES = 2**24, 2**17

# What shows the structure of a text: quotes and comments may contain brackets as well.
_TOKEN = re.compile(
    r"""\#[^\n]*                                  # a comment
    | "(?:[^"\\\n]|\\.)*" | '(?:[^'\\\n]|\\.)*'  # a text in quotes
    | [\[{<] | [\]}>](?:\s*[,;])?                # a bracket, maybe with a separator
    """,
    re.VERBOSE,
)


def read_net(prototxt: Path) -> Any:
    """Read a net of V1 or current layers, in the text or the binary format.

    Parameters
    ----------
    prototxt : Path

    Returns
    -------
    NetParameter
        A protobuf message. All layers are in ``layer``; inputs are layers of type
        ``Input``, and layers that do not belong to the TEST phase are left out.

    Raises
    ------
    NetError
        If the file is not a net, or is in the format of 2013.

    Examples
    --------
    >>> from fishing.nets import load_net
    >>> net = read_net(load_net("tinyalexnet").model)
    >>> net.layer[1].name, net.layer[1].convolution_param.num_output
    ('conv1', 48)
    """
    try:
        content = read_at_most(prototxt, MAX_NET_BYTES)
        is_binary = bool(content.translate(None, delete=bytes(range(9, 256))))
        net = _from_bytes(content) if is_binary else _from_text(content.decode("utf-8"))
        upgrade_layers(net)
        upgrade_inputs(net)
    except (ValueError, OSError) as error:
        raise NetError(f"{prototxt}: expected a deploy net, found {error}") from None
    included = [layer for layer in net.layer if _is_included(layer, net.state)]
    if len(included) < len(net.layer):
        set_layers(net, included)
    return net


def _from_text(text: str) -> Any:
    """Parse the text format, and note in each layer a field that Caffe does not know.

    `check_settings` refuses the layer where it is used. Unused layers do not matter.
    """
    if sum(map(text.count, ":{<[,")) > MOST_VALUES:
        raise ValueError(f"more than {MOST_VALUES} values")
    try:
        return _parse(text)
    except ValueError as error:
        fault = error
    net, has_strangers = NetParameter(), False
    for line, piece in _pieces(text):
        try:
            part = _parse(piece, line)
        except ValueError as error:
            part = _parse(piece, line, allow_unknown_field=True)
            layers = [*part.layer, *part.layers]
            if not layers:
                raise
            has_strangers = True
            for layer in layers:
                layer.stranger = str(error)
        net.MergeFrom(part)
    if not has_strangers:
        raise fault
    return net


def _parse(text: str, lines_before: int = 0, **options: bool) -> Any:
    try:
        return text_format.Parse(text, NetParameter(), **options)
    except RecursionError:
        raise ValueError("messages within messages without end") from None
    except text_format.ParseError as error:
        # protobuf begins with the line and the column: `12:3 : `.
        match = re.match(r"(\d+):\d+ : ", str(error))
        if match is None:
            raise ValueError(str(error)) from None
        line = int(match[1]) + lines_before
        raise ValueError(f"in line {line}: {str(error)[match.end() :]}") from None


def _pieces(text: str) -> Iterator[tuple[int, str]]:
    """Split a text after each message of the net, and count the lines before each."""
    line = start = depth = 0
    for match in _TOKEN.finditer(text):
        depth += {"{": 1, "<": 1, "[": 1, "}": -1, ">": -1, "]": -1}.get(match[0][0], 0)
        if depth == 0 and match[0][0] in "}>]":
            piece = text[start : match.end()]
            yield line, piece
            line, start = line + piece.count("\n"), match.end()
    yield line, text[start:]


def _from_bytes(content: bytes) -> Any:
    """Parse the binary format, and note unknown fields in the same way."""
    net = parse_binary(content)
    for field in garbled(net):
        raise ValueError(f"a text that is not UTF-8 as '{field}'")
    for layer in (*net.layer, *net.layers):
        for field in strangers(layer):
            layer.stranger = f"the unknown field '{field}'"
            break
    return net


def _is_included(layer: Any, state: Any) -> bool:
    """Tell whether a layer is in the net when it is tested."""
    if layer.include:
        return any(_meets(rule, state) for rule in layer.include)
    return not any(_meets(rule, state) for rule in layer.exclude)


def _meets(rule: Any, state: Any) -> bool:
    """Tell whether the TEST phase, at the level and stages of a net, meets a rule."""
    stages = set(state.stage)
    return (
        (not rule.HasField("phase") or rule.phase == TEST)
        and (not rule.HasField("min_level") or state.level >= rule.min_level)
        and (not rule.HasField("max_level") or state.level <= rule.max_level)
        and stages.issuperset(rule.stage)
        and stages.isdisjoint(rule.not_stage)
    )
