"""Graphs of some atoms or some tokens: what stays with them, also in a batch."""

import copy
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import Batch, Data
from torch_geometric.utils import cumsum, select, subgraph

from pyg_atomenc.data.storage import has_pair_rows, has_token_rows


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
        _follow_atoms(out, data, subset)
    return out


def drop_empty_tokens(data: Any) -> Any:
    """The graph without empty tokens, see :meth:`AtomTokenData.drop_empty_tokens`."""
    out, total, graph = copy.copy(data), data.total_num_tokens, data.token_batch
    before = torch.as_tensor(data.num_tokens, device=graph.device).flatten()
    kept = data.atom_to_token.bincount(minlength=total) > 0
    counts = graph[kept].bincount(minlength=before.numel())
    nested = isinstance(data, Batch)
    for key, value in data:
        if has_token_rows(key) and isinstance(value, Tensor) and value.dim() > 0:
            out[key] = value[kept]
        elif has_token_rows(key) and isinstance(value, (list, tuple)):
            masks = kept.split(before.tolist())
            out[key] = _select_lists(value, masks) if nested else select(value, kept, 0)
    rows = {key: graph[kept] for key in out.keys() if has_token_rows(key)}
    if "token_edge_index" in data:
        edges, _, mask = _subgraph(kept, data.token_edge_index, total)
        for key, value in data:
            if key == "token_edge_index":
                out[key] = edges
            elif key.startswith("token_edge_") and len(value) == mask.numel():
                out[key] = select(value, mask, 0)
        rows |= {k: graph[kept][edges[0]] for k in out.keys() if _is_token_edge(k)}
    index = (kept.cumsum(0) - 1)[data.atom_to_token]
    single = not isinstance(data.num_tokens, Tensor)
    out._store.renumber(index, int(counts) if single else counts)
    shifts = dict.fromkeys(("atom_to_token", "token_edge_index"), counts)
    _record(out, rows, shifts, before.numel())
    return out


def _follow_atoms(out: Any, data: Any, subset: Tensor) -> None:
    """Mend what a batch knows of its graphs after atoms were selected."""
    index = subset.nonzero().flatten() if subset.dtype == torch.bool else subset
    count, graphs = data.num_graphs, data.batch[index]
    before = data.batch.bincount(minlength=count)
    counts = graphs.bincount(minlength=count)
    order = data.batch.argsort(stable=True)
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order), device=order.device)
    place -= cumsum(before)[data.batch]
    parts = [place[index[graphs == i]] for i in range(count)]
    for key, value in data:
        lists = isinstance(value, list) and all(isinstance(v, list) for v in value)
        if lists and [len(v) for v in value] == before.tolist():
            out[key] = _select_lists(value, parts)
    edges = {"edge_index": out.edge_index, **_made_edges(out)}
    of_edges = {k: out.batch[e[0]] for k, e in edges.items() if e is not None}
    rows = {key: graphs for key in out.keys() if data.is_node_attr(key)}
    for key in out.keys():
        made = [prefix for prefix in of_edges if key.startswith(prefix)]
        if made or data.is_edge_attr(key):
            rows[key] = of_edges[made[0] if made else "edge_index"]
    shifts = dict.fromkeys(("edge_index", "radius_edge_index"), counts)
    contiguous = _record(out, rows, shifts, count)
    if "_num_nodes" in out._store.__dict__:
        out._num_nodes = counts.tolist()
    if "ptr" in out:
        out.ptr = cumsum(counts) if contiguous else None


def _record(
    out: Any, rows: dict[str, Tensor], shifts: dict[str, Tensor], count: int
) -> bool:
    """Note where each graph's rows now are in a batch, so that it comes apart right.

    Args:
        out (Batch): The batch, or one graph, which needs no notes.
        rows (dict): The graph of every row, by the attribute's name.
        shifts (dict): By how much each graph shifts the ones behind it.
        count (int): The number of graphs.

    Returns:
        bool: Whether each graph's rows still lie together; if not, PyG's
        ``to_data_list`` refuses.
    """
    store = out._store.__dict__
    contiguous = all(not (graphs.diff() < 0).any() for graphs in rows.values())
    slices, incs = dict(store.get("_slice_dict", {})), dict(store.get("_inc_dict", {}))
    for key, graphs in rows.items():
        ends = cumsum(graphs.bincount(minlength=count))
        if key in slices:
            slices[key] = ends.cpu()
        if f"{key}_ptr" in out:
            out[f"{key}_ptr"] = ends if contiguous else None
    incs |= {key: cumsum(n)[:-1].cpu() for key, n in shifts.items() if key in incs}
    known = [name for name in ("_slice_dict", "_inc_dict") if name in store]
    for name, value in zip(known, (slices, incs), strict=False):
        if contiguous:
            store[name] = value
        else:
            del store[name]
    return contiguous


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


def _select_lists(lists: Any, parts: Any) -> list[Any]:
    return [select(v, part, 0) for v, part in zip(lists, parts, strict=True)]


def _is_token_edge(key: str) -> bool:
    return key.startswith("token_edge_")
