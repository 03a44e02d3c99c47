"""An Allegro model of the legacy generation (allegro 0.2 and 0.3 on nequip 0.5 and 0.6) from tensors and options.

Follows upstream's modules; the formulas are in `allegro_sim/model/reference_legacy.py`. The two versions are told apart
by their tensors. Every tensor and every option of the model is taken by name, and what is left over is an error.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from allegro_sim.errors import CheckpointImportError
from allegro_sim.model.description import AllegroModel, BesselEmbedding, Layer, Mlp
from allegro_sim.model.irreps import harmonic_irreps, irreps_chain, tensor_product_paths
from allegro_sim.tools.importing.elements import assign_elements
from allegro_sim.tools.importing.legacy_energies import (
    PairContext,
    read_edge_scales,
    read_edge_sum_norm,
    read_energies,
    read_legacy_pair_term,
)
from allegro_sim.tools.importing.legacy_mlps import LegacyMlps
from allegro_sim.tools.importing.legacy_options import finish_legacy_options, refuse_legacy_options
from allegro_sim.tools.importing.legacy_parts import (
    check_attribute,
    expect_couplings,
    parse_irreps,
    paths_into,
    read_environment_mix,
    read_harmonic_factors,
    read_latent_cutoff,
    read_mix_out,
    read_one_hot_radial,
    read_original_radial,
    read_product_radial,
    scale_harmonics,
)
from allegro_sim.tools.importing.legacy_source import LegacySource, made_of
from allegro_sim.tools.importing.options import Options, Tensors
from allegro_sim.tools.importing.unpickle import Tensor

_BUILDERS = ("allegro.model.Allegro", "Allegro", "PerSpeciesRescale", "RescaleEnergyEtc", "PairPotentialTerm",
             "ForceOutput", "PartialForceOutput", "StressForceOutput", "initialize_from_state", "load_model_state",
             "allegro.model.initialize_from_state")  # fmt: skip
_CONSTANTS = ("_empty", "allegro._zero")
_COUNTS = ("allegro._env_weighter._w_index", ".num_batches_tracked")  # the first is compared
_MIXING = ("uuulin", "uuup", "uvvp", "p")


def read_legacy_model(
    source: LegacySource, elements: dict[str, str], notes: list[str], mend_lennard_jones: bool = False
) -> tuple[AllegroModel, int]:
    """The model and the number of its weights as upstream counts them.

    elements: type name -> chemical symbol, for types whose names are none; notes: for the user, added to.
    Raises CheckpointImportError for options or tensors that are unknown, not supported, or do not fit together.
    """
    return _Reader(source, notes, mend_lennard_jones).read(elements)


class _Reader:
    """One model being read; options and tensors are used up on the way."""

    def __init__(self, source: LegacySource, notes: list[str], mended: bool) -> None:
        self.source, self.notes, self.mended = source, notes, mended
        self.options = Options(source.config, source.path, "config")
        dtypes = {name: _dtype_read(tensor) for name, tensor in source.tensors.items()}
        floats = {name: tensor for name, tensor in source.tensors.items() if dtypes[name].kind == "f"}
        others = sorted(name for name in dtypes if name not in floats and not name.endswith(_COUNTS))
        if others:
            raise CheckpointImportError(f"{source.path}: unknown tensors {', '.join(others[:6])}, which are no weights")
        self.tensors = Tensors(dict(floats), Path(source.path), {})
        self.type_names = source.metadata["type_names"].split()
        self.num_types = len(self.type_names)
        if "typeembed.type_embeddings" in floats:
            self.version = "0.3"
        elif "allegro.per_layer_cutoffs" in floats:
            self.version = "0.2"
        else:
            raise CheckpointImportError(
                f"{source.path}: is a {source.form} of {made_of(source)}, not an Allegro model: neither the tensor "
                "typeembed.type_embeddings (allegro 0.3) nor allegro.per_layer_cutoffs (allegro 0.2) is there"
            )
        self.dtype = dtypes.get("allegro.latents.0._forward._weight_0", np.dtype(np.float64)).name
        self.tolerance = 1e-12 if self.dtype == "float64" else 2e-6  # of constants that went through that type
        self.mlps = LegacyMlps(self.options, self.tensors)

    def read(self, elements: dict[str, str]) -> tuple[AllegroModel, int]:
        """All of the model; modules in upstream's order."""
        options = self.options
        builders = self._builders()
        refuse_legacy_options(options)
        padding = options.take("pad_to_alignment", "integer", 1)
        if padding < 1:
            raise options.error("pad_to_alignment", f"is {padding}; a positive number is expected")
        self.alignment = padding if self.version == "0.2" else 1  # 0.3 does not read it
        self.num_layers = options.take("num_layers", "integer")
        self.l_max, self.parity, self.so3 = self._angular()
        self.degrees = self.l_max + 1
        self.harmonic_factors = read_harmonic_factors(options, self.l_max)
        self.r_max = options.take_length("r_max")
        if "allegro.r_max" in self.tensors:  # of allegro 0.3
            self.tensors.expect("allegro.r_max", self.r_max, self.tolerance)
        self.exponent = float(options.take("PolynomialCutoff_p", "number", 6.0))
        self.count = self._neighbor_count()
        read = self._read_02 if self.version == "0.2" else self._read_03
        radial, cutoffs, embed, layers, stages = read()
        self.mlps.finish("two_body_latent", "latent", "env_embed")
        width = layers[-1].latent.weights[-1].shape[1]
        readout = self.mlps.read("edge_eng", "edge_eng._module", width, 1)
        self.mlps.finish("edge_eng")
        edge_scales = read_edge_scales(options, self.tensors, self.num_types)
        sum_norm = read_edge_sum_norm(options, self.source, self.count)
        scales, shifts, scale_by = read_energies(self.tensors, self.num_types)
        of_pairs = PairContext(builders, scales, scale_by, radial.cutoff_exponent, cutoffs, self.r_max, self.mended)
        pair_term, pair_scales, species = read_legacy_pair_term(
            options, self.tensors, self.source, of_pairs, self.notes
        )
        for name in [*_CONSTANTS, *(name for name in self.source.tensors if name.endswith("._bias_dummy"))]:
            if name in self.tensors:
                self.tensors.take(name, weight=False)
        finish_legacy_options(options, self.notes)
        self.tensors.finish()
        numbers, masses = assign_elements(self.type_names, {}, species, elements)
        model = AllegroModel(
            type_names=tuple(self.type_names),
            atomic_numbers=np.array(numbers, np.int64),
            masses=np.array(masses),
            cutoffs=cutoffs,
            l_max=self.l_max,
            parity=self.parity,
            num_scalar_features=width,
            num_tensor_features=self.channels,
            trained_dtype=self.dtype,
            radial=radial,
            embed_mlp=embed,
            tensor_linear=np.zeros((embed.weights[-1].shape[1], 0)),
            first_projection=np.zeros((embed.weights[-1].shape[1], 0)),
            individual_irreps=stages.pop("individual_irreps"),
            layers=tuple(layers),
            readout=readout,
            edge_sum_norms=np.full(self.num_types, sum_norm),
            scales=scale_by * scales,
            shifts=scale_by * shifts,
            pair_term=pair_term,
            generation="legacy",
            hyperparameters=_plain({k: v for k, v in self.source.config.items() if not k.endswith("_idcs")}),
            so3=self.so3,
            edge_scales=edge_scales,
            pair_scales=pair_scales,
            **stages,
        )
        return model, self.tensors.num_weights

    def _builders(self) -> list[str]:
        builders = [str(name) for name in self.options.take("model_builders", "list", [])]
        unknown = [name for name in builders if name not in _BUILDERS]
        if unknown or not any(name.endswith("Allegro") for name in builders):
            raise self.options.error(
                "model_builders", f"is {', '.join(builders) or 'empty'}; supported: {', '.join(_BUILDERS)}"
            )
        return builders

    def _angular(self) -> tuple[int, bool, bool]:
        """l_max; whether tensors of both parities are there; whether inversion is ignored."""
        options = self.options
        sh_text, both = (
            options.take("irreps_edge_sh", default=None),
            options.take("nonscalars_include_parity", "flag", None),
        )
        options.ignore("tensor_track_allowed_irreps")  # follows from parity, and the products' shapes are compared
        if options.has("l_max"):
            l_max, parity = options.take("l_max", "integer"), options.take("parity", "text")
            if parity not in ("o3_full", "o3_restricted", "so3"):
                raise options.error("parity", f"is {parity!r}; o3_full, o3_restricted or so3 is expected")
            return l_max, parity == "o3_full", parity == "so3"
        if both is None:
            raise options.error("l_max", "is missing")
        harmonics = parse_irreps(options, "irreps_edge_sh", sh_text)
        l_max = len(harmonics) - 1
        for so3 in (False, True):
            if harmonics == harmonic_irreps(l_max, so3):
                return l_max, both, so3
        raise options.error("irreps_edge_sh", f"is {sh_text!r}; the harmonics of degrees 0 to l_max are expected")

    def _neighbor_count(self) -> float:
        """The average number of neighbours that sums are normalised by; a number the training may have found itself."""
        count = self.options.take("avg_num_neighbors", default=None)
        if not isinstance(count, (int, float)) or isinstance(count, bool):
            count = self.source.attributes.get("allegro.avg_num_neighbors", count)
        if not isinstance(count, (int, float)) or isinstance(count, bool) or not 0 < count < np.inf:
            raise self.options.error("avg_num_neighbors", f"is {count!r}; a positive number is expected")
        check_attribute(self.source.attributes, "allegro.avg_num_neighbors", float(count), self.source.path)
        return float(count)

    # --- allegro 0.2 --------------------------------------------------------------------------------------------------

    def _read_02(self) -> tuple[BesselEmbedding, np.ndarray, Mlp, list[Layer], dict[str, Any]]:
        options, tensors, attributes = self.options, self.tensors, self.source.attributes
        self.channels = options.take("env_embed_multiplicity", "integer", 32)
        options.ignore("use_original_normalized_basis")  # of 0.3; the basis of 0.2 is that one, times a cutoff function
        tensors.expect("allegro.env_sum_normalizations", np.full(self.num_layers, self.count**-0.5), self.tolerance)
        radial, order = read_one_hot_radial(options, tensors, self.num_types, self.r_max, self.exponent)
        of_center = slice(0, self.num_types)  # one-hot: its columns add up to 1
        embed = self.mlps.read("two_body_latent", "allegro.latents.0", len(order), None, of_center)
        embed = replace(embed, weights=(embed.weights[0][order], *embed.weights[1:]))
        mixed_environment = options.take("linear_after_env_embed", "flag", False)
        factors = None
        params = tensors.take("allegro._latent_resnet_update_params", (self.num_layers,), weight=False)
        if options.take("latent_resnet", "flag", True):
            ratios = 1.0 / (1.0 + np.exp(-params))
            old = 1.0 / np.sqrt(1.0 + ratios**2)
            factors = np.stack([old, ratios * old], axis=1)
        stages = {
            "individual_irreps": True,
            "environment_norms": np.full(self.num_types, self.count**-0.5),
            "latent_update": "replace" if factors is None else "residual",
            "latent_factors": factors,
            "latent_cutoff": read_latent_cutoff(
                options, tensors, attributes, self.num_layers, self.r_max, self.exponent, self.tolerance
            ),
        }
        self._expect_channel_index()
        layers = self._layers("uuulin", embed, self.degrees, narrowing=True, collect=False)
        if mixed_environment:
            layers = [
                replace(
                    layer,
                    environment_mix=read_environment_mix(
                        tensors, f"allegro.env_linears.{k}.w", self.degrees, self.channels
                    ),
                )
                for k, layer in enumerate(layers)
            ]
        check_attribute(attributes, "radial_basis.cutoff.p", self.exponent, self.source.path)
        return radial, np.full((self.num_types, self.num_types), self.r_max), embed, layers, stages

    def _expect_channel_index(self) -> None:
        """The stored index of the irrep of each component."""
        stored = self.source.tensors.get("allegro._env_weighter._w_index")
        expected = np.sqrt(np.arange(self.degrees**2)).astype(np.int64)
        if stored is not None and not np.array_equal(stored.numpy()[: len(expected)], expected):
            raise CheckpointImportError(
                f"{self.source.path}: the tensor allegro._env_weighter._w_index does not number the irreps of l_max"
            )

    # --- allegro 0.3 --------------------------------------------------------------------------------------------------

    def _read_03(self) -> tuple[BesselEmbedding, np.ndarray, Mlp, list[Layer], dict[str, Any]]:
        options, tensors = self.options, self.tensors
        self.channels = options.take("num_tensor_features", "integer")
        if options.take("use_original_normalized_basis", "flag", False):
            if options.take("per_edge_type_cutoff", default=None) is not None:
                self.notes.append(
                    "use_original_normalized_basis is true: per_edge_type_cutoff has no effect, here as in upstream; "
                    f"all edges reach to r_max, {self.r_max:g} Å"
                )
            cutoffs = np.full((self.num_types, self.num_types), self.r_max)
            radial = read_original_radial(options, tensors, self.num_types, self.r_max)
        else:
            cutoffs, per_pair = self._pair_cutoffs()
            radial = read_product_radial(options, tensors, cutoffs, per_pair, self.exponent)
        embed = self.mlps.read("two_body_latent", "allegro.latents.0", radial.basis_linear.shape[1], None)
        self_edge = options.take("self_edge_tensor_product", "flag", False)
        individual = options.take("weight_individual_irreps", "flag", True)
        mixing = options.take("tensors_mixing_mode", "text", "uuulin")
        if mixing not in _MIXING:
            raise options.error("tensors_mixing_mode", f"is {mixing!r}; supported: {', '.join(_MIXING)}")
        others = self.count - (0 if self_edge else 1)
        if others <= 0:
            raise options.error("avg_num_neighbors", f"is {self.count}; more than 1 is expected")
        resnet = options.take("latent_resnet", "flag", True)
        params = tensors.take("allegro._latent_resnet_coefficients_params", (self.num_layers + 1,), weight=False)
        coefficients = np.exp(params - params.max())
        sums = np.cumsum(coefficients) + 1e-12
        factors = np.stack([np.sqrt(sums[:-1] / sums[1:]), np.sqrt(coefficients[1:] / sums[1:])], axis=1)
        norm = others**-0.5
        for name, alpha in (("allegro._edge_weighter._rtoi", 1.0), ("allegro._env_weighter._rtoi", norm)):
            if name in tensors:
                self._expect_weighter(name, alpha, individual)
        stages = {
            "individual_irreps": individual or self.harmonic_factors is not None,
            "environment_norms": np.full(self.num_types, norm),
            "latent_update": "residual" if resnet else "concatenate",
            "latent_factors": factors if resnet else None,
            "self_edge": self_edge,
        }
        slots = self.degrees if individual else 1
        layers = self._layers(mixing, embed, slots, narrowing=False, collect=not resnet)
        for name, expected in (
            ("allegro.self_edge_tensor_product", self_edge),
            ("allegro.latent_resnet", resnet),
            ("radial_basis.PolynomialCutoff_p", self.exponent),
            ("allegro._env_weighter.alpha", norm),
        ):
            check_attribute(self.source.attributes, name, expected, self.source.path)
        return radial, cutoffs, embed, layers, stages

    def _pair_cutoffs(self) -> tuple[np.ndarray, bool]:
        """Cutoff radius per ordered pair of types; whether the file has a table of them."""
        table = self.options.take("per_edge_type_cutoff", "mapping", None)
        cutoffs = np.full((self.num_types, self.num_types), self.r_max)
        for i, center in enumerate(self.type_names if table is not None else []):
            row = table.get(center)
            for j, neighbor in enumerate(self.type_names):
                cutoff = row.get(neighbor) if isinstance(row, dict) else row
                if not isinstance(cutoff, (int, float)) or not 0 < cutoff <= self.r_max:
                    raise self.options.error(
                        f"per_edge_type_cutoff.{center}.{neighbor}", f"is {cutoff!r}; 0 to r_max is expected"
                    )
                cutoffs[i, j] = cutoff
        self.tensors.expect(
            "radial_basis._rmax_recip", 1.0 / (cutoffs if table is not None else self.r_max), self.tolerance
        )
        if table is not None:
            self.tensors.expect("radial_basis.per_edge_type_cutoff", cutoffs, self.tolerance)
        return cutoffs, table is not None

    def _expect_weighter(self, name: str, alpha: float, individual: bool) -> None:
        """The stored map from irreps to components, with the norm of the environment in it."""
        if not individual:
            self.tensors.take(name, (0,), weight=False)
            return
        degree = np.sqrt(np.arange(self.degrees**2)).astype(np.int64)
        self.tensors.expect(name, alpha * (degree == np.arange(self.degrees)[:, None]), self.tolerance)

    # --- both ---------------------------------------------------------------------------------------------------------

    def _layers(self, mixing: str, embed: Mlp, slots: int, *, narrowing: bool, collect: bool) -> list[Layer]:
        """All layers. slots: weights a channel; collect: MLPs take all scalar features so far, not only the last."""
        harmonics = harmonic_irreps(self.l_max, self.so3)
        chain = irreps_chain(self.l_max, self.parity, self.num_layers, so3=self.so3, narrowing=narrowing)
        widths = [embed.weights[-1].shape[1]]
        layers = []
        for k in range(self.num_layers):
            paths = tensor_product_paths(chain[k], harmonics, chain[k + 1])
            weights = self.channels * slots * (2 if k == 0 else 1)
            environment = self.mlps.read("env_embed", f"allegro.env_embed_mlps.{k}", widths[k], weights)
            mixed = self._mixing(mixing, k, (chain[k], harmonics, chain[k + 1]), paths)
            layer = Layer(
                irreps_in=chain[k],
                irreps_out=chain[k + 1],
                paths=paths,
                latent=Mlp((), "identity"),
                environment_mlp=scale_harmonics(environment, self.channels, slots, self.harmonic_factors),
                **mixed,
            )
            size_in = sum(widths if collect else widths[-1:]) + self.channels * layer.num_invariants
            last = k == self.num_layers - 1
            prefix = "allegro.final_latent" if last else f"allegro.latents.{k + 1}"
            layer = replace(layer, latent=self.mlps.read("latent", prefix, size_in, None))
            widths.append(layer.latent.weights[-1].shape[1])
            layers.append(layer)
        return layers

    def _mixing(self, mixing: str, k: int, irreps: tuple, paths: tuple) -> dict[str, Any]:
        """Path weights and mixing matrices of one product."""
        tensors, channels, prefix = self.tensors, self.channels, f"allegro.tps.{k}"
        if mixing == "uuulin":
            expect_couplings(tensors, f"{prefix}._big_w3j", irreps, paths, None, self.tolerance, self.alignment)
            mix_out = read_mix_out(tensors, f"allegro.linears.{k}.w", paths, channels)
            last = k == self.num_layers - 1  # its linear map makes tensors that nothing reads
            return {
                "path_weights": np.ones((channels, len(paths))),
                "mix_out": None if last else mix_out,
                "separate_paths": True,
            }
        into = paths_into(paths) * (channels if mixing == "uvvp" else 1)
        expect_couplings(tensors, f"{prefix}._big_w3j", irreps, paths, into**-0.5, self.tolerance)
        shape = {"p": (), "uuup": (channels,), "uvvp": (channels, channels)}[mixing]
        weights = tensors.take(f"{prefix}.w", (*shape, *((len(paths),) if len(paths) > 1 else ())))
        weights = weights.reshape(*shape, len(paths)) / np.sqrt(into)
        if mixing == "uvvp":
            return {
                "path_weights": np.ones((channels, len(paths))),
                "mix_in": np.ascontiguousarray(weights.transpose(2, 0, 1)),
            }
        return {"path_weights": np.ascontiguousarray(np.broadcast_to(weights, (channels, len(paths))))}


def _dtype_read(tensor: Tensor) -> np.dtype:
    """Of the numbers that `Tensor.numpy` gives."""
    return np.dtype("f4" if tensor.dtype == "bfloat16" else tensor.dtype)


def _plain(value: Any) -> Any:
    """Only what JSON can hold; keys as texts."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)
