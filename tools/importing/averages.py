"""Averaged weights in a Lightning checkpoint, which upstream uses for everything but training on.

Exponential moving average (nequip.train.EMALightningModule): the averages are stored as `ema.ema_weight_k`, in the
order of the training module's `parameters()`. Schedule-free optimisers (Defazio et al., arXiv:2405.15682;
nequip.train.ScheduleFreeLightningModule): the optimiser keeps the iterate z, and the model's weights are y = (1 - beta)
z + beta x while training, or the average x after `eval()`; `train_mode` says which. x = y + (1 - 1/beta) (z - y).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from allegro_sim.errors import CheckpointImportError
from allegro_sim.tools.importing.unpickle import Tensor

RAW_WEIGHTS = "--raw-weights takes those of the last training step"
_SCHEDULE_FREE_STATE = "schedulefree_optimizer_state_dict"


@dataclass(frozen=True)
class Extrapolated:
    """Stands for the tensor start + weight (end - start)."""

    start: Tensor
    end: Tensor
    weight: float

    @property
    def shape(self) -> tuple[int, ...]:
        return self.start.shape

    def numpy(self, dtype: type[np.floating] | None = None) -> np.ndarray:
        """The numbers, in the precision of `start`, rounded as by a fused multiply-add; then in `dtype`."""
        start = self.start.numpy()
        end = self.end.numpy().astype(start.dtype)
        weight = start.dtype.type(self.weight)
        wide = np.float64(weight) * (end - start).astype(np.float64) + start.astype(np.float64)
        narrow = wide.astype(start.dtype)
        return narrow if dtype is None else narrow.astype(dtype)


def exponential_averages(
    tensors: Mapping[str, Any], is_parameter: Callable[[str, Tensor], bool], path: Path
) -> dict[str, Tensor] | None:
    """The moving averages by the names of the weights they are of, or None where the checkpoint keeps none.

    tensors: the state dict of the training module. Raises CheckpointImportError for a checkpoint saved while averages
    and weights were exchanged, and where they do not fit the model.
    """
    found = {name: value for name, value in tensors.items() if name.startswith("ema.ema_weight_")}
    if not found:
        return None
    extra = tensors.get("ema._extra_state")
    if isinstance(extra, dict) and extra.get("is_holding_ema_weights") is not True:
        raise CheckpointImportError(
            f"{path}: was saved while averaged and raw weights were exchanged, upstream refuses it too; use another one"
        )
    averages = [found.get(f"ema.ema_weight_{k}") for k in range(len(found))]
    missing = [k for k, tensor in enumerate(averages) if not isinstance(tensor, Tensor)]
    if missing:
        raise CheckpointImportError(f"{path}: damaged checkpoint: the tensor ema.ema_weight_{missing[0]} is missing")
    names = _parameter_names(tensors, is_parameter)
    shapes = [tensors[name].shape for name in names]
    if shapes != [tensor.shape for tensor in averages if isinstance(tensor, Tensor)]:
        raise CheckpointImportError(
            f"{path}: its {len(averages)} averaged weights (EMA) do not fit the model's {len(names)} parameters; "
            f"{RAW_WEIGHTS}"
        )
    return {name: tensor for name, tensor in zip(names, averages, strict=True) if isinstance(tensor, Tensor)}


def schedule_free_averages(
    checkpoint: Mapping[str, Any],
    tensors: Mapping[str, Any],
    is_parameter: Callable[[str, Tensor], bool],
    path: Path,
) -> dict[str, Tensor | Extrapolated]:
    """The averages x of a schedule-free optimiser by the names of the weights; where stored already, those.

    Raises CheckpointImportError where the optimiser's state is missing or does not fit the model.
    """

    def error(what: str) -> CheckpointImportError:
        return CheckpointImportError(
            f"{path}: was trained with a schedule-free optimiser, and {what}; package it with upstream "
            f"(`nequip-package build`) and import the .nequip.zip, or give --raw-weights"
        )

    state = checkpoint.get(_SCHEDULE_FREE_STATE)
    if state is None:
        states = checkpoint.get("optimizer_states")
        state = states[0] if isinstance(states, list) and states else None
    groups = state.get("param_groups") if isinstance(state, dict) else None
    steps = state.get("state") if isinstance(state, dict) else None
    if not isinstance(groups, list) or not isinstance(steps, dict) or not all(isinstance(g, dict) for g in groups):
        raise error("the state of the optimiser, which holds the averages, is missing")
    names = _parameter_names(tensors, is_parameter)
    if len(groups) != 1 or groups[0].get("params") != list(range(len(names))):
        raise error(f"its {len(groups)} groups of parameters do not list the model's {len(names)} in order")
    group = groups[0]
    betas = group.get("betas")
    beta = betas[0] if isinstance(betas, (list, tuple)) and betas else group.get("momentum")
    train_mode = group.get("train_mode")
    if not isinstance(beta, float) or not 0 < beta <= 1 or not isinstance(train_mode, bool):
        raise error("its momentum or mode is unknown")
    averages: dict[str, Tensor | Extrapolated] = {}
    for index, name in enumerate(names):
        iterate = steps[index].get("z") if isinstance(steps.get(index), dict) else None
        if not train_mode or iterate is None:  # averages already, or never trained
            averages[name] = tensors[name]
        elif isinstance(iterate, Tensor) and iterate.shape == tensors[name].shape:
            averages[name] = Extrapolated(tensors[name], iterate, 1.0 - 1.0 / beta)
        else:
            raise error(f"its state for {name} has another shape")
    return averages


def _parameter_names(tensors: Mapping[str, Any], is_parameter: Callable[[str, Tensor], bool]) -> list[str]:
    """Names in the order of `parameters()`: that of the state dict without buffers, for PyTorch lists a module's
    parameters before its buffers and both before its children's."""
    return [
        name
        for name, tensor in tensors.items()
        if name.startswith("model.") and isinstance(tensor, Tensor) and is_parameter(name, tensor)
    ]
