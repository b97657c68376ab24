"""Graphs of some atoms or some tokens: what stays with them, also in a batch."""

import copy
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import Batch, Data
from torch_geometric.data.storage import GlobalStorage
from torch_geometric.utils import cumsum, select, subgraph

from pyg_atomenc.data.names import named
from pyg_atomenc.data.storage import graph_of_tokens, has_own_rows, has_pair_rows
from pyg_atomenc.errors import AtomEncodingError

# What PyG takes a batch apart by.
_NOTES = ("_slice_dict", "_inc_dict")


def keep_atoms(data: Any, subset: Tensor) -> Any:
    """The graph of some atoms, with the bonds and pairs between them, and all tokens.

    Empty ones go by :meth:`drop_empty_tokens`. That of a batch comes apart, as long as
    ``subset``, a mask ``[N]`` or indices, keeps the order of the graphs.
    """
    check_flat(data)
    rest = copy.copy(data)
    made = {key: value for key, value in data if has_pair_rows(key)}
    for key in made:
        del rest[key]
    out = Data.subgraph(rest, subset)
    for prefix, edges in _made_edges(data).items():
        kept, order = _subgraph(subset, edges, data.num_nodes)
        if prefix == "pair_":
            # The new layout may list the pairs that are left in another order.
            count = out.atom_to_token.numel()
            known = (kept[0] * count + kept[1]).argsort()
            source, target = out.token_layout().to_edge_index()
            order = order[known][(source * count + target).argsort().argsort()]
        for key, value in made.items():
            if key.startswith(prefix):
                fits = len(value) == edges.size(1)
                out[key] = select(value, order, 0) if fits else value
        if prefix == "radius_":
            out.radius_edge_index = kept
    if isinstance(data, Batch) and data.batch is not None:
        _follow_atoms(out, data, subset)
    return out


def drop_empty_tokens(data: Any) -> Any:
    """A copy of the graph, or of the batch, without tokens that have no atoms.

    The other tokens keep their order and take ids without gaps; attributes ``token_*``
    lose the rows of those that go, ``token_edge_index`` their edges.
    """
    check_flat(data)
    data._check_tokens()
    out, index, number = copy.copy(data), data.atom_to_token, data.num_tokens
    owner, graphs = graph_of_tokens(data), torch.as_tensor(number).numel()
    filled = index.bincount(minlength=owner.numel()) > 0
    kept = filled.nonzero().flatten()
    left, ends = owner[kept].bincount(minlength=graphs), {}
    for key, value in data._store.token_rows().items():
        out[key], ends[key] = _select(value, kept, owner, graphs), cumsum(left)
    if "token_edge_index" in data:
        of = owner[data.token_edge_index[0]]
        edges, order = _subgraph(filled, data.token_edge_index, owner.numel())
        end = cumsum(of[order].bincount(minlength=graphs))
        for key, value in data:
            if key.startswith("token_edge_") and not key.endswith("_ptr"):
                out[key], ends[key] = _select(value, order, of, graphs), end
        out.token_edge_index = edges
    many = isinstance(number, Tensor) and number.dim() > 0
    out.num_tokens = left.to(number) if many else kept.numel()
    # Other ids for the same tokens: what was made of their atoms stays.
    GlobalStorage.__setitem__(out._store, "atom_to_token", filled.cumsum(0)[index] - 1)
    _note(out, ends, ("atom_to_token", "token_edge_index"), cumsum(left))
    return out


def check_flat(data: Any) -> None:
    """Raise a ValueError if this is a batch of batches, whose graphs would mix."""
    number = data.get("num_tokens")
    found = 0 if number is None else torch.as_tensor(number).numel()
    if isinstance(data, Batch) and number is not None and found != data.num_graphs:
        mend = "batch the graphs of nested batches, of each to_data_list(), at once."
        what = f"{found} numbers for a batch of {data.num_graphs}"
        raise AtomEncodingError(f"'num_tokens' has {what}: {mend}")


def _select(value: Any, index: Tensor, owner: Tensor, graphs: int) -> Any:
    """Some rows, whose graphs are ``owner``; a batch has a list for each graph."""
    lists = isinstance(value, list) and all(isinstance(v, list) for v in value)
    if lists and list(map(len, value)) == owner.bincount(minlength=graphs).tolist():
        names, of = [name for part in value for name in part], owner[index]
        place = owner.argsort(stable=True).argsort()[index]
        left = of.bincount(minlength=graphs).tolist()
        parts = place[of.argsort(stable=True)].split(left)
        return [named([names[i] for i in part.tolist()]) for part in parts]
    rows = isinstance(value, (Tensor, list)) and len(value) == owner.numel()
    return select(value, index, 0) if rows else value


def _follow_atoms(out: Any, data: Any, subset: Tensor) -> None:
    """Note where each graph's rows now are, so that a batch comes apart right."""
    notes, count, graphs = out._store.__dict__, data.num_graphs, data.batch[subset]
    edges = {"edge_index": out.edge_index, **_made_edges(out)}
    of_edges = {key: out.batch[e[0]] for key, e in edges.items() if e is not None}
    rows = {key: graphs for key in out.keys() if data.is_node_attr(key)}
    for key in out.keys():
        made = [of for prefix, of in of_edges.items() if key.startswith(prefix)]
        if made or data.is_edge_attr(key):
            rows[key] = made[0] if made else of_edges["edge_index"]
    ends = {key: cumsum(of.bincount(minlength=count)) for key, of in rows.items()}
    # Graphs in turns cannot be cut out: without these notes PyG refuses to.
    if any(bool((of.diff() < 0).any()) for of in rows.values()):
        for key in ("ptr", *(f"{key}_ptr" for key in ends), *_NOTES):
            del out[key]
            notes.pop(key, None)
    elif "ptr" in out:
        out.ptr = ends["batch"]
    _note(out, ends, ("edge_index", "radius_edge_index"), ends["batch"])
    if "_num_nodes" in notes:
        notes["_num_nodes"] = ends["batch"].diff().tolist()
    # Of lists with a value for each atom, a batch has one for each graph.
    for key, value in data:
        lists = isinstance(value, list) and value and isinstance(value[0], list)
        if lists and not has_own_rows(key):
            out[key] = _select(value, subset, data.batch, count)


def _note(out: Any, ends: dict[str, Tensor], ids: tuple[str, str], ptr: Tensor) -> None:
    """Write down where each graph's rows end, and how far, by ``ptr``, ids shift."""
    for key in [key for key in ends if f"{key}_ptr" in out]:
        out[f"{key}_ptr"] = ends[key]
    for name, values in zip(_NOTES, (ends, dict.fromkeys(ids, ptr[:-1])), strict=True):
        if old := out._store.__dict__.get(name):
            news = {key: new.cpu() for key, new in values.items() if key in old}
            out._store.__dict__[name] = old | news


def _made_edges(data: Any) -> dict[str, Tensor]:
    """Edges by distance, and pairs of atoms in tokens, by their attributes' prefix."""
    edges = {}
    if "radius_edge_index" in data:
        edges["radius_"] = data.radius_edge_index
    if any(key.startswith("pair_") for key in data.keys()):
        edges["pair_"] = data.token_layout().to_edge_index()
    return edges


def _subgraph(subset: Tensor, edges: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The edges between some nodes, by their new numbers, and where they stood."""
    kept, _, mask = subgraph(subset, edges, None, True, count, return_edge_mask=True)
    return kept, mask.nonzero().flatten()
