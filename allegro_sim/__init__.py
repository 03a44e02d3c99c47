"""allegro-sim: molecular dynamics with the Allegro interatomic potential."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

__version__ = "0.1.0"

# In a checkout the packages `kernels` and `tools` stand beside this one, and are installed inside it as
# `allegro_sim.kernels` and `allegro_sim.tools`. These lines make them importable by those names from the checkout too.
_checkout = Path(__file__).resolve().parent.parent
if (_checkout / "kernels" / "cpu" / "__init__.py").is_file() and (_checkout / "pyproject.toml").is_file():
    __path__.append(str(_checkout))

if TYPE_CHECKING:
    from allegro_sim.calculator import AllegroCalculator

__all__ = ["AllegroCalculator", "__version__"]


def __getattr__(name: str):
    # Lazy: `import allegro_sim` loads neither ASE nor Numba, and never MPI.
    if name == "AllegroCalculator":
        from allegro_sim.calculator import AllegroCalculator

        return AllegroCalculator
    raise AttributeError(f"module 'allegro_sim' has no attribute {name!r}")
