"""Work of kernels that only the legacy generation has, for tools/roofline.py; see kernels/cuda/{tensors,gates}.cu."""

from __future__ import annotations

from collections.abc import Iterator

from allegro_sim.model.description import Layer
from allegro_sim.potential.cuda.center_header import ROW_BLOCK, lanes_of_center
from allegro_sim.potential.cuda.couplings import left_rows, path_entries, product_rows
from allegro_sim.potential.cuda.mlp_legacy import updates_before
from allegro_sim.tools.roofline_mlps import mlp_works
from allegro_sim.tools.roofline_shapes import KernelWork, Shape, Work, make_work

_GATE = 30
"""float64 operations of a gate."""

_A_TILE = 4.0 / 64
"""Bytes a row: each tile of rows reads how many edges there are."""


def legacy_works(shape: Shape) -> tuple[list[KernelWork], list[KernelWork]]:
    """Forward, from the edges' geometry to the read-out, and backward, down to the forces: both without the ends."""
    layers = range(shape.layers)
    forward = [*_latent_gates(shape), *mlp_works(shape, "embedding", forward=True), *_update(shape, 0, True)]
    for k in layers:
        forward += [*mlp_works(shape, f"environment_{k}", forward=True), *_inside(shape, k, True)]
        forward += [*_layer_forward(shape, k), *mlp_works(shape, f"latent_{k}", forward=True)]
        forward += _update(shape, k + 1, True)
    forward += [*mlp_works(shape, "readout", forward=True), *_edge_scales(shape)]
    backward = mlp_works(shape, "readout", forward=False)
    for k in reversed(layers):
        backward += [*_update(shape, k + 1, False), *mlp_works(shape, f"latent_{k}", forward=False)]
        backward += [*_layer_backward(shape, k), *_inside(shape, k, False)]
        backward += mlp_works(shape, f"environment_{k}", forward=False)
    backward += [*_update(shape, 0, False), *mlp_works(shape, "embedding", forward=False), *_slopes(shape)]
    return forward, backward


# --- gates and updates ------------------------------------------------------------------------------------------------


def _inside_layers(shape: Shape) -> list[int]:
    cutoff = shape.model.latent_cutoff
    if cutoff is None:
        return []
    return [k for k in range(shape.layers) if cutoff.radii[k] < shape.model.reaches.max()]


def _latent_gates(shape: Shape) -> list[KernelWork]:
    cutoff = shape.model.latent_cutoff
    if cutoff is None:
        return []
    kept = {cutoff.radii[k] for k in range(shape.layers + 1) if shape.model.keeps_scalars(k)}
    gates = len(set(cutoff.radii.tolist())) + len({cutoff.radii[k] for k in _inside_layers(shape)}) + len(kept)
    written = {name: float(gates * shape.real) for name in ("gates", "gate_slopes")}
    return [KernelWork("latent_gates", make_work({"vectors": 24.0}, written, double=_GATE * gates), Work())]


def _update(shape: Shape, k: int, forward: bool) -> list[KernelWork]:
    model, real = shape.model, shape.real
    if not shape.apart:
        return []
    row = float(shape.scalar_places[0] * real)
    kept = model.keeps_scalars(k)
    gate = {"gates": float(real * (1 + kept))} if model.latent_cutoff is not None else {}
    width = shape.scalar_places[0]
    if forward:
        adds = {"x": row} if updates_before(model, k) else {}
        edge = make_work({f"latent_{k}": row, **adds, **gate}, {"x": row}, plain=(2.0 + kept) * width)
        return [KernelWork(f"update_{k}_forward", edge, Work())]
    again = {"dx": row} if kept else {}
    edge = make_work({"dx": row, **gate}, {"dlatent": row, **again}, plain=(1.0 + kept) * width)
    found = [KernelWork(f"update_{k}_backward", edge, Work())]
    if gate:
        read = {"dx": row, f"latent_{k}": row, "gate_slopes": float(real)}
        if k < shape.layers:
            read["latent_slope"] = 8.0
        edge = make_work(read, {"latent_slope": 8.0}, plain=2.0 * width)
        found.insert(0, KernelWork(f"slope_{k}_backward", edge, Work()))
    return found


def _inside(shape: Shape, k: int, forward: bool) -> list[KernelWork]:
    if k not in _inside_layers(shape):
        return []
    name, row = ("env" if forward else "denv"), float(shape.ne * shape.real)
    edge = make_work({name: row, "gates": float(shape.real)}, {name: row}, plain=float(shape.ne))
    return [KernelWork(f"inside_{k}_{'forward' if forward else 'backward'}", edge, Work())]


def _edge_scales(shape: Shape) -> list[KernelWork]:
    if shape.model.edge_scales is None:
        return []
    edge = make_work({"edge_energies": 8.0, "pairs": 4.0}, {"edge_energies": 8.0}, double=1.0)
    return [KernelWork("scale_edge_energies", edge, Work())]


def _slopes(shape: Shape) -> list[KernelWork]:
    if shape.model.latent_cutoff is None:
        return []
    edge = make_work({"radial_slope": 8.0, "latent_slope": 8.0, "pairs": 4.0}, {"radial_slope": 8.0}, double=2.0)
    return [KernelWork("add_latent_slopes", edge, Work())]


# --- tensors ----------------------------------------------------------------------------------------------------------


def _mixing(shape: Shape, kind: str, k: int, backward: bool = False) -> Iterator[KernelWork]:
    """The mixing products of a layer: rows of so many blocks of channels in and out, by irrep or degree."""
    layer, way = shape.model.layers[k], "backward" if backward else "forward"
    for number, (rows, into, out, source, target) in _mixed_irreps(shape, kind, layer, k):
        if backward:
            source, target = _GRADIENTS.get(target, "d" + target), _GRADIENTS.get(source, "d" + source)
            into, out = out, into
        operations = 2.0 * rows * into * out * shape.u**2
        block = float(rows * shape.up * shape.real)
        work = Work(products=operations) if shape.u >= 16 else Work(plain=operations)
        if kind != "environment":
            work.read["first"] += _A_TILE * rows
        work.read[_turned(source)] += into * block
        work.written[_turned(target)] += out * block
        name = f"mix_{kind}_{k}_{number}_{way}"
        ends = (Work(), work) if kind == "environment" else (work, Work())
        yield KernelWork(name, *ends)


_GRADIENTS = {"left": "dleft", "products": "products"}


def _turned(buffer: str) -> str:
    """dtensors_k are two buffers by turns; gradients of A_k are one."""
    if buffer.startswith("dtensors_"):
        return f"dtensors_{int(buffer.removeprefix('dtensors_')) % 2}"
    return "dA" if buffer.startswith("dA_") else buffer


def _mixed_irreps(
    shape: Shape, kind: str, layer: Layer, k: int
) -> Iterator[tuple[int, tuple[int, int, int, str, str]]]:
    """(number in the name, (rows, blocks in, blocks out, buffer in, buffer out))."""
    if kind == "environment" and layer.environment_mix is not None:
        for degree in range(shape.model.l_max + 1):
            yield degree, (2 * degree + 1, 1, 1, "environment", f"A_{k}")
    if kind == "in" and layer.mix_in is not None:
        for n, irrep in enumerate(layer.irreps_in):
            yield n, (irrep.dim, 1, sum(path.first == n for path in layer.paths), f"tensors_{k}", "left")
    if kind == "out" and layer.mix_out is not None and k < shape.layers - 1:
        for n, irrep in enumerate(layer.irreps_out):
            count = sum(path.out == n for path in layer.paths)
            yield n, (irrep.dim, count, 1, "products", f"tensors_{k + 1}")


def _place(shape: Shape) -> dict[str, float]:
    """How a thread of an edge and channel finds its place: the edge's centre, and once a block the number of edges."""
    lanes = lanes_of_center(shape.u)
    return {"edge_center": 4.0, "first": 4.0 * max(lanes / ROW_BLOCK, 1.0 / 32)}


def _layer_forward(shape: Shape, k: int) -> list[KernelWork]:
    real, up, m = shape.real, shape.up, shape.m
    tensor, harmonics = float(m * up * real), float(shape.mp * real)
    layer, goes_on = shape.model.layers[k], k < shape.layers - 1
    found = []
    if k == 0:
        read = {"w": float(shape.nw * real), "harmonics": harmonics, **_place(shape)}
        edge = make_work(read, {"tensors_0": tensor}, plain=float(shape.u * m))
        found.append(KernelWork("first_tensors", edge, Work()))
    mixed = layer.environment_mix is not None
    edge = make_work({"env": shape.ne * real, "harmonics": harmonics}, plain=2.0 * shape.u * m)
    center = make_work({"first": 8.0, "types": 4.0}, {"environment" if mixed else f"A_{k}": tensor})
    found.append(KernelWork(f"environment_sum_{k}", edge, center))
    found += [*_mixing(shape, "environment", k), *_mixing(shape, "in", k)]
    read, entries = _product_reads(shape, k), sum(path.count for path in path_entries(shape.model, k))
    written = {"x": layer.num_invariants * up * real}
    if goes_on:
        out = "products" if layer.mix_out is not None else f"tensors_{k + 1}"
        written[out] = product_rows(layer) * up * real
    found.append(KernelWork(f"tensor_products_{k}", make_work(read, written, plain=4.0 * shape.u * entries), Work()))
    return [*found, *_mixing(shape, "out", k)]


def _product_reads(shape: Shape, k: int) -> dict[str, float]:
    """What the products of a layer read of an edge, and of its centre as often as of the edge."""
    real, up, layer = shape.real, shape.up, shape.model.layers[k]
    left = "left" if layer.mix_in is not None else f"tensors_{k}"
    rows = len({row for path in path_entries(shape.model, k) for row in path.left})
    read = {left: float(rows * up * real), f"A_{k}": float(shape.m * up * real), **_place(shape)}
    if not shape.model.self_edge:
        read |= {"env": float(shape.ne * real), "harmonics": float(shape.mp * real), "types": 4.0}
    return read


def _layer_backward(shape: Shape, k: int) -> list[KernelWork]:
    real, up, m = shape.real, shape.up, shape.m
    tensor, harmonics = float(m * up * real), float(shape.mp * real)
    layer, goes_on = shape.model.layers[k], k < shape.layers - 1
    found = [*_mixing(shape, "out", k, backward=True), *_mixing(shape, "in", k)]
    read, entries = _product_reads(shape, k), sum(path.count for path in path_entries(shape.model, k))
    read["dx"] = float(layer.num_invariants * up * real)
    if goes_on:
        given = "products" if layer.mix_out is not None else f"dtensors_{(k + 1) % 2}"
        read[given] = float(product_rows(layer) * up * real)
    target = "dleft" if layer.mix_in is not None else f"dtensors_{k % 2}"
    written = {target: float(left_rows(layer) * up * real), "dseen": tensor}
    found.append(KernelWork(f"tensor_gradients_{k}", make_work(read, written, plain=6.0 * shape.u * entries), Work()))
    found += _mixing(shape, "in", k, backward=True)
    center = make_work({"first": 8.0}, {"dA": tensor})
    found.append(KernelWork("environment_gradient_sum", make_work({"dseen": tensor}, plain=float(shape.u * m)), center))
    found += _mixing(shape, "environment", k, backward=True)
    sums = float(shape.warps * (m - 1) * real)
    gradient = "denvironment" if layer.environment_mix is not None else "dA"
    read = {"env": float(shape.ne * real), gradient: tensor, "harmonics": harmonics, "types": 4.0, **_place(shape)}
    if not shape.model.self_edge:
        read["dseen"] = tensor
    if goes_on:
        read["harmonic_gradient"] = sums
    written = {"denv": float(shape.ne * real), "harmonic_gradient": sums}
    edge = make_work(read, written, plain=2.0 * shape.u * 3 * m)
    found.append(KernelWork(f"environment_gradients_{k}", edge, Work()))
    if k == 0:
        read = {"w": float(shape.nw * real), f"dtensors_{k}": tensor, "harmonics": harmonics, **_place(shape)}
        read["harmonic_gradient"] = sums
        written = {"dw": float(shape.nw * real), "harmonic_gradient": sums}
        found.append(KernelWork("first_gradients", make_work(read, written, plain=2.0 * shape.u * 2 * m), Work()))
    return found
