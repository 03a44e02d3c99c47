"""YAML of PyTorch programs as plain data: tags that name Python objects are noted, and construct nothing."""

from __future__ import annotations

from typing import Any

import yaml

_PYTHON = "tag:yaml.org,2002:python/"
_EXPECTED = ("tuple", "object/apply:collections.OrderedDict",
             *(f"object/{how}:{package}." for how in ("new", "apply") for package in ("torch", "e3nn")))  # fmt: skip


class _InertLoader(yaml.SafeLoader):
    """YAML's own types; any other tag gives what is written below it."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.names: set[str] = set()

    def construct_untagged(self, node: yaml.Node) -> Any:
        """The node's content as scalar, list or mapping; the tag is noted unless nequip writes it."""
        name = str(node.tag).removeprefix(_PYTHON)
        if not name.startswith(_EXPECTED):
            self.names.add(name.rpartition(":")[2])
        if isinstance(node, yaml.MappingNode):
            return self.construct_mapping(node, deep=True)
        if isinstance(node, yaml.SequenceNode):
            return self.construct_sequence(node, deep=True)
        return self.construct_scalar(node)


_InertLoader.add_constructor(None, _InertLoader.construct_untagged)


def load_yaml(text: str) -> tuple[Any, tuple[str, ...]]:
    """The document as plain data, and the names it asks to construct that no program of nequip writes.

    Raises ValueError, in one line, for a text that is no YAML.
    """
    try:
        loader = _InertLoader(text)
        try:
            return loader.get_single_data(), tuple(sorted(loader.names))
        finally:
            loader.dispose()
    except (yaml.YAMLError, RecursionError, ValueError, TypeError) as error:
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from error
