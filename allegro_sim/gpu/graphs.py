"""A step as one CUDA graph: its launches are written down once, and from then on one call starts them all.

A launch takes the host some microseconds, a step some dozens of launches; where the kernels themselves are short, the
host would set the pace. A graph keeps the values of all arguments of its launches, so nothing in a step may be a number
of the host that changes from step to step (the number of the step is a control word on the device), nor may a step
allocate, copy or wait. One step a graph, not several: any number of steps can then be launched ahead, and the host
makes one call a step, of a few microseconds, while the GPU is at the steps before.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from allegro_sim.errors import DeviceError
from allegro_sim.potential.cuda.engine import Executor

GRAPHS = ("auto", "on", "off")


class StepGraph:
    """The plain step of one rank, launch by launch or as a graph.

    Parameters
    ----------
    executor : Executor
    setting : "on", "off", or "auto": where all edges are one chunk, so that a step is short
    obstacle : why no graph is possible, or nothing

    Attributes
    ----------
    num_captures, num_launches : graphs made, and how often one was launched

    Raises
    ------
    DeviceError : "on", and there is an obstacle
    """

    def __init__(self, executor: Executor, setting: str, obstacle: str = "") -> None:
        if setting not in GRAPHS:
            raise DeviceError(f"gpu.graphs {setting!r} is unknown; choose one of {', '.join(GRAPHS)}")
        if setting == "on" and obstacle:
            raise DeviceError(f'gpu.graphs = "on" is not possible: {obstacle}; use "auto" or "off"')
        self._executor, self._setting, self._obstacle = executor, setting, obstacle
        self._parts: tuple[Any, ...] = ()
        self._graph: Any = None
        self.num_captures = 0
        self.num_launches = 0

    def launch(self, step: Callable[[], None], parts: tuple[Any, ...], num_chunks: int) -> None:
        """Launch a step. parts: all that `step` launches, objects that are new wherever an array or a number is.

        The first step after a change goes launch by launch, so that no kernel is loaded during the capture; the second
        is captured. Raises DeviceError where the capture fails.
        """
        if self._why_not(num_chunks):
            self._parts, self._graph = (), None
            step()
        elif len(parts) != len(self._parts) or any(a is not b for a, b in zip(parts, self._parts, strict=True)):
            self._parts, self._graph = parts, None  # kept, so that what comes later cannot take their places in memory
            step()
        else:
            if self._graph is None:
                self._graph = self._capture(step)
                self.num_captures += 1
            self._graph.launch()
            self.num_launches += 1

    def fact(self, num_chunks: int) -> str:
        """Whether graphs are used, and why."""
        if reason := self._why_not(num_chunks):
            return f"none: {reason}"
        reason = "all edges are one chunk" if self._setting == "auto" else 'gpu.graphs = "on"'
        return f"one for each step that is not measured ({reason})"

    def _why_not(self, num_chunks: int) -> str:
        if self._setting == "off":
            return 'gpu.graphs = "off"'
        if not self._obstacle and self._setting == "auto" and num_chunks > 1:
            return f"{num_chunks} chunks keep the GPU busy"
        return self._obstacle

    def _capture(self, step: Callable[[], None]) -> Any:
        try:
            return self._executor.capture(step)
        except DeviceError as error:
            raise DeviceError(
                f'{error}; start the run with gpu.graphs = "off" (the same bits, launch by launch)'
            ) from None


def obstacle_to_graphs(*, ranks: int, images_travel: bool) -> str:
    """Why steps cannot be graphs, or nothing."""
    if ranks > 1:
        return "with several ranks ghosts go through the transport"
    if images_travel:
        return "with gpu.images_travel ghosts go through the transport"
    return ""
