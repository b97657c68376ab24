"""Graphs of some atoms or some tokens: what stays with them, also in a batch."""

import copy
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import Batch, Data
from torch_geometric.utils import cumsum, select, subgraph

from pyg_atomenc.data.names import named
from pyg_atomenc.data.storage import graph_of_tokens, has_own_rows, has_pair_rows
from pyg_atomenc.errors import AtomEncodingError

# What PyG takes a batch apart by.
_NOTES = ("_slice_dict", "_inc_dict")


def keep_atoms(data: Any, subset: Tensor) -> Any:
    """The graph of some atoms, see :meth:`AtomTokenData.subgraph`."""
    check_flat(data)
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
    out, index, number = copy.copy(data), data.atom_to_token, data.num_tokens
    owner = graph_of_tokens(data)
    kept = index.bincount(minlength=owner.numel()) > 0
    sizes = torch.as_tensor(number).flatten().tolist()
    left = owner[kept].bincount(minlength=len(sizes))
    ends = {}
    for key, value in data._store.token_rows().items():
        out[key], ends[key] = _select(value, kept, sizes), cumsum(left)
    if "token_edge_index" in data:
        of = owner[data.token_edge_index[0]]
        edges, _, mask = _subgraph(kept, data.token_edge_index, owner.numel())
        end = cumsum(of[mask].bincount(minlength=len(sizes)))
        sizes = of.bincount(minlength=len(sizes)).tolist()
        for key, value in data:
            if key.startswith("token_edge_") and not key.endswith("_ptr"):
                out[key], ends[key] = _select(value, mask, sizes), end
        out.token_edge_index = edges
    many = isinstance(number, Tensor) and number.dim() > 0
    total = left.to(number) if many else int(kept.sum())
    out._store.renumber((kept.cumsum(0) - 1)[index], total)
    first = cumsum(left)[:-1]
    _note(out, ends, dict(atom_to_token=first, token_edge_index=first))
    return out


def check_flat(data: Any) -> None:
    """Raise a ValueError if this is a batch of batches, whose graphs would mix."""
    number = data.get("num_tokens")
    if not isinstance(data, Batch) or number is None:
        return
    found = torch.as_tensor(number).numel()
    if found != data.num_graphs:
        raise AtomEncodingError(
            f"'num_tokens' has {found} numbers for a batch of {data.num_graphs}: "
            f"flatten nested batches first, by Batch.from_data_list([data for batch in "
            f"batches for data in batch.to_data_list()])."
        )


def _select(value: Any, mask: Tensor, sizes: list[int]) -> Any:
    """Rows by a mask; a batch has a list of names for each graph, ``sizes`` long."""
    lists = isinstance(value, list) and all(isinstance(v, list) for v in value)
    if lists and list(map(len, value)) == sizes:
        parts = zip(value, mask.split(sizes), strict=True)
        return [named(select(names, part, 0)) for names, part in parts]
    rows = isinstance(value, (Tensor, list)) and len(value) == mask.numel()
    return select(value, mask, 0) if rows else value


def _follow_atoms(out: Any, data: Any, index: Tensor) -> None:
    """Note where each graph's rows now are, so that a batch comes apart right."""
    notes, count, graphs = out._store.__dict__, data.num_graphs, data.batch[index]
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
    first = ends["batch"][:-1]
    _note(out, ends, dict(edge_index=first, radius_edge_index=first))
    if "_num_nodes" in notes:
        notes["_num_nodes"] = ends["batch"].diff().tolist()
    # Of lists with a value for each atom, a batch has one for each graph.
    sizes = data.batch.bincount(minlength=count).tolist()
    place = data.batch.argsort(stable=True).argsort()
    picked = place[index][graphs.argsort(stable=True)].tolist()
    for key, value in data:
        lists = isinstance(value, list) and all(isinstance(v, list) for v in value)
        if lists and not has_own_rows(key) and list(map(len, value)) == sizes:
            names = [name for names in value for name in names]
            kept, counts = (names[i] for i in picked), ends["batch"].diff().tolist()
            out[key] = [named(list(islice(kept, count))) for count in counts]


def _note(out: Any, ends: dict[str, Tensor], shifts: dict[str, Tensor]) -> None:
    """Write down where each graph's rows end, and how far its ids are shifted."""
    for key, end in ends.items():
        if f"{key}_ptr" in out:
            out[f"{key}_ptr"] = end
    for name, values in zip(_NOTES, (ends, shifts), strict=True):
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


def _subgraph(subset: Tensor, edges: Tensor, count: int) -> tuple[Tensor, Any, Tensor]:
    return subgraph(
        subset, edges, relabel_nodes=True, num_nodes=count, return_edge_mask=True
    )
