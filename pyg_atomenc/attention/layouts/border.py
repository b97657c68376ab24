"""What users pass where a layout goes, as one: the border of every layer."""

from typing import Any, Optional

import torch
from torch import Tensor
from torch_geometric.typing import SparseTensor
from torch_geometric.utils import is_torch_sparse_tensor, to_edge_index

from pyg_atomenc.attention.layouts.base import Layout
from pyg_atomenc.attention.layouts.edge import EdgeLayout
from pyg_atomenc.attention.layouts.token import TokenLayout, count_name
from pyg_atomenc.attention.tracing import is_readable, unwrapped
from pyg_atomenc.checks import check, check_choice, check_index, check_type
from pyg_atomenc.errors import AtomEncodingError


def check_layout(layout: Any, kind: Any = Layout) -> Any:
    """The layout, if it is one, or a TokenLayout where ``kind`` says so."""
    mend = ", WindowLayout.from_batch(batch), or EdgeLayout.from_edge_index(...)."
    mend = mend if kind is Layout else ", which has tokens to pool atoms into."
    mend = f"pass TokenLayout.from_index(atom_to_token, num_tokens){mend}"
    layout = check_type("layout", layout, kind, mend)
    if torch._C._are_functorch_transforms_active():
        for name in layout.tensors:
            unwrapped("layout", getattr(layout, name))
    return layout


def as_layout(
    edges: Any,
    num_sources: int,
    num_targets: Optional[int] = None,
    *,
    name: str = "edge_index",
    flow: str = "source_to_target",
) -> Layout:
    """What a user passed where edges go, as a layout: a layer's border.

    That is a layout, which is handed through; edges ``[2, E]``, rows (source, target),
    with ``flow="target_to_source"`` the other way round; or a sparse adjacency,
    transposed as PyG has it, with a row a target, which such a flow refuses, as in PyG.
    A ValueError if it is none of these, or does not fit the nodes.
    """
    num_targets = num_sources if num_targets is None else num_targets
    if not isinstance(edges, Layout):
        forward = flow == "source_to_target"
        if isinstance(edges, SparseTensor) or is_torch_sparse_tensor(edges):
            if not forward:
                found = f"'{name}' is an adjacency, but 'flow' {flow!r}"
                mend = "pass edges [2, num_edges], or the transposed without 'flow'."
                raise AtomEncodingError(f"{found}: {mend}")
            edges = to_edge_index(edges)[0].flip(0)
        elif not forward and isinstance(edges, Tensor):
            edges = edges.flip(0)
        return EdgeLayout.from_edge_index(edges, num_sources, num_targets, name=name)
    if (edges.num_sources, edges.num_targets) != (num_sources, num_targets):
        pairs = (edges.num_sources, edges.num_targets), (num_sources, num_targets)
        built, given = (
            f"{m} atoms" if m == n else f"{m} sources and {n} targets" for m, n in pairs
        )
        found = f"'layout' was built for {built}, but the input has {given}"
        raise AtomEncodingError(f"{found}: build the layout from this batch.")
    return edges


def as_token_layout(
    index: Any,
    num_atoms: Optional[int] = None,
    num_tokens: Optional[int] = None,
    batch: Optional[Tensor] = None,
    *,
    ptr: Optional[Tensor] = None,
    name: str = "index",
) -> TokenLayout:
    """What a user passed as the tokens of atoms, an index or a layout, as a layout.

    It is checked against the numbers of atoms and tokens that are known, and outside of
    traces against the graph of every atom; a ValueError if it does not fit. Pointers
    ``[T + 1]``, given beside it or in its place, need the number of atoms.
    """
    if ptr is not None:
        index = _index_of(ptr, index, num_atoms, num_tokens)
        num_tokens = ptr.numel() - 1
    if not isinstance(index, Layout):
        layout = TokenLayout.from_index(index, num_tokens, batch, name=name)
    else:
        layout = check_layout(index, TokenLayout)
        if num_tokens is not None and num_tokens != layout.num_tokens:
            count = count_name(name)
            found = f"{num_tokens}, but the layout has {layout.num_tokens} tokens"
            raise AtomEncodingError(f"'{count}' is {found}: leave '{count}' out.")
        if batch is not None and is_readable(batch):
            layout.check_batch(batch)
    if num_atoms is not None and layout.num_atoms != num_atoms:
        found = f"'x' has {num_atoms} atoms, but '{name}' {layout.num_atoms}"
        raise AtomEncodingError(f"{found}: give every atom one row and one token.")
    return layout


def _index_of(ptr: Tensor, index: Any, num_atoms: Any, dim_size: Any) -> Tensor:
    """The token of every atom from the tokens' pointers, which win in a trace."""
    mend = "pass where the atoms of every token start, and the last end, [T + 1]."
    ptr = unwrapped("ptr", check_index("ptr", ptr, mend)).long()
    readable = is_readable(ptr)
    if readable:
        # By `int`: torch 2.6 has no `tolist` inside of torch.func's transforms.
        ends = [int(end) for end in (ptr[:1], ptr[-1:]) if ptr.numel()]
        if ends != [0, num_atoms] or (ptr.diff() < 0).any():
            found = f"'ptr' goes from {' to '.join(map(str, ends))}, or falls"
            raise AtomEncodingError(f"{found}, for {num_atoms} atoms: {mend}")
        check_choice("dim_size", dim_size, (None, ptr.numel() - 1))
    # Exported, torch.bucketize would search no more pointers than the example had.
    starts = ptr.new_zeros(num_atoms + 1)
    starts = starts.scatter_add(0, ptr[1:], torch.ones_like(ptr[1:]))
    tokens = starts.cumsum(0)[:-1]
    if readable and index is not None:
        same = isinstance(index, Tensor) and torch.equal(index.long(), tokens)
        check(same, "'index' and 'ptr' are both there and tell other tokens: pass one.")
    return tokens
