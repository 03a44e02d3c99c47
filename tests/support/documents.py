"""Commands in Markdown texts, and running those that are marked for it.

<!-- run -->             the block below it runs in the tests, in a folder that has the project's inputs
<!-- run: install -->    it only runs where an environment is made from nothing
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from allegro_sim.tools.main import main

RUN, INSTALL = "run", "run: install"


def marked_blocks(text: str) -> list[tuple[str, str, str]]:
    """(mark, language, code) of the marked blocks, in order."""
    pattern = rf"^<!-- ({RUN}|{INSTALL}) -->\n```(bash|python)\n(.*?)^```"
    return re.findall(pattern, text, flags=re.DOTALL | re.MULTILINE)


def script_of(text: str, *, install: bool = False) -> str:
    """The marked blocks as one bash script; with those of an installation or without."""
    parts = ["set -e -o pipefail"]
    for mark, language, code in marked_blocks(text):
        if mark == RUN or install:
            parts.append(f"python - <<'END_OF_BLOCK'\n{code}END_OF_BLOCK" if language == "python" else code)
    return "\n".join(parts) + "\n"


def run_document(document: Path, folder: Path, repository: Path, patch: pytest.MonkeyPatch) -> None:
    """Run what a document marks, in a folder with the project's inputs; AssertionError where something fails.

    `allegro-tools` and Python blocks run in this process, which has loaded their libraries; the rest in bash with this
    interpreter's programs.
    """
    (folder / "inputs").symlink_to(repository / "inputs")
    patch.chdir(folder)
    patch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    for mark, language, code in marked_blocks(document.read_text()):
        if mark != RUN:
            continue
        if language == "python":
            exec(compile(code, str(document), "exec"), {"__name__": "__main__"})
            continue
        for line in code.splitlines():
            words = shlex.split(line)
            if words[:1] == ["allegro-tools"]:
                assert main(words[1:]) == 0, line
                continue
            done = subprocess.run(
                ["bash", "-c", line], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300
            )
            assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
