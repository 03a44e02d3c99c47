"""The table of kernels/README.md names every array of a chunk, and the bytes an edge that it states are true."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support.legacy import legacy_model

from allegro_sim.potential.cuda.layout import Layout
from allegro_sim.potential.cuda.mlp_wide import HIDDEN
from allegro_sim.tools.benchmark_models import MODELS, benchmark_model

LEGACY = ("three_layer_cutoffs", "uvvp_collected_so3")
"""Golden models with gates and mixing after the product, and with mixing before it."""

ROW = re.compile(r"^\| (?P<names>`[^|]*`) \| `(?P<bytes>[^`]+)`[^|]*\| [^|]+ \|$", re.MULTILINE)


def stated_bytes(repository: Path) -> dict[str, str]:
    """Array -> formula, of the section on memory."""
    text = (repository / "kernels" / "README.md").read_text().split("### What goes through memory")[1]
    return {name.strip("`"): match["bytes"] for match in ROW.finditer(text) for name in match["names"].split(", ")}


@pytest.mark.parametrize("precision", ["double", "mixed"])
@pytest.mark.parametrize("name", [*MODELS, *LEGACY])
def test_the_memory_table_is_true(repository: Path, name, precision):
    stated = stated_bytes(repository)
    layout = Layout(legacy_model(name) if name in LEGACY else benchmark_model(name), precision)
    small, large = (layout.buffers(rows, 64) for rows in (128, 256))
    dimensions, model = layout.dimensions, layout.model
    components = (model.l_max + 1) ** 2
    letters = {
        "R": layout.real.itemsize, "L": model.num_layers, "SP": dimensions.SP, "UP": dimensions.UP,
        "NE": dimensions.NE, "NW": dimensions.NW, "NB": dimensions.radial, "MP": -(-components // 4) * 4,
        "M": components, "LDX": dimensions.LDX,
    }  # fmt: skip
    for buffer in large.values():
        if buffer.kind != "edge":
            continue
        found = (buffer.nbytes - small[buffer.name].nbytes) / 128
        if buffer.name in HIDDEN:  # as long as a block of rows, not as the chunk
            found = buffer.nbytes / buffer.shape[0]
        if buffer.shape == (1,):  # no kernel of this model touches it
            assert found == 0
            continue
        entry = re.sub(r"^(tensors|latent)_\d+$", r"\1_K", buffer.name)
        entry = re.sub(r"^(slope|before)_.*", r"\1_MLP_N", entry)
        assert entry in stated, f"kernels/README.md has no row for {buffer.name}"
        width = buffer.shape[-1]  # of the slopes' and hidden features' rows
        sizes = {"width": width, "widest": width, "G": buffer.shape[0]}
        expected = eval(stated[entry], {}, {**letters, **sizes})
        warps = buffer.shape[0] if buffer.name == "harmonic_gradient" else 1
        assert found == warps * expected, buffer.name
