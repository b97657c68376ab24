"""Graphs of some atoms or some tokens: what stays with them, also in a batch."""

import copy
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import Batch, Data
from torch_geometric.utils import cumsum, select, subgraph

from pyg_atomenc.data.storage import has_pair_rows, has_token_rows, is_token_attr


def keep_atoms(data: Any, subset: Tensor) -> Any:
    """The graph of some atoms, see :meth:`AtomTokenData.subgraph`."""
    rest = copy.copy(data)
    made = {key: value for key, value in data if has_pair_rows(key)}
    for key in made:
        del rest[key]
    out = Data.subgraph(rest, subset)
    for prefix, edges in _made_edges(data).items():
        kept, _, mask = _subgraph(subset, edges, data.num_nodes)
        order = mask.nonzero().flatten()
        if prefix == "pair_":
            # The new layout may list the pairs that are left in another order.
            count = out.atom_to_token.numel()
            known = (kept[0] * count + kept[1]).argsort()
            source, target = out.token_layout().to_edge_index()
            order = order[known][(source * count + target).argsort().argsort()]
        for key, value in made.items():
            if key.startswith(prefix) and key != "radius_edge_index":
                fits = len(value) == edges.size(1)
                out[key] = select(value, order, 0) if fits else value
        if prefix == "radius_":
            out.radius_edge_index = kept
    if isinstance(data, Batch) and data.batch is not None:
        is_mask = subset.dtype == torch.bool
        _follow_atoms(out, data, subset.nonzero().flatten() if is_mask else subset)
    return out


def drop_empty_tokens(data: Any) -> Any:
    """The graph without empty tokens, see :meth:`AtomTokenData.drop_empty_tokens`."""
    out = copy.copy(data)
    if isinstance(data, Batch):
        return _adopt(out, [drop_empty_tokens(part) for part in data.to_data_list()])
    total = data.total_num_tokens
    kept = data.atom_to_token.bincount(minlength=total) > 0
    for key, value in data:
        if has_token_rows(key) and isinstance(value, (Tensor, list)):
            out[key] = select(value, kept, 0)
    if "token_edge_index" in data:
        edges, _, mask = _subgraph(kept, data.token_edge_index, total)
        for key, value in data:
            if key.startswith("token_edge_") and len(value) == mask.numel():
                out[key] = select(value, mask, 0)
        out.token_edge_index = edges
    index = (kept.cumsum(0) - 1)[data.atom_to_token]
    out._store.renumber(index, int(kept.sum()))
    return out


def _follow_atoms(out: Any, data: Any, index: Tensor) -> None:
    """Note where each graph's rows now are, so that a batch comes apart right."""
    notes, count, graphs = out._store.__dict__, data.num_graphs, data.batch[index]
    edges = {"edge_index": out.edge_index, **_made_edges(out)}
    of_edges = {key: out.batch[e[0]] for key, e in edges.items() if e is not None}
    rows = {key: graphs for key in out.keys() if data.is_node_attr(key)}
    for key in out.keys():
        made = [prefix for prefix in of_edges if key.startswith(prefix)]
        if made or data.is_edge_attr(key):
            rows[key] = of_edges[made[0] if made else "edge_index"]
    # Graphs in turns cannot be cut out: without these notes PyG refuses to.
    turns = any(bool((of.diff() < 0).any()) for of in rows.values())
    slices, incs = (dict(notes.pop(name, {})) for name in ("_slice_dict", "_inc_dict"))
    ends = {key: cumsum(of.bincount(minlength=count)) for key, of in rows.items()}
    for key, end in {**ends, "": ends["batch"]}.items():
        ptr = f"{key}_ptr" if key else "ptr"
        if ptr in out:
            out[ptr] = None if turns else end
    if slices and not turns:
        out._slice_dict = slices | {k: e.cpu() for k, e in ends.items() if k in slices}
        names = {"edge_index", "radius_edge_index"} & set(incs)
        shifts = dict.fromkeys(names, ends["batch"][:-1].cpu())
        out._inc_dict = incs | shifts
    if "_num_nodes" in notes:
        notes["_num_nodes"] = ends["batch"].diff().tolist()
    _follow_lists(out, data, index)


def _follow_lists(out: Any, data: Any, index: Tensor) -> None:
    """Select from the lists with a value for each atom, of which a batch has lists."""
    sizes = data.batch.bincount(minlength=data.num_graphs).tolist()
    # Where the atoms stand in the lists, one graph's behind the other's.
    rows = data.batch.argsort(stable=True).argsort()[index].tolist()
    for key, value in data:
        lists = isinstance(value, list) and all(isinstance(v, list) for v in value)
        if lists and list(map(len, value)) == sizes:
            whole = list(chain.from_iterable(value))
            parts: list[list[Any]] = [[] for _ in sizes]
            for graph, row in zip(data.batch[index].tolist(), rows, strict=True):
                parts[graph].append(whole[row])
            out[key] = parts


def _adopt(out: Any, parts: list[Any]) -> Any:
    """Give a batch the token attributes of its edited graphs, and their notes."""
    follow = [key.removesuffix("_ptr") for key in out.keys() if key.endswith("_ptr")]
    fresh = Batch.from_data_list(parts, follow_batch=follow)
    for key, value in fresh:
        if is_token_attr(key):
            out[key] = value
    out._store.renumber(fresh.atom_to_token, fresh.num_tokens)
    for name in ("_slice_dict", "_inc_dict"):
        out._store.__dict__[name] = fresh._store.__dict__[name]
    return out


def _made_edges(data: Any) -> dict[str, Tensor]:
    """Edges by distance, and pairs of atoms in tokens, by their attributes' prefix."""
    edges = {}
    if "radius_edge_index" in data:
        edges["radius_"] = data.radius_edge_index
    if any(key.startswith("pair_") for key in data.keys()):
        edges["pair_"] = data.token_layout().to_edge_index()
    return edges


def _subgraph(subset: Tensor, edges: Tensor, count: int) -> tuple[Tensor, Any, Tensor]:
    return subgraph(
        subset, edges, relabel_nodes=True, num_nodes=count, return_edge_mask=True
    )
