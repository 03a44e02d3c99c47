"""The tensor track of `mixed_reference`: vectors of the centres, or their sums where a model has `scatter_features`.

A track is made for an evaluation. `forward(k, env)` gives the invariants of layer k, (Z, U), `backward(k, gradient)`
takes dE/d(invariants), from the last layer to the first, and gives dE/d(env_k), (Z, U, slots); `grad_harmonics` (Z, M),
float64, and `grad_weights` (Z, U, slots), by w, are complete at the end. What the kernels write is rounded once to the
features' type, by `cast`; all sums are float64.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from allegro_sim.model import reference_identity as identity
from allegro_sim.model import reference_layers as stages
from allegro_sim.model.description import AllegroModel


class VectorTrack:
    """A_k from env_k, N_k from A_0 .. A_k, and the invariants from N_k and w."""

    def __init__(
        self,
        model: AllegroModel,
        types: np.ndarray,
        centers: np.ndarray,
        harmonics: np.ndarray,
        weights: np.ndarray,
        cast: Callable[[np.ndarray], np.ndarray],
    ) -> None:
        self._model, self._centers, self._Y, self._w, self._cast = model, centers, harmonics, weights, cast
        self._norms, self._repeated = model.environment_norms[types], model.repeated_harmonics
        self._irreps = model.l_max, model.repeated_harmonics
        self._env: list[np.ndarray] = []
        self._environments: list[np.ndarray] = []
        self._vectors: list[tuple[np.ndarray, list[np.ndarray]]] = []
        self._grad_environments: list[np.ndarray] = []
        self.grad_harmonics = np.zeros(harmonics.shape)
        self.grad_weights = np.zeros_like(weights)

    def forward(self, k: int, env: np.ndarray) -> np.ndarray:
        self._env.append(env)
        self._environments.append(self._sum(env))
        self._grad_environments.append(np.zeros(self._environments[k].shape))
        vector, partial = identity.center_vector_forward(self._model.layers[: k + 1], self._environments, *self._irreps)
        self._vectors.append((self._cast(vector), partial))
        return self._cast(
            identity.invariants_forward(self._w, self._Y, self._vectors[k][0], self._centers, self._repeated)
        )

    def backward(self, k: int, gradient: np.ndarray) -> np.ndarray:
        vector, partial = self._vectors[k]
        grad_weights, grad, grad_vector = identity.invariants_backward(
            gradient, self._w, self._Y, vector, self._centers, self._repeated
        )
        self.grad_weights = self._cast(self.grad_weights + grad_weights)
        self.grad_harmonics += grad
        into_environments = identity.center_vector_backward(
            grad_vector, self._model.layers[: k + 1], self._environments[: k + 1], partial, *self._irreps
        )
        for index, grad in enumerate(into_environments):
            self._grad_environments[index] = self._grad_environments[index] + grad
        return self._cast(self._by_weights(self._grad_environments[k], self._env[k]))

    def _sum(self, weights: np.ndarray) -> np.ndarray:
        """norm sum_z weights Y."""
        terms = stages.weighted_harmonics_forward(weights, self._Y, self._repeated)
        return self._cast(stages.environment_forward(terms, self._centers, self._norms))

    def _by_weights(self, grad_sum: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """dE/d(weights) from that of `_sum`; the share of the harmonics is added."""
        grad_terms = stages.environment_backward(grad_sum, self._centers, self._norms)
        found, grad = stages.weighted_harmonics_backward(grad_terms, weights, self._Y, self._repeated)
        self.grad_harmonics += grad
        return found


class ScatterTrack(VectorTrack):
    """B_0 from w, A_k from env_k, B_{k+1} from B_k and A_k, n_k from B_k, and the invariants from n_k and env_k."""

    def forward(self, k: int, env: np.ndarray) -> np.ndarray:
        layers = self._model.layers
        if k == 0:
            self._sums = [self._sum(self._w)]
        else:
            self._environments.append(self._sum(self._env[k - 1]))
            product = stages.tensor_product_forward(
                layers[k - 1], self._sums[k - 1], self._environments[k - 1], *self._irreps
            )
            self._sums.append(self._cast(product))
        self._env.append(env)
        self._vectors.append((self._cast(identity.scatter_vector_forward(layers[k], self._sums[k], *self._irreps)), []))
        return self._cast(identity.invariants_forward(env, self._Y, self._vectors[k][0], self._centers, self._repeated))

    def backward(self, k: int, gradient: np.ndarray) -> np.ndarray:
        layers = self._model.layers
        by_env, grad, grad_vector = identity.invariants_backward(
            gradient, self._env[k], self._Y, self._vectors[k][0], self._centers, self._repeated
        )
        self.grad_harmonics += grad
        by_sum = identity.scatter_vector_backward(grad_vector, layers[k], *self._irreps)
        if k < self._model.num_layers - 1:
            by_sum = by_sum + self._by_sum
            by_env = by_env + self._by_weights(self._by_environment, self._env[k])
        if k == 0:
            self.grad_weights = self._cast(self._by_weights(by_sum, self._w))
        else:
            self._by_sum, self._by_environment = (
                self._cast(grad)
                for grad in stages.tensor_product_backward(
                    by_sum, layers[k - 1], self._sums[k - 1], self._environments[k - 1], *self._irreps
                )
            )
        return self._cast(by_env)
