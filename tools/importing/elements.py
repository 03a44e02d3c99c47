"""Which chemical element each type of a model is."""

from __future__ import annotations

from typing import Any

from ase.data import atomic_masses, atomic_numbers, chemical_symbols

from allegro_sim.errors import CheckpointImportError


def assign_elements(
    type_names: list[str], run_config: dict[str, Any], species: list[str] | None, given: dict[str, str]
) -> tuple[list[int], list[float]]:
    """Atomic number and mass (Da) of each type.

    In this order: what the user gave; `species`, the chemical species the model's ZBL term states; the data's own table
    from species to types; the type's name, where it is a chemical symbol. Raises CheckpointImportError otherwise.
    """
    unknown = sorted(set(given) - set(type_names))
    if unknown:
        raise CheckpointImportError(
            f"--elements names {', '.join(unknown)}; the model's types are {', '.join(type_names)}"
        )
    table = _data_table(run_config, type_names)
    numbers = []
    for index, name in enumerate(type_names):
        symbol = given.get(name) or (species[index] if species else None) or table.get(name) or name
        number = atomic_numbers.get(symbol, 0)
        if number == 0:
            raise CheckpointImportError(
                f"the element of the type {name!r} is not known ({symbol!r} is no chemical symbol); "
                f"state it: --elements {name}=SYMBOL"
            )
        numbers.append(number)
    return numbers, [float(atomic_masses[number]) for number in numbers]


def symbol_of(number: int) -> str:
    """Chemical symbol of an atomic number."""
    return chemical_symbols[number]


def _data_table(run_config: dict[str, Any], type_names: list[str]) -> dict[str, str]:
    """Type name -> species, from the data's ChemicalSpeciesToAtomTypeMapper."""
    data = run_config.get("data")
    transforms = data.get("transforms") if isinstance(data, dict) else None
    for transform in transforms if isinstance(transforms, list) else ():
        if isinstance(transform, dict) and str(transform.get("_target_", "")).endswith(
            "ChemicalSpeciesToAtomTypeMapper"
        ):
            pairs = transform.get("chemical_species_to_atom_type_map")
            if isinstance(pairs, dict):
                return {str(name): str(symbol) for symbol, name in pairs.items()}
            symbols = transform.get("chemical_symbols")
            if isinstance(symbols, list) and len(symbols) == len(type_names):  # nequip below 0.9: by position
                return {name: str(symbol) for name, symbol in zip(type_names, symbols, strict=True)}
    return {}
