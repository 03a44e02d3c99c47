"""TorchScript models `.nequip.pth` compiled by nequip 0.7 and newer.

The archive holds the pickled tree of modules with their tensors and constants, a few texts in `extra/`, and the
compiled code, which is not needed: what it computes follows from the classes and attributes of the modules, and their
factors are compared with those expected. Legacy deployed models (nequip below 0.7) have `extra/config`: see
`legacy_source.py`.
"""

from __future__ import annotations

import pickle

from allegro_sim.errors import CheckpointImportError
from allegro_sim.tools.importing.archive import Archive
from allegro_sim.tools.importing.model_source import SUPPORTED, TORCHSCRIPT, Source
from allegro_sim.tools.importing.module_options import options_of, pair_exponent_of
from allegro_sim.tools.importing.module_tree import scripted_tree, state_of
from allegro_sim.tools.importing.unpickle import Record, foreign_note, load_inert

_METADATA = ("model_dtype", "type_names", "r_max", "per_edge_type_cutoff", "num_types")


def torchscript_source(archive: Archive) -> Source:
    """The model of a TorchScript archive. Raises CheckpointImportError for models of other programs."""
    path = archive.path
    loaded, foreign = load_inert(archive, "data.pkl", "data/{}")
    if not isinstance(loaded, Record):
        raise archive.damaged("its data.pkl holds no module")
    try:
        top = scripted_tree(loaded)
    except pickle.UnpicklingError as error:
        raise archive.damaged(f"its data.pkl holds {error}") from error
    if top.kind != "nequip.nn.graph_model.GraphModel":
        raise CheckpointImportError(
            f"{path}: is a TorchScript model of the class {top.kind}, not an Allegro model. "
            f"{foreign_note(foreign)}{SUPPORTED}"
        )
    metadata = {}
    for name in _METADATA:
        if archive.has(f"extra/{name}"):
            metadata[name] = archive.read(f"extra/{name}").decode("utf-8", "replace").strip()
    state, constants = state_of(top)
    return Source(
        path=path,
        kind=TORCHSCRIPT,
        config=options_of(top, metadata, path),
        state=state,
        constants=constants,
        pair_exponent=pair_exponent_of(top),
        foreign_names=foreign,
    )
