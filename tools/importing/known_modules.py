"""What the modules of an Allegro network are made of, as nequip 0.7 to 0.19 with nequip-allegro 0.4 to 0.8 write them.

Of models that keep no configuration, what they compute is read from their modules (`module_options`). A module of
another class, or one that keeps something else, may compute something else: it is an error that names it.
"""

from __future__ import annotations

from pathlib import Path

from allegro_sim.errors import CheckpointImportError
from allegro_sim.tools.importing.module_tree import Module

_OWN = ("nequip.", "allegro.", "e3nn.")  # packages whose attributes say what is computed; PyTorch's are read elsewhere
_ACCELERATED = ("TritonContracter", "CuEquivarianceContracter")  # compute what Contracter does, with modules of others
_KINDS = {
    "AddRadialCutoffToData", "Allegro_Module", "AtomwiseReduce", "AvgNumNeighborsNorm", "BesselEdgeLengthEncoding",
    "Contracter", "DeepLinearMLP", "EdgeLengthNormalizer", "EdgewiseReduce", "LennardJones", "MakeWeightedChannels",
    "PerClassSpline", "PerTypeScaleShift", "PolynomialCutoff", "ProductTypeEmbedding", "ScalarLinearLayer", "ScalarMLP",
    "ScalarMLPFunction", "SequentialGraphNetwork", "ShiftedSoftplus", "SimpleLennardJones", "SphericalHarmonics",
    "TwoBodySphericalHarmonicTensorEmbed", "TwoBodySplineScalarEmbed", "ZBL", "_LJParam", "_ZBL",
}  # fmt: skip
_TORCH_KINDS = {
    "Embedding", "GELU", "Identity", "Mish", "Module", "ModuleDict", "ModuleList", "ParameterList", "Sequential",
    "SiLU", "Sigmoid", "Softplus", "Tanh",
}  # fmt: skip
# Names of fields, and what follows from other attributes, from tensors or from the options that are read.
_ATTRIBUTES = {
    "_const", "_factor", "_is_range_lmax", "_lmax", "_ls_list", "_n_scalar_outs", "_num_irreps", "_output_dtype",
    "_per_edge_type", "_prof_str", "_weight_w3j_einstr", "alpha", "base_dim1", "base_dim2", "base_dim_out", "bias",
    "constant", "custom_kernel", "dims", "dtype", "edge_invariant_field", "edge_type_field", "exponent", "field",
    "has_scales", "has_shifts", "in_features", "in_field", "instructions", "irrep_normalization", "irreps_in",
    "irreps_in1", "irreps_in2", "irreps_out", "is_nonlinear", "lj_epsilon", "lj_sigma", "lj_style", "lj_use_cutoff",
    "model_dtype", "mul", "multiplicity_out", "norm_key", "norm_length_field", "norm_shortcut", "normalization",
    "normalize", "num_bessels", "num_channels", "num_classes", "num_layers", "num_paths", "num_scalar_features",
    "num_splines", "num_tensor_features", "num_types", "out_dtype", "out_features", "out_field", "p",
    "path_channel_coupling", "per_atom_energy_field", "r_max", "reduce", "scalar_embed_field",
    "scalar_embedding_in_field", "scalar_in_field", "scalar_out_field", "scales_shortcut", "scales_trainable",
    "scatter_factor", "scatter_features", "shifts_shortcut", "shifts_trainable", "sph_func", "spline_span",
    "tensor_basis_in_field", "tensor_basis_out_field", "tensor_embedding_out_field", "tensor_features_in_field",
    "tensor_track_allowed_irreps", "trainable", "type_names", "use_custom_kernels", "w3j_is_ij_diagonal",
    "weight_individual_irreps", "weight_numel",
}  # fmt: skip
# Attributes that have one value in every model: another would make another network of it.
_FIXED = {"bias": (False, None), "constant": (1, None), "irrep_normalization": ("component", None)}


def refuse_unknown_modules(network: Module, path: Path) -> None:
    """Raises CheckpointImportError for the first module, or attribute of a module, that no Allegro model has."""
    kind = network.kind.rpartition(".")[2]
    if kind in _ACCELERATED:
        return
    own = network.kind.startswith(_OWN)
    where = f"{path}: the module {network.name} ({network.kind})"
    if kind not in (_KINDS if own else _TORCH_KINDS if network.kind.startswith("torch.") else ()):
        raise CheckpointImportError(f"{where} is none of an Allegro model: it may compute something else")
    for name, value in network.attributes.items() if own else ():
        if name not in _ATTRIBUTES:
            raise CheckpointImportError(
                f"{where} has {name} = {value!r}, which is not known: it may compute something else"
            )
        if value not in _FIXED.get(name, (value,)):
            raise CheckpointImportError(f"{where} has {name} = {value!r}, which is not supported")
    for child in network.children.values():
        refuse_unknown_modules(child, path)
