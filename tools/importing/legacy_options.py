"""Options of a legacy training that its model does not depend on, and those that are recognised but not supported.

nequip 0.5 and 0.6 keep one flat configuration for data, training and model, and hand each module the options that its
arguments name, with or without the module's or the class's name before them. So an option is looked for by name: what
the importer used is gone, what stands here is known, and of the rest an option that begins like one of the model's is
an error; others no module reads, and they are named to the user.
"""

from __future__ import annotations

from allegro_sim.tools.importing.options import Options

_MLPS = ("two_body_latent", "latent", "env_embed", "edge_eng")

# Where weights start from, and which are trained.
_INITIALISATION = {
    *(f"{name}_mlp_{option}" for name in _MLPS for option in ("initialization", "dropout_p")),
    "mlp_initialization", "mlp_dropout_p",
    *(f"{name}_rescale_{what}{end}" for name in ("per_species", "global") for what in ("scale", "scales", "shift",
      "shifts") for end in ("", "_trainable")),
    "AllegroBesselBasis_trainable", "BesselBasis_trainable", "trainable", "latent_resnet_coefficients",
    "latent_resnet_coefficients_learnable", "latent_resnet_update_ratios", "latent_resnet_update_ratios_learnable",
    "per_species_rescale_arguments_in_dataset_units", "per_species_rescale_kwargs", "sparse_mode",
    "tensor_track_weight_init",
}  # fmt: skip

# Said again elsewhere, by the type names, tensors and options that are read.
_REPEATED = {"chemical_symbol_to_type", "chemical_symbols", "num_types", "type_names", "r_min", "n_species"}

_TRAINING = {
    "allow_tf32", "append", "ase_args", "batch_size", "code_commits", "dataloader_num_workers", "default_dtype",
    "device", "e3nn_version", "end_of_batch_callbacks", "end_of_epoch_callbacks", "end_of_train_callbacks",
    "equivariance_test", "exclude_keys", "final_callbacks", "fine_tune", "git_commit", "gpu_oom_offload",
    "grad_anomaly_mode", "grid_search", "include_keys", "include_file_as_baseline_config", "init_callbacks",
    "initial_model_state", "initial_model_state_strict", "key_mapping", "learning_rate", "load_model_state",
    "log_batch_freq", "log_epoch_freq", "max_epochs", "max_gradient_norm", "model_debug_mode", "model_dtype",
    "n_train", "n_train_per_epoch", "n_val", "nequip_version", "non_periodic", "normalize_edge_reduce",
    "npz_fixed_field_keys",
    "npz_keys", "report_init_validation", "restart", "root", "run_id", "run_name", "seed", "shuffle",
    "start_of_epoch_callbacks", "tensorboard", "torch_version", "train_idcs", "train_on_keys", "train_val_split",
    "use_ema", "use_ema_for_validation", "val_idcs", "var_num_neighbors", "verbose", "wandb", "warn_unused", "workdir",
}  # fmt: skip
_TRAINING_BEGINNINGS = (
    "_jit", "dataset", "validation", "early_stopping", "ema_", "loss", "lr_", "metrics", "optimizer", "optim_",
    "profiling", "save_", "wandb_", "test_dataset", "trainer",
)  # fmt: skip

# Beginnings of what upstream's model builders read: names of modules, of classes, and of their arguments, which every
# module takes that has one of that name.
_MODEL_BEGINNINGS = (
    *_MLPS, "Allegro", "allegro", "Atomwise", "avg_num", "basis", "bessel", "Bessel", "cosine", "cutoff", "edge_",
    "embed_", "env_", "e3nn_basis", "Edgewise", "global_", "initial_scalar", "irreps", "l_max", "linear_",
    "LennardJones", "lj_", "mlp_", "node_", "norm_", "original_basis", "ProductType", "Normalized", "nonscalars",
    "normalize", "num_", "one_hot", "OneHot", "pad_", "pair_", "parity", "per_", "Polynomial", "PerSpecies",
    "radial_basis", "RadialBasis", "r_", "scatter", "ScalarMLP", "self_edge", "SimpleLennardJones", "spharm",
    "Spherical", "tensor", "total_energy_sum", "typeembed", "type_to", "units", "use_original", "weight_", "ZBL",
)  # fmt: skip


_MODEL_NAMES = {"field", "n", "out_field", "p", "reduce", "set_features"}  # such arguments too short for a beginning


def finish_legacy_options(options: Options, notes: list[str]) -> None:
    """Drop what is known not to matter; raises CheckpointImportError for options of the model that nobody took."""
    options.ignore(*_INITIALISATION, *_REPEATED, *_TRAINING)
    options.ignore(*(name for name in options.values() if name.startswith(_TRAINING_BEGINNINGS)))
    others = [name for name in options.values() if name not in _MODEL_NAMES and not name.startswith(_MODEL_BEGINNINGS)]
    options.ignore(*others)
    options.finish()
    if others:
        notes.append(f"options that no part of the model reads were ignored: {', '.join(sorted(others))}")


def refuse_legacy_options(options: Options) -> None:
    """Raises CheckpointImportError for options that are recognised but not supported."""
    for name in (
        "embed_initial_edge",  # upstream's own code cannot build such a model
        "edge_sh_normalize",  # would let harmonics grow as d^l
    ):
        found = options.take(name, default=True)
        if found is not True:
            raise options.error(name, f"is {found!r}, which is not supported; true is")
    for mlp in _MLPS:
        for suffix in ("mlp_bfloat16", "mlp_bias"):
            if options.take(f"{mlp}_{suffix}", "flag", False):
                raise options.error(f"{mlp}_{suffix}", "is true, which is not supported")
