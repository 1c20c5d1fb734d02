"""YAML as data: flat mappings, YAML 1.2 numbers, and none of PyYAML's silent surprises."""

import re
from pathlib import Path
from typing import Any

import yaml

_MAX_BYTES = 1 << 20
_MAX_DEPTH = 20


def load_yaml(path: Path) -> dict[str, Any]:
    """Reads a mapping: no tags, no aliases, no duplicate keys, bounded in size and depth.

    Raises:
        ValueError: The file is anything else; the message is one line and names it.
    """
    if path.stat().st_size > _MAX_BYTES:
        raise ValueError(f"{path} is larger than {_MAX_BYTES} bytes, so it is not read")
    try:
        value = parse_yaml(path.read_bytes().decode())
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} must hold 'key: value' lines, but holds {type(value).__name__}")
    return value


def parse_yaml(text: str) -> Any:
    """The value that a text stands for, under the same rules.

    Raises:
        ValueError: It breaks them; the message is one line.
    """
    try:
        loader = _StrictLoader(text)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ValueError(" ".join(str(error).split())) from error


def dump_yaml(values: dict[str, Any]) -> str:
    """Writes a mapping so that `load_yaml` reads the same one, in the same order."""
    return str(yaml.dump(values, Dumper=_StrictDumper, sort_keys=False))


class _StrictLoader(yaml.SafeLoader):
    """YAML without its traps: duplicate keys and aliases are errors, `1e-4` is a number."""

    _depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError(f"aliases are not allowed {self.peek_event().start_mark}")
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise yaml.YAMLError(f"nested more than {_MAX_DEPTH} deep")
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key.value, str) or key.value in seen:
                raise yaml.YAMLError(f"key twice, or not a word: {key.value!r} {key.start_mark}")
            seen.add(key.value)
        return super().construct_mapping(node, deep)


# YAML 1.2's floats. PyYAML follows 1.1, where `1e-4` is text and `12:30` is 750.
_StrictLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":float", ":int"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:int", re.compile(r"[-+]?[0-9][0-9_]*$"), list("-+0123456789")
)
_StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*([eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+)$"),
    list("-+.0123456789"),
)


class _StrictDumper(yaml.SafeDumper):
    """Quotes the text that the loader would take for a number."""


_StrictDumper.yaml_implicit_resolvers = _StrictLoader.yaml_implicit_resolvers
