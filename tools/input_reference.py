"""Writes the tables of docs/input.md from the table of settings: `python tools/input_reference.py` at the root."""

from __future__ import annotations

from pathlib import Path

from allegro_sim.config import plain_value, toml_value
from allegro_sim.keys import INPUT_NAME, KEYS, REQUIRED, SECTIONS, Key

BEGIN = "<!-- tables: made by tools/input_reference.py from allegro_sim/keys.py; do not edit -->"
END = "<!-- end of tables -->"


def render_tables() -> str:
    """The reference of all keys: one Markdown table a section."""
    lines: list[str] = []
    for section, purpose in SECTIONS.items():
        lines += [
            f"### `[{section}]`: {purpose}",
            "",
            "| key | type | default | unit | bounds | what it does |",
            "|---|---|---|---|---|---|",
        ]
        for key in (key for key in KEYS if key.section == section):
            kind = ", ".join(f'`"{choice}"`' for choice in key.choices) or key.kind
            lines.append(
                f"| `{key.name}` | {kind} | {_default(key)} | {key.unit} | {_bounds(key)} | {key.description} |"
            )
        lines.append("")
    return "\n".join(lines)


def insert_tables(document: str) -> str:
    """The document with the text between its two marks replaced by the tables."""
    before, _, rest = document.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{render_tables()}\n{END}{after}"


def _default(key: Key) -> str:
    if key.default is REQUIRED:
        return "required"
    if key.default is INPUT_NAME or key.default is None:
        return ""
    return f"`{toml_value(plain_value(key.default))}`"


def _bounds(key: Key) -> str:
    bounds = [f"≥ {key.minimum:g}"] if key.minimum is not None else []
    bounds += [f"> {key.above:g}"] if key.above is not None else []
    bounds += [f"≤ {key.maximum:g}"] if key.maximum is not None else []
    return ", ".join(bounds)


if __name__ == "__main__":
    path = Path(__file__).resolve().parent.parent / "docs" / "input.md"
    path.write_text(insert_tables(path.read_text(encoding="utf-8")), encoding="utf-8")
