"""What the documents name exists, and what they mark to be run runs."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from support.documents import RUN, marked_blocks, run_document

from allegro_sim import errors
from allegro_sim.output.directory import FIXED_NAMES
from allegro_sim.output.lock import LOCK

START = "python3 -m venv .venv && . .venv/bin/activate && pip install "
FIRST_COMMAND = START + '".[mpi]" && mpirun -n 2 allegro-sim inputs/water/nvt.toml'
TEST_COMMAND = START + '".[mpi,test]" && pytest'
OUTSIDE = {"python3", ".", "pip", "mpirun", "pytest", "cd", "git", "srun", "export", "module"}
TOP_LEVEL = ("README.md", "ARCHITECTURE.md", "CHANGELOG.md", "kernels/README.md")


def documents(repository: Path) -> list[Path]:
    found = [repository / name for name in TOP_LEVEL]
    for folder in ("docs", "inputs"):
        found += sorted((repository / folder).rglob("*.md"))
    return found


def console_lines(text: str) -> list[str]:
    """Commands in the ```bash blocks of a Markdown text, continuation lines joined."""
    blocks = re.findall(r"^```bash\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]


def test_links_between_documents_lead_somewhere(repository: Path) -> None:
    missing = []
    for document in documents(repository):
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", document.read_text()):
            if not re.match(r"[a-z]+:", target) and not (document.parent / target).exists():
                missing.append(f"{document.relative_to(repository)}: {target}")
    assert not missing, missing


def test_paths_named_in_documents_exist(repository: Path) -> None:
    """Names in backticks that begin with a folder of the project."""
    missing = []
    pattern = r"`((?:allegro_sim|kernels|tools|tests|inputs|docs)/[\w./-]*)`"
    for document in documents(repository):
        for name in re.findall(pattern, document.read_text()):
            if not (repository / name).exists():
                missing.append(f"{document.relative_to(repository)}: {name}")
    assert not missing, missing


def test_readme_states_the_two_commands(repository: Path) -> None:
    lines = console_lines((repository / "README.md").read_text())
    assert FIRST_COMMAND in lines
    assert TEST_COMMAND in lines


def test_ci_runs_the_command_of_the_readme(repository: Path) -> None:
    done = subprocess.run(
        ["bash", str(repository / ".ci/run"), "--print-command"], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == TEST_COMMAND


def test_commands_in_documents_exist(repository: Path) -> None:
    tools = subprocess.run(
        [sys.executable, "-m", "allegro_sim.tools.main", "--help"], capture_output=True, text=True, check=True
    ).stdout
    wrong = []
    for document in documents(repository):
        for line in console_lines(document.read_text()):
            for part in re.split(r"&&|\|\||\||;", line):
                words = shlex.split(part, comments=True)
                while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
                    words.pop(0)
                if words[:1] == ["mpirun"]:
                    words = words[3:] if words[1:2] == ["-n"] else words[1:]
                if not words:
                    continue
                known = words[0] in OUTSIDE or words[0] == "allegro-sim"
                if words[0] == "allegro-tools":
                    known = len(words) > 1 and re.search(rf"\b{re.escape(words[1])}\b", tools) is not None
                if words[0] in ("python", "python3") and words[1:2] and words[1].endswith(".py"):
                    known = (repository / words[1]).exists()
                if not known:
                    wrong.append(f"{document.relative_to(repository)}: {part.strip()}")
                wrong += [
                    f"{document.relative_to(repository)}: {word}"
                    for word in words
                    if re.match(r"(inputs|tools|tests|docs)/[\w./-]+$", word) and not (repository / word).exists()
                ]
    assert not wrong, wrong


@pytest.mark.parametrize("name", ["LICENSE", "CITATION.cff", "CHANGELOG.md", "ARCHITECTURE.md", "kernels/README.md"])
def test_house_file_exists(name: str, repository: Path) -> None:
    assert (repository / name).stat().st_size > 0


def test_citation_names_both_papers(repository: Path) -> None:
    yaml = pytest.importorskip("yaml")
    citation = yaml.safe_load((repository / "CITATION.cff").read_text())
    found = {reference.get("doi") for reference in citation["references"]}
    assert {"10.1038/s41467-023-36329-y", "10.1145/3581784.3627041"} <= found


def marked_documents() -> list[str]:
    """Documents with commands to be run, but for those with a test of their own."""
    root = Path(__file__).parents[2]
    found = [path for path in documents(root) if any(mark == RUN for mark, _, _ in marked_blocks(path.read_text()))]
    return sorted(str(path.relative_to(root)) for path in found if path.name != "first-run.md")


@pytest.mark.parametrize("name", marked_documents())
@pytest.mark.filterwarnings("ignore")
def test_commands_marked_in_documents_run(
    name: str, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_document(repository / name, tmp_path, repository, monkeypatch)


def test_documents_with_commands_to_run_are_found() -> None:
    assert {"docs/analysis.md", "README.md"} <= set(marked_documents())


def test_the_index_names_every_page(repository: Path) -> None:
    index = (repository / "docs" / "README.md").read_text()
    pages = {path.name for path in (repository / "docs").glob("*.md")} - {"README.md"}
    assert not {name for name in pages if f"]({name})" not in index}


def test_every_output_file_is_described(repository: Path) -> None:
    text = (repository / "docs" / "output-files.md").read_text()
    assert not {name for name in (*FIXED_NAMES, LOCK) if f"`{name}`" not in text}


def error_sections(repository: Path) -> dict[str, str]:
    """Text of each section of docs/errors.md, by its heading."""
    text = (repository / "docs" / "errors.md").read_text()
    return {
        part.partition("\n")[0]: part.partition("\n")[2] for part in re.split(r"^## ", text, flags=re.MULTILINE)[1:]
    }


def test_every_error_is_explained_with_its_exit_code(repository: Path) -> None:
    sections = error_sections(repository)
    for name, kind in vars(errors).items():
        if isinstance(kind, type) and issubclass(kind, errors.AllegroSimError):
            heading = next((heading for heading in sections if name in heading.split()), None)
            assert heading is not None, f"docs/errors.md has no section on {name}"
            if name not in ("AllegroSimError", "UserError"):
                assert f"Exit code {kind.exit_code}" in sections[heading], name
                # At least one message with its cause and its cure.
                assert re.search(r"^\| `[^`]+` \| [^|]{4,} \| [^|]{4,} \|$", sections[heading], re.MULTILINE), name


def test_messages_in_the_list_of_errors_are_those_of_the_program(repository: Path) -> None:
    sources = [path.read_text() for folder in ("allegro_sim", "tools") for path in (repository / folder).rglob("*.py")]
    # Texts in several literals, one a line, are one.
    program = "\n".join(re.sub(r"[\"']\s*\n\s*f?[\"']", "", source) for source in sources)
    listed = re.findall(r"^\| `([^|`]+)` \|", (repository / "docs" / "errors.md").read_text(), flags=re.MULTILINE)
    assert len(listed) >= 20
    assert not [message for message in listed if message not in program]
