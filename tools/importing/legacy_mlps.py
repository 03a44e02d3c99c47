"""MLPs of a legacy Allegro model (upstream's ScalarMLPFunction), normalisation and batch norms folded in."""

from __future__ import annotations

from itertools import pairwise
from math import exp, sqrt

import numpy as np

from allegro_sim.model.description import Mlp
from allegro_sim.tools.importing.options import Options, Tensors

_BATCH_NORM_EPSILON = 1e-5  # PyTorch's default
_SILU_OF_1 = 1.0 / (1.0 + exp(-1.0))
_SILU_GAIN = 1.6791767923989418
"""1/sqrt(<silu(x)^2>) over a normal distribution, as e3nn's `normalize2mom` samples it (a million numbers, seed 0)."""


class LegacyMlps:
    """Reads MLPs (upstream's ScalarMLPFunction): y = x @ (W_n gain/sqrt(fan_in)), the gain 1 for the first matrix."""

    def __init__(self, options: Options, tensors: Tensors) -> None:
        self._options, self._tensors = options, tensors

    def dimensions(self, name: str) -> list[int]:
        """The option `NAME_mlp_latent_dimensions`."""
        option = f"{name}_mlp_latent_dimensions"
        widths = self._options.peek(option, "list", None)
        if widths is None or not all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in widths):
            raise self._options.error(option, f"is {widths!r}; a list of widths is expected")
        return widths

    def read(self, name: str, prefix: str, size_in: int, size_out: int | None, constant: slice | None = None) -> Mlp:
        """The MLP of the options NAME_mlp_... whose tensors begin with `prefix`.

        size_out: width of a last matrix behind those of the latent dimensions, or None where there is none.
        constant: inputs that add up to 1, if there are any; batch norms (allegro 0.2) are folded into their rows.
        """
        widths = [size_in, *self.dimensions(name), *([] if size_out is None else [size_out])]
        activation = self._activation(f"{name}_mlp_nonlinearity")
        weights = []
        for n, (before, after) in enumerate(pairwise(widths)):
            gain = 1.0 if n == 0 or activation == "identity" else _SILU_GAIN
            weights.append(
                self._tensors.take(f"{prefix}._forward._weight_{n}", (before, after)) * (gain / sqrt(before))
            )
        if not weights:
            raise self._options.error(f"{name}_mlp_latent_dimensions", "is empty; at least one width is expected")
        if self._options.take(f"{name}_mlp_batchnorm", "flag", False):
            if constant is None:
                raise self._options.error(
                    f"{name}_mlp_batchnorm",
                    "is true, which is not supported: it makes biases, and what this MLP reads has no constant part to "
                    "fold them into",
                )
            norms = [self._read_norm(f"{prefix}._forward._bn_{n}", width) for n, width in enumerate(widths[1:])]
            weights = _fold_norms(weights, norms, constant, activation == "identity")
        if activation == "identity" or len(weights) == 1:
            product = weights[0]
            for matrix in weights[1:]:
                product = product @ matrix
            return Mlp((product,), "identity")
        return Mlp(tuple(weights), activation)

    def _read_norm(self, prefix: str, width: int) -> tuple[np.ndarray, np.ndarray]:
        """A batch norm as it is when evaluated (torch.nn.BatchNorm1d): factor and shift of each output."""
        mean, variance, gain, bias = (
            self._tensors.take(f"{prefix}.{name}", (width,), weight=name in ("weight", "bias"))
            for name in ("running_mean", "running_var", "weight", "bias")
        )
        factor = gain / np.sqrt(variance + _BATCH_NORM_EPSILON)
        return factor, bias - mean * factor

    def finish(self, *names: str) -> None:
        """The options of these MLPs are used up."""
        for name in names:
            self._options.ignore(f"{name}_mlp_latent_dimensions", f"{name}_mlp_nonlinearity")

    def _activation(self, option: str) -> str:
        if self._options.is_null(option):
            return "identity"
        value = self._options.peek(option, "text", "silu")
        if value != "silu":  # "ssp" is upstream's other one, but its code cannot build a model with it
            raise self._options.error(option, f"is {value!r}, which is not supported; silu and null are")
        return value


def _fold_norms(
    weights: list[np.ndarray], norms: list[tuple[np.ndarray, np.ndarray]], constant: slice, linear: bool
) -> list[np.ndarray]:
    """Matrices that compute f(... f(x W_0 * a_0 + c_0) ...) for factors a_n and shifts c_n, `constant` columns of x
    adding up to 1: a hidden unit that is always 1 before the activation takes the constant to the next matrix."""
    scaled = [matrix * factor for matrix, (factor, _) in zip(weights, norms, strict=True)]
    shifts = [shift for _, shift in norms]
    if linear:
        matrix, shift = scaled[0], shifts[0]
        for after, more in zip(scaled[1:], shifts[1:], strict=True):
            matrix, shift = matrix @ after, shift @ after + more
        scaled, shifts = [matrix], [shift]
    scaled[0][constant] += shifts[0]
    unit = np.zeros((len(scaled[0]), 1))
    unit[constant] = 1.0
    for n in range(1, len(scaled)):
        scaled[n - 1] = np.hstack([scaled[n - 1], unit])
        scaled[n] = np.vstack([scaled[n], shifts[n] / _SILU_OF_1])
        unit = np.zeros((len(scaled[n]), 1))
        unit[-1] = 1.0 / _SILU_OF_1
    return scaled
