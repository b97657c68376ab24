"""Which atoms attend to which: the token layout, built once a batch."""

from dataclasses import dataclass, fields
from typing import Any, Optional, Union, cast

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from pyg_atomenc.attention.dense.plan import make_plan
from pyg_atomenc.attention.layouts.token_index import check_graphs, check_token_index


@dataclass(frozen=True, eq=False, repr=False)
class TokenLayout:
    r"""Which atoms form a token, and thereby which atoms attend to which.

    Inside a token every atom attends to every atom, itself included; that is what
    :meth:`to_edge_index` writes out, and every attention backend must equal it.

    Build a layout once a batch with :meth:`from_index` (or
    :meth:`pyg_atomenc.data.AtomTokenData.token_layout`), in a DataLoader worker if you
    like, and hand it to every layer: no layer then sorts, checks or waits again.

    Attributes:
        atom_to_token (Tensor): The token of every atom ``[N]``, int64.
        perm (Tensor): The atoms sorted by token ``[N]``, int64; atoms of one token
            keep their order.
        ptr (Tensor): The atoms of token ``t`` are ``perm[ptr[t]:ptr[t + 1]]``;
            ``[T + 1]``, int64.
        order (Tensor): The atoms sorted by their token's size, then as in ``perm``
            ``[N]``, int64.
        token_order (Tensor): The tokens sorted by size ``[T]``, int64.
        plan (Tensor): How the fast backends cut ``order`` into chunks; always on the
            CPU, so that nobody waits for it.
        num_pairs (int, optional): The number of edges of :meth:`to_edge_index`, where
            it is known without waiting for a device.
    """

    atom_to_token: Tensor
    perm: Tensor
    ptr: Tensor
    order: Tensor
    token_order: Tensor
    plan: Tensor
    num_pairs: Optional[int] = None

    @staticmethod
    def from_index(
        atom_to_token: Tensor,
        num_tokens: Optional[int] = None,
        batch: Optional[Tensor] = None,
    ) -> "TokenLayout":
        """Sort a token assignment and check it.

        Args:
            atom_to_token (Tensor): The token of every atom ``[N]``, integers in
                ``[0, T)`` in any order; tokens may be empty.
            num_tokens (int, optional): The number of tokens ``T``, empty ones
                included. (default: ``atom_to_token.max() + 1``)
            batch (Tensor, optional): The graph of every atom ``[N]``; when given, a
                token whose atoms lie in two graphs is an error. (default: ``None``)

        Returns:
            TokenLayout: The layout, on the device of ``atom_to_token``.

        Raises:
            ValueError: If the assignment is not valid, see
                :func:`~pyg_atomenc.attention.layouts.token_index.check_token_index`.
        """
        if torch.compiler.is_compiling():
            return _trace_layout(atom_to_token, num_tokens)
        num_tokens = check_token_index(atom_to_token, num_tokens, batch)
        atom_to_token = atom_to_token.detach().long().contiguous()
        perm, ptr, order, token_order = _sort_atoms(atom_to_token, num_tokens)
        sizes = ptr.diff().cpu()
        return TokenLayout(
            atom_to_token=atom_to_token,
            perm=perm,
            ptr=ptr,
            order=order,
            token_order=token_order,
            plan=make_plan(sizes),
            num_pairs=int((sizes * sizes).sum()),
        )

    @property
    def num_atoms(self) -> int:
        """The number of atoms ``N``."""
        return self.atom_to_token.size(0)

    @property
    def num_tokens(self) -> int:
        """The number of tokens ``T``, empty ones included."""
        return self.ptr.size(0) - 1

    @property
    def sizes(self) -> Tensor:
        """The number of atoms in every token ``[T]``, int64."""
        return self.ptr.diff()

    @property
    def device(self) -> torch.device:
        """Where the index tensors lie."""
        return self.ptr.device

    def check_batch(self, batch: Tensor) -> None:
        """Raise a ValueError if a token has atoms in two graphs of ``batch``."""
        check_graphs(self.atom_to_token, self.num_tokens, batch)

    def to_edge_index(self) -> Tensor:
        """The fully connected edges inside tokens, self pairs included.

        Returns:
            Tensor: ``[2, E]``, int64, rows (source, target), ``E`` the sum of the
            squared token sizes. Edges are sorted by token, then by target atom, then
            by source atom, atoms of a token in the order of ``perm``.
        """
        sizes = self.sizes
        # Every atom is the target of as many edges as its token has atoms.
        degree = sizes.repeat_interleave(sizes, output_size=self.num_atoms)
        first = self.ptr[:-1].repeat_interleave(sizes, output_size=self.num_atoms)
        target = self.perm.repeat_interleave(degree, output_size=self.num_pairs)
        start = (first - degree.cumsum(0) + degree).repeat_interleave(
            degree, output_size=self.num_pairs
        )
        slot = start + torch.arange(target.numel(), device=self.device)
        return torch.stack([self.perm[slot], target])

    def to(
        self, device: Union[str, int, torch.device], non_blocking: bool = False
    ) -> "TokenLayout":
        """Move to a device; the chunk plan stays on the CPU."""
        return self._map(lambda value: value.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "TokenLayout":
        """Copy into page-locked memory, for asynchronous transfers to a GPU."""
        return self._map(lambda value: value.pin_memory())

    def _map(self, function: Any) -> "TokenLayout":
        moved = {
            name: getattr(self, name)
            if name == "plan"
            else function(getattr(self, name))
            for name in _TENSORS
        }
        return TokenLayout(**moved, num_pairs=self.num_pairs)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(num_atoms={self.num_atoms}, "
            f"num_tokens={self.num_tokens}, device='{self.device}')"
        )


_TENSORS = tuple(f.name for f in fields(TokenLayout) if f.name != "num_pairs")

# `num_pairs` is left out: as a leaf it would bake one batch's size into an export.
pytree.register_pytree_node(
    TokenLayout,
    lambda layout: ([getattr(layout, name) for name in _TENSORS], None),
    lambda values, _: TokenLayout(*values),
    serialized_type_name="pyg_atomenc.TokenLayout",
    flatten_with_keys_fn=lambda layout: (
        [(pytree.GetAttrKey(name), getattr(layout, name)) for name in _TENSORS],
        None,
    ),
    to_dumpable_context=lambda context: context,
    from_dumpable_context=lambda context: context,
)


def _sort_atoms(
    index: Tensor, num_tokens: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    sizes = index.bincount(minlength=num_tokens)
    ptr = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])
    perm = index.argsort(stable=True)
    token_order = sizes.argsort(stable=True)
    ordered = sizes[token_order]
    # Atoms of the i-th smallest token stand at ptr[token] in perm, and go where the
    # smaller tokens end.
    shift = ptr[token_order] - ordered.cumsum(0) + ordered
    slot = shift.repeat_interleave(ordered, output_size=index.numel())
    order = perm[slot + torch.arange(index.numel(), device=index.device)]
    return perm, ptr, order, token_order


@torch.library.custom_op("pyg_atomenc::sort_atoms", mutates_args=())
def _sort_atoms_op(
    index: Tensor, num_tokens: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    check_token_index(index, num_tokens)
    return _sort_atoms(index, num_tokens)


@_sort_atoms_op.register_fake
def _(index: Tensor, num_tokens: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return (
        torch.empty_like(index),
        index.new_empty(num_tokens + 1),
        torch.empty_like(index),
        index.new_empty(num_tokens),
    )


def _trace_layout(atom_to_token: Tensor, num_tokens: Optional[int]) -> TokenLayout:
    """The layout inside torch.compile and torch.export, where sizes are symbols.

    The chunk plan depends on the values and stays empty: the operators make it when
    they run. The token ids are checked when the compiled graph runs, too.
    """
    index = atom_to_token.long().contiguous()
    if num_tokens is None:
        # `max` of an empty vector is an error; the extra -1 makes it 0 tokens.
        padded = torch.cat([index, index.new_full((1,), -1)])
        num_tokens = cast(int, padded.max().item()) + 1
        torch._check(num_tokens >= 0)
    perm, ptr, order, token_order = _sort_atoms_op(index, num_tokens)
    plan = torch.empty((0, 5), dtype=torch.long, device="cpu")
    return TokenLayout(index, perm, ptr, order, token_order, plan)
