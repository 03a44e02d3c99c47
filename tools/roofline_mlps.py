"""Work of the MLPs' kernels for tools/roofline.py: fused ones; products and element-wise kernels of wide ones."""

from __future__ import annotations

from typing import Any

from allegro_sim.potential.folding import Chain, Linear
from allegro_sim.tools.roofline_shapes import KernelWork, Shape, Work, make_work, padded


def mlp_works(shape: Shape, mlp: str, *, forward: bool) -> list[KernelWork]:
    """The kernels of "embedding", "latent_<k>" or "readout" in one direction, in order."""
    chain = shape.chains[mlp]
    if mlp == shape.latent_of_readout:
        return []
    return (_fused if shape.is_fused(mlp, chain) else _wide)(shape, mlp, chain, forward=forward)


def _ends(shape: Shape, mlp: str) -> tuple[dict[str, int], dict[str, int]]:
    """Columns of an MLP's input and output by array, padded: what its first product reads and its last one writes."""
    kind, _, number = mlp.partition("_")
    k = int(number) if number else 0
    if shape.model.is_legacy:
        return _legacy_ends(shape, kind, k)
    places = shape.scalar_places
    if kind == "embedding":
        return {"basis": shape.nb}, {"x": places[0], "env": shape.ne, "w": shape.nw}
    if kind == "readout":
        return {"x": sum(places)}, {}
    outputs = {"x": places[k + 1]} | ({"env": shape.ne} if k < shape.layers - 1 else {})
    return {"x": shape.up + sum(places[: k + 1])}, outputs


def _legacy_ends(shape: Shape, kind: str, k: int) -> tuple[dict[str, int], dict[str, int]]:
    def place(n: int) -> int:
        return shape.scalar_places[n if shape.collects else 0]

    def given(n: int) -> dict[str, int]:
        """What s_n is made of."""
        return {f"latent_{n}": place(n)} if shape.apart else {"x": place(n)}

    if kind == "embedding":
        return {"basis": shape.nb}, given(0)
    if kind == "readout":
        return {"x": place(shape.layers)}, {}
    if kind == "environment":
        return {"x": place(k)}, {"env": shape.ne} | ({"w": shape.nw} if k == 0 else {})
    scalars = sum(place(n) for n in shape.model.latent_inputs[k])
    return {"x": shape.model.layers[k].num_invariants * shape.up + scalars}, given(k + 1)


def _is_operand(shape: Shape, mlp: str) -> bool:
    """Whether the scalar features that an MLP gives are rounded for their readers."""
    if not shape.model.is_legacy:
        return True
    k = 0 if mlp == "embedding" else int(mlp.partition("_")[2]) + 1
    readers = [shape.chains[f"latent_{n}"] for n in range(shape.layers) if k in shape.model.latent_inputs[n]]
    readers.append(shape.chains["readout" if k == shape.layers else f"environment_{k}"])
    return any(shape.rounds(reader, 0) for reader in readers)


def _adds(shape: Shape, mlp: str) -> bool:
    """Whether an MLP adds what it gives to the scalar features of before."""
    return mlp.startswith("latent_") and shape.model.latent_update == "residual" and not shape.apart


def _overwritten(shape: Shape, mlp: str) -> int:
    """Columns of dx that an MLP's backward pass writes without adding to what stands there."""
    kind, _, number = mlp.partition("_")
    total = _ends(shape, mlp)[0]["x"]
    if kind == "readout":
        return total
    if kind == "environment":
        return 0
    if shape.model.is_legacy:
        last = int(number) == shape.layers - 1
        alone = shape.model.latent_update == "replace" and not shape.model.keeps_scalars(int(number) + 1)
        if alone or (shape.collects and last):
            return total
        return shape.model.layers[int(number)].num_invariants * shape.up
    return shape.up


def _chain_operations(shape: Shape, chain: Chain, forward: bool) -> Work:
    """Products, activations and the two-body table of an MLP, for an edge."""
    work = Work()
    for linear in chain:
        rows, columns = linear.matrix.shape[-2:]
        if linear.matrix.ndim == 3:
            work.plain += 2.0 * rows * columns + (0.0 if forward else 2.0 * columns)
            work.plain += 2.0 * columns * (shape.folded.separable is not None)
        elif shape.is_large(linear):
            work.products += 2.0 * rows * columns
        elif shape.precision == "single":
            work.double += 2.0 * rows * columns  # SUMS_OF_EIGHT
        else:
            work.plain += 2.0 * rows * columns
        if linear.activated:
            # Forward: the function and its slope, with one exponential and one reciprocal; backward: a product.
            work.plain += (8.0 if forward else 1.0) * columns
            work.special += 2.0 * columns if forward else 0.0
    return work


def _gradients(columns: dict[str, int]) -> dict[str, int]:
    return {"dlatent" if name.startswith("latent_") else "d" + name: size for name, size in columns.items()}


def _fused(shape: Shape, mlp: str, chain: Chain, *, forward: bool) -> list[KernelWork]:
    """One kernel: hidden features stay in shared memory, only slopes of activations go out and come back."""
    if mlp == "readout":
        return [_there_and_back(shape)] if forward else []
    return [KernelWork(f"{mlp}_{'forward' if forward else 'backward'}", _one_way(shape, mlp, chain, forward), Work())]


def _one_way(shape: Shape, mlp: str, chain: Chain, forward: bool) -> Work:
    real = shape.real
    inputs, outputs = _ends(shape, mlp)
    work = _chain_operations(shape, chain, forward)
    slopes = {
        f"slope_{mlp}_{n}": padded(linear.matrix.shape[-1]) * real for n, linear in enumerate(chain) if linear.activated
    }
    if forward:
        work.read.update({name: size * real for name, size in inputs.items()})
        work.written.update({name: size * real for name, size in outputs.items()} | slopes)
        if mlp == "embedding":
            work.read["pairs"] = 4.0
        if _adds(shape, mlp):
            work.read["x"] += outputs["x"] * real
    else:
        work.read.update({name: size * real for name, size in _gradients(outputs).items()} | slopes)
        if mlp == "embedding":
            work.read.update({"basis_slopes": shape.nb * real, "pairs": 4.0})
            work.written["radial_slope"] = 8.0
        else:  # gradients of scalar features are added to, those of invariants are overwritten
            work.read["dx"] += (inputs["x"] - _overwritten(shape, mlp)) * real
            work.written["dx"] = inputs["x"] * real
    return work


def _there_and_back(shape: Shape) -> KernelWork:
    """The read-out, and the last latent MLP where it is of the same kernel: what one part reads of what another has
    written does not go through memory."""
    readout = _readout(shape, shape.chains["readout"])
    if (latent := shape.latent_of_readout) is None:
        return KernelWork("readout", readout, Work())
    forward, backward = (_one_way(shape, latent, shape.chains[latent], way) for way in (True, False))
    work = forward.plus(readout).plus(backward)
    work.read = {**forward.read, "pairs": readout.read["pairs"]}
    work.written = {**forward.written, **readout.written, **backward.written}
    work.written["dx"] = readout.written["dx"] + shape.up * shape.real  # of scal, and of all scalar features
    return KernelWork(f"{latent}_readout", work, Work())


def _readout(shape: Shape, chain: Chain) -> Work:
    """Both ways in one kernel: slopes of the last activation stay in registers, others are read again from a cache."""
    work = _chain_operations(shape, chain, True).plus(_chain_operations(shape, chain, False))
    features = float(_ends(shape, "readout")[0]["x"] * shape.real)
    slopes = {
        f"slope_readout_{n}": float(padded(linear.matrix.shape[-1]) * shape.real)
        for n, linear in enumerate(chain[:-1])
        if linear.activated
    }
    work.read.update({"x": features, "pairs": 4.0})
    work.written.update({"dx": features, "edge_energies": 8.0} | slopes)
    work.double += 2.0 * len(shape.folded.energy_weights)
    return work


def _wide(shape: Shape, mlp: str, chain: Chain, *, forward: bool) -> list[KernelWork]:
    """Products of cuBLAS, each operand through memory, and an element-wise kernel before or after each."""
    return _wide_forward(shape, mlp, chain) if forward else _wide_backward(shape, mlp, chain)


Part = tuple[str, int]
"""Buffer and columns of a part of a feature vector."""


def _wide_forward(shape: Shape, mlp: str, chain: Chain) -> list[KernelWork]:
    inputs, outputs = _ends(shape, mlp)
    sources: list[Part] = list(inputs.items())
    kernels, last, keeps = [], len(chain) - 1, bool(chain) and chain[-1].keeps
    made_of_product = {name: size for name, size in outputs.items() if not (keeps and name == "x")}
    for n, linear in enumerate(chain):
        if not linear.cost:
            break  # what is kept is all there is
        width = padded(linear.matrix.shape[-1])
        is_result = n == last and mlp != "readout"
        made = _before(mlp, n) if linear.activated else f"hidden_{n % 2}"
        features = "x" if keeps and n == last - 1 else f"hidden_{n % 2}"
        targets: list[Part] = list(made_of_product.items()) if is_result else [(made, width)]
        if is_result and _adds(shape, mlp):
            targets = [("+x", outputs["x"])]
        if linear.matrix.ndim == 2:
            kernels.append(_wide_products(shape, f"{mlp}_product_{n}_forward", linear, sources, targets))
        name, rounds = f"{mlp}_forward_{n}", shape.rounds(chain, n + 1)
        if is_result:
            if shape.precision == "mixed" and "x" in made_of_product and _is_operand(shape, mlp):
                columns = {"x": outputs["x"]}
                kernels.append(_elements(shape, f"{mlp}_forward_result", columns, columns))
        elif linear.matrix.ndim == 3 or linear.activated or n == last or rounds:
            read, written = {targets[0][0]: width}, {features: width}
            if linear.matrix.ndim == 3:
                read = {"basis": shape.nb}
                if linear.activated:
                    written[targets[0][0]] = width
            if n == last:
                del written[features]
            kernel = _elements(shape, name, read, written)
            operations = _chain_operations(shape, (linear,), True)
            kernel.edge.plain = operations.plain if linear.matrix.ndim == 3 else 8.0 * width * linear.activated
            kernel.edge.special = operations.special
            if linear.matrix.ndim == 3:
                kernel.edge.read["pairs"] = 4.0
            if n == last:
                kernel.edge.written["edge_energies"] = 8.0
                kernel.edge.double = 2.0 * width
            kernels.append(kernel)
        sources = targets if is_result else [(features, width)]
    return kernels


def _before(mlp: str, n: int) -> str:
    """The buffer of what activation n is applied to."""
    return f"before_{mlp}_{n}"


def _wide_backward(shape: Shape, mlp: str, chain: Chain) -> list[KernelWork]:
    inputs, outputs = _ends(shape, mlp)
    kernels, last, keeps = [], len(chain) - 1, bool(chain) and chain[-1].keeps
    gradients: list[Part] = [
        (name, size) for name, size in _gradients(outputs).items() if not (keeps and name == "dx" and chain[-1].cost)
    ]
    if mlp == "readout":
        width = padded(chain[-1].matrix.shape[-1])
        gradients = [("hidden_0", width)]
        before = {_before(mlp, last): width} if chain[-1].activated else {}
        seeds = _elements(shape, "readout_backward_seeds", before, {"hidden_0": width})
        seeds.edge.special = _chain_operations(shape, chain[-1:], True).special
        seeds.edge.read["pairs"] = 4.0
        kernels.append(seeds)
    elif keeps and not chain[-1].cost:
        kernels.append(_times_slope(shape, mlp, chain, last - 1, gradients[0], "hidden_0"))
        gradients = [("hidden_0", gradients[0][1])]
    dense = [n for n, linear in enumerate(chain) if linear.matrix.ndim == 2 and linear.cost]
    for turn, n in enumerate(reversed(dense), start=1):
        width = padded(chain[n].matrix.shape[0])
        targets: list[Part] = [(f"hidden_{turn % 2}", width)]
        if n == 0:
            total = inputs["x"]
            written = _overwritten(shape, mlp)
            targets = [part for part in (("dx", written), ("+dx", total - written)) if part[1]]
        if keeps and n == last:
            targets = [("+dx", width)]
        kernels.append(_wide_products(shape, f"{mlp}_product_{n}_backward", chain[n], gradients, targets))
        if n > dense[0]:
            hidden = f"hidden_{turn % 2}"
            if chain[n - 1].activated or shape.rounds(chain, n - 1):
                kernels.append(_times_slope(shape, mlp, chain, n - 1, targets[0], hidden))
            targets = [(hidden, width)]
        gradients = targets
    if mlp == "embedding":
        width = padded(chain[0].matrix.shape[-1])
        read = {gradients[0][0].lstrip("+"): width, "basis_slopes": shape.nb}
        if chain[0].activated:
            read[_before(mlp, 0)] = width
        kernel = _elements(shape, "embedding_backward_0", read, {})
        kernel.edge.special = _chain_operations(shape, chain[:1], True).special
        kernel.edge.read["pairs"], kernel.edge.written["radial_slope"] = 4.0, 8.0
        kernel.edge.plain = _chain_operations(shape, chain[:1], False).plain
        kernels.append(kernel)
    elif shape.precision == "mixed" and not shape.model.is_legacy:
        k = shape.layers if mlp == "readout" else int(mlp.removeprefix("latent_"))
        if not (shape.folded.latents[k - 1] if k else shape.folded.embedding)[-1].keeps:  # a product reads them
            columns = {"dx": shape.scalar_places[k]}
            kernels.append(_elements(shape, f"{mlp}_backward_result", columns, columns))
    return kernels


def _times_slope(shape: Shape, mlp: str, chain: Chain, n: int, gradient: Part, out: str) -> KernelWork:
    """The gradient behind activation n becomes the one before it."""
    (source, width), activated = gradient, chain[n].activated
    read = {source.lstrip("+"): width} | ({_before(mlp, n): width} if activated else {})
    kernel = _elements(shape, f"{mlp}_backward_{n}", read, {out: width})
    kernel.edge.plain = 8.0 * width * activated + width
    kernel.edge.special = _chain_operations(shape, chain[n : n + 1], True).special
    return kernel


def _elements(shape: Shape, name: str, read: dict[str, int], written: dict[str, int]) -> KernelWork:
    """An element-wise kernel; columns by buffer."""
    read_bytes, written_bytes = (
        {buffer: float(columns * shape.real) for buffer, columns in part.items()} for part in (read, written)
    )
    return KernelWork(name, make_work(read_bytes, written_bytes), Work())


def _wide_products(shape: Shape, name: str, linear: Linear, sources: list[Part], targets: list[Part]) -> KernelWork:
    """One product of a chain: a call for each pair of parts; a target is read where it is added to ("+" before it)."""
    rows, columns = linear.matrix.shape
    work = Work(products=2.0 * rows * columns) if shape.is_large(linear) else Work(plain=2.0 * rows * columns)
    for target, width in targets:
        for number, (source, inner) in enumerate(sources):
            work.read[source.lstrip("+")] += inner * shape.real
            if number or target.startswith("+"):
                work.read[target.lstrip("+")] += width * shape.real
            work.written[target.lstrip("+")] += width * shape.real
    return KernelWork(name, work, Work(), is_product=True)


def product_work(product: Any, real: int) -> Work:
    """A product of the plan (`potential.cuda.plan.Product`) for an edge; real: bytes of a number."""
    operations = 2.0 * product.inner * product.columns
    work = Work(products=operations) if product.tensor_cores else Work(plain=operations)
    work.read[product.left.buffer] += product.inner * real
    work.read[product.out.buffer] += product.columns * real * product.accumulate
    work.written[product.out.buffer] += product.columns * real
    return work
