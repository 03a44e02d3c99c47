"""What an import takes: seconds, and memory above the interpreter's own."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

_IMPORT_AND_MEASURE = """
import resource, sys, time
from pathlib import Path
from allegro_sim.tools.main import main
import allegro_sim.tools.import_model, h5py, ase.data

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

before, start = peak(), time.perf_counter()
code = main(["import", sys.argv[1], "-o", sys.argv[2]])
print("MEASURED", code, time.perf_counter() - start, peak() - before)
"""


def assert_cheap_import(checkpoint: Path, size: int, output: Path) -> None:
    """In a process of its own: a checkpoint of `size` bytes takes seconds, and less than three times its size."""
    command = [sys.executable, "-c", _IMPORT_AND_MEASURE, str(checkpoint), str(output)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    measured = re.search(r"MEASURED (\d+) (\S+) (\S+)", done.stdout)
    assert measured is not None, done.stdout + done.stderr
    assert measured[1] == "0", done.stderr
    assert float(measured[2]) < 60.0, "seconds; about 5 on an idle core"
    assert float(measured[3]) < 3.0 * size, f"{float(measured[3]) / size:.2f} times the file"
