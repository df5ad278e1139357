"""One value in a YAML file, set by its place in the text, so that every other line stays as somebody wrote it."""

from collections.abc import Sequence

import yaml

from phasor.errors import PhasorError

_STEP = "  "


def put(text: str, keys: Sequence[str], value: str) -> str:
    """The text with a value at nested keys, which are made where they are missing.

    Args:
        text: YAML of a mapping, or nothing.
        keys: from the outermost.
        value: a string.

    Raises:
        PhasorError: a mapping stands there.
    """
    composed: yaml.Node | None = yaml.compose(text, yaml.SafeLoader)
    node = composed if isinstance(composed, yaml.MappingNode) else None
    for depth, key in enumerate(keys):
        found = next((child for name, child in node.value if name.value == key), None) if node else None
        if found is None:
            return _insert(text, node, keys[depth:], value)
        if not isinstance(found, yaml.MappingNode):
            start, end = found.start_mark.index, found.end_mark.index
            gap = "" if start < end else " "  # nothing at all stands for null
            new = _quoted(value, found.style) if depth == len(keys) - 1 else _flow(keys[depth + 1 :], value)
            # A scalar in lines of its own (| or >) ends where the next entry begins.
            return text[:start] + gap + new + text[start + len(text[start:end].rstrip()) :]
        node = found
    raise PhasorError(f"{'.'.join(keys)} is a mapping in these values. Write text there.")


def _insert(text: str, node: yaml.MappingNode | None, keys: Sequence[str], value: str) -> str:
    """A new entry of a mapping: in braces at their start, in a block above its first entry, at the top level at the end."""
    if node and node.flow_style:
        at = node.start_mark.index + 1
        return text[:at] + f"{keys[0]}: {_flow(keys[1:], value)}" + (", " if node.value else "") + text[at:]
    if node is None or node.start_mark.column == 0:
        end = node.end_mark.index if node else len(text)  # before the mark that ends a document
        between = "" if not end or text[end - 1] == "\n" else _line_end(text)
        return text[:end] + between + _block(keys, value, "", _line_end(text)) + text[end:]
    lines = text.splitlines(keepends=True)
    line = node.start_mark.line
    while lines[line - 1].lstrip().startswith("#"):  # comments go with the entry below them
        line -= 1
    return "".join([*lines[:line], _block(keys, value, " " * node.start_mark.column, _line_end(text)), *lines[line:]])


def _line_end(text: str) -> str:
    return "\r\n" if "\r\n" in text else "\n"


def _block(keys: Sequence[str], value: str, indent: str, line_end: str) -> str:
    lines = [f"{indent}{_STEP * depth}{key}:" for depth, key in enumerate(keys)]
    return line_end.join(lines) + f" {_quoted(value)}{line_end}"


def _flow(keys: Sequence[str], value: str) -> str:
    return f"{{{keys[0]}: {_flow(keys[1:], value)}}}" if keys else _quoted(value)


def _quoted(value: str, style: str | None = None) -> str:
    """As it was quoted before, or only if it would be read as something else; digests and places hold no quotes."""
    return f"{style}{value}{style}" if style in ("'", '"') else value if yaml.safe_load(value) == value else f'"{value}"'
