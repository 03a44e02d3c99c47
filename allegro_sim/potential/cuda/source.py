"""One text of all CUDA sources that a module is made of: our own headers stand in it, each once.

What is compiled names no other file, so that its hash is the hash of all there is.
"""

from __future__ import annotations

import re
from pathlib import Path

import allegro_sim.kernels.cuda

FOLDER = Path(allegro_sim.kernels.cuda.__file__).parent
_INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]+"([^"]+)"[ \t]*(?://.*)?\n', re.MULTILINE)
_ONCE = re.compile(r"^[ \t]*#[ \t]*pragma[ \t]+once[ \t]*\n", re.MULTILINE)


def assemble(*parts: str) -> str:
    """Join parts of a module: a name that ends in .cu or .cuh is that file of kernels/cuda, all else is text."""
    seen: set[str] = set()
    pieces = []
    for part in parts:
        is_file = part.endswith((".cu", ".cuh")) and "\n" not in part
        pieces.append(_expand(part, seen) if is_file else f'#line 1 "generated text"\n{part}')
    return "\n".join(pieces)


def _expand(name: str, seen: set[str]) -> str:
    if name in seen:
        return ""
    seen.add(name)
    text = _ONCE.sub("\n", (FOLDER / name).read_text())
    # Lines are numbered as in the file, so that a compiler's message points there.
    pieces, at = [f'#line 1 "{name}"\n'], 0
    for match in _INCLUDE.finditer(text):
        pieces += [text[at : match.start()], _expand(match[1], seen)]
        at = match.end()
        pieces.append(f'#line {text.count(chr(10), 0, at) + 1} "{name}"\n')
    return "".join([*pieces, text[at:]])
