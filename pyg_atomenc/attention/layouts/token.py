"""Which atoms attend to which: all that belong to one token."""

import warnings
from dataclasses import dataclass
from typing import Any, Optional

import torch
from torch import Tensor

from pyg_atomenc.attention import tracing
from pyg_atomenc.attention.layouts.base import Layout, register_pytree
from pyg_atomenc.attention.ragged import pointers, ranges, stable_order
from pyg_atomenc.checks import bounds, check_index, check_integer, check_shape
from pyg_atomenc.errors import AtomEncodingError

# Tokens without atoms are rows of memory all the same: an id at or above the first, and
# above a thousand an atom, is taken for a mistake where nobody told how many there are.
MAX_IDS = 10**6
MAX_TOKENS = 10**8

_MEND = "pass a vector [num_atoms] with the token of every atom as an integer."
_RENUMBERED = "torch.unique(ids, return_inverse=True)[1]"


@dataclass(frozen=True, eq=False, repr=False)
class TokenLayout(Layout):
    r"""Which atoms form a token, and thereby which atoms attend to which.

    Inside a token every atom attends to every atom, itself included; that is what
    :meth:`to_edge_index` writes out, and every attention backend must equal it.

    Build it with :meth:`from_index` (or
    :meth:`pyg_atomenc.data.AtomTokenData.token_layout`), once a batch: no layer then
    sorts, checks or waits again.

    Attributes:
        atom_to_token (Tensor): The token of every atom ``[N]``, int64.
        perm (Tensor): The atoms sorted by token ``[N]``, int64; atoms of one token
            keep their order.
        ptr (Tensor): The atoms of token ``t`` are ``perm[ptr[t]:ptr[t + 1]]``;
            ``[T + 1]``, int64.
        host_ptr (Tensor): The same on the CPU, from which backends plan without waiting
            for a device.
        num_pairs (int, optional): See :class:`Layout`.
    """

    atom_to_token: Tensor
    perm: Tensor
    ptr: Tensor
    host_ptr: Tensor
    num_pairs: Optional[int] = None

    kind = "tokens"
    tensors = ("atom_to_token", "perm", "ptr")
    host_tensors = ("host_ptr",)
    shown = ("num_atoms", "num_tokens")

    @staticmethod
    def from_index(
        atom_to_token: Tensor,
        num_tokens: Optional[int] = None,
        batch: Optional[Tensor] = None,
        *,
        name: str = "atom_to_token",
    ) -> "TokenLayout":
        """Sort a token assignment and check it.

        Args:
            atom_to_token (Tensor): The token of every atom ``[N]``, integers in
                ``[0, T)`` in any order; tokens may be empty.
            num_tokens (int, optional): The number of tokens ``T``, empty ones
                included. (default: ``atom_to_token.max() + 1``)
            batch (Tensor, optional): The graph of every atom ``[N]``; when given, a
                token whose atoms lie in two graphs is an error. (default: ``None``)
            name (str): What errors call the assignment; the number of tokens is
                ``dim_size`` where that is ``"index"``. (default: ``"atom_to_token"``)

        Ids that start again from 0 give a UserWarning, unless the highest id or
        ``batch`` is told; errors are those of
        :func:`~pyg_atomenc.attention.check_token_index`.
        """
        if tracing.is_tracing():
            return _trace_layout(atom_to_token, num_tokens)
        told = num_tokens is not None
        check_index(name, atom_to_token, _MEND)
        atom_to_token = tracing.unwrapped(name, atom_to_token)
        if not tracing.is_readable(atom_to_token):
            count = count_name(name)
            if num_tokens is None:
                mend = f"pass the number of tokens as '{count}'."
                tracing.check_readable(name, atom_to_token, mend)
            return _trace_layout(atom_to_token, _check_count(count, num_tokens))
        num_tokens = check_token_index(atom_to_token, num_tokens, batch, name)
        # A copy, which no later edit reaches; and what inference mode makes could not
        # be used by autograd.
        with torch.inference_mode(False):
            index = atom_to_token.detach().to(torch.long, copy=True).contiguous()
            perm, ptr, host_ptr = sort_atoms(index, num_tokens)
        num_pairs = int(host_ptr.diff().square().sum())
        if batch is None:
            _notice_graphs(index, host_ptr, told, name)
        return TokenLayout(index, perm, ptr, host_ptr, num_pairs)

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

    def check_batch(self, batch: Tensor) -> None:
        """Raise a ValueError if a token has atoms in two graphs of ``batch``."""
        _check_graphs(self.atom_to_token, self.num_tokens, batch)

    def to_edge_index(self) -> Tensor:
        """All pairs of a token's atoms ``[2, E]``, int64, rows (source, target).

        Edges are sorted by token, then by target atom, then by source atom, atoms of a
        token in the order of ``perm``.
        """
        sizes = self.sizes
        # Every atom is the target of as many edges as its token has atoms.
        degree = sizes.repeat_interleave(sizes, output_size=self.num_atoms)
        first = self.ptr[:-1].repeat_interleave(sizes, output_size=self.num_atoms)
        source = ranges(first, degree, self.num_pairs)
        target = self.perm.repeat_interleave(degree, output_size=self.num_pairs)
        return torch.stack([self.perm[source], target])


register_pytree(TokenLayout, TokenLayout.tensors + TokenLayout.host_tensors)


def sort_atoms(index: Tensor, num_tokens: int) -> tuple[Tensor, Tensor, Tensor]:
    """The atoms by token, and where those of every token start, here and on the CPU."""
    ptr = pointers(index.bincount(minlength=num_tokens))
    readable = type(index) is Tensor and index.device.type == "cpu"
    if readable and not torch._C._are_functorch_transforms_active():
        perm = torch.from_numpy(stable_order(index.numpy(), num_tokens))
    else:
        perm = index.argsort(stable=True)
    # Never the same tensor: a trace would take that for a promise.
    return perm, ptr, ptr.to("cpu", copy=True)


# For operators that ask the CPU for sizes: a recorded CUDA graph would repeat what they
# launched for its own layout, so torch.compile is told to leave them out. Versions
# without that tag record no graph that has a tensor on the CPU.
NOT_RECORDED: dict[str, Any] = {}
if hasattr(torch.Tag, "cudagraph_unsafe"):
    NOT_RECORDED["tags"] = (torch.Tag.cudagraph_unsafe,)


@torch.library.custom_op("pyg_atomenc::sort_atoms", mutates_args=(), **NOT_RECORDED)
def sort_atoms_op(index: Tensor, num_tokens: int) -> tuple[Tensor, Tensor, Tensor]:
    """As :func:`sort_atoms`, for traces; checks the ids when it runs."""
    check_token_index(index, num_tokens)
    return sort_atoms(index, num_tokens)


@sort_atoms_op.register_fake
def _(index: Tensor, num_tokens: int) -> tuple[Tensor, Tensor, Tensor]:
    ptr = index.new_empty(num_tokens + 1)
    host = "meta" if ptr.device.type == "meta" else "cpu"
    return torch.empty_like(index), ptr, torch.empty_like(ptr, device=host)


def _trace_layout(atom_to_token: Tensor, num_tokens: Any) -> TokenLayout:
    """In a trace, whose ids are checked when it runs, and of tensors without data."""
    index = atom_to_token.long().contiguous()
    if num_tokens is None:
        # `max` of an empty vector is an error; the extra -1 makes it 0 tokens.
        num_tokens = torch.cat([index, index.new_full((1,), -1)]).max() + 1
        if not tracing.is_jit_tracing():
            num_tokens = num_tokens.item()
            torch._check(num_tokens >= 0)
    if not tracing.leaves_package():
        return TokenLayout(index, *sort_atoms_op(index, num_tokens))
    sizes = index.new_zeros(num_tokens).scatter_add(0, index, torch.ones_like(index))
    ptr = pointers(sizes)
    return TokenLayout(index, index.argsort(stable=True), ptr, ptr)


def check_token_index(
    atom_to_token: Tensor,
    num_tokens: Optional[int] = None,
    batch: Optional[Tensor] = None,
    name: str = "atom_to_token",
) -> int:
    """Check a token assignment ``[N]`` of any integer type, and count its tokens.

    Arguments are as for :meth:`TokenLayout.from_index`. A ValueError if it is no vector
    of integers in ``[0, T)``, if ``num_tokens`` is too small or no count, or if a token
    has atoms in two graphs of ``batch``.
    """
    check_index(name, atom_to_token, _MEND)
    count = count_name(name)
    num_tokens = None if num_tokens is None else _check_count(count, num_tokens)
    if atom_to_token.numel() == 0:
        return num_tokens or 0
    low, high = bounds(atom_to_token)
    if low < 0:
        mend = "ids count from 0; drop atoms that belong to no token before encoding."
        raise AtomEncodingError(f"'{name}' holds the negative token id {low}: {mend}")
    if num_tokens is None:
        if high >= max(MAX_IDS, MAX_IDS // 1000 * atom_to_token.numel()):
            found = f"'{name}' holds token id {high} for {atom_to_token.numel()} atoms"
            mend = f"pass {_RENUMBERED}, or also '{count}'."
            raise AtomEncodingError(f"{found}, and all below would be tokens: {mend}")
        num_tokens = high + 1
    elif high >= num_tokens:
        found = f"'{name}' holds token id {high}, but '{count}' is {num_tokens}"
        mend = f"pass {count} >= {high + 1}, or mend the ids."
        raise AtomEncodingError(f"{found}: {mend}")
    if batch is not None:
        _check_graphs(atom_to_token, num_tokens, batch)
    return num_tokens


def count_name(name: str) -> str:
    """What the number of tokens is called beside an assignment called ``name``."""
    return "dim_size" if name == "index" else "num_tokens"


def _check_count(name: str, num_tokens: Any) -> int:
    if isinstance(num_tokens, Tensor) and num_tokens.numel() == 1:
        num_tokens = num_tokens.item()
    if isinstance(num_tokens, Tensor):
        mend = "pass their sum, int(batch.num_tokens.sum()), for a batch of graphs."
        found = f"a tensor of {num_tokens.numel()} numbers"
        raise AtomEncodingError(f"'{name}' is {found}: {mend}")
    num_tokens = check_integer(name, num_tokens, 0)
    if num_tokens > MAX_TOKENS:
        mend = f"pass at most {MAX_TOKENS}; ids without gaps are {_RENUMBERED}."
        found = f"{num_tokens}, and every token takes memory"
        raise AtomEncodingError(f"'{name}' is {found}: {mend}")
    return num_tokens


def _notice_graphs(index: Tensor, host_ptr: Tensor, told: bool, name: str) -> None:
    """Warn where ids start again from 0, as in a batch of graphs that share tokens."""
    if torch._C._are_functorch_transforms_active():
        return
    before, last = host_ptr[-2:].tolist() if told and host_ptr.numel() > 1 else (0, 0)
    # Where the last token has atoms, somebody counted the ids.
    if before < last:
        return
    falls = index.diff() < 0
    # Of one graph, a first token may well go on behind others: 0, 0, 1, 0.
    restarts = falls.any() and not index[1:][falls].any()
    # It may end with a token 0 too, unless somebody told of more tokens than are here.
    if not restarts or index[0] or not (told or index[-1]):
        return
    warnings.warn(
        f"'{name}' starts again from token 0, {int(falls.sum())} times, as in a batch "
        f"of plain Data, whose graphs share tokens: make each an AtomTokenData before "
        f"batching, by AtomTokenData.from_data(data). Of one graph, pass batch=zeros.",
        stacklevel=3,
    )


def _check_graphs(atom_to_token: Tensor, num_tokens: int, batch: Tensor) -> None:
    check_shape("batch", batch, atom_to_token.numel(), hint="the graph of every atom")
    index, graph = atom_to_token.long(), batch.long()
    first = graph.new_full((num_tokens,), 2**62).scatter_reduce(0, index, graph, "amin")
    last = graph.new_full((num_tokens,), -1).scatter_reduce(0, index, graph, "amax")
    torn = (first < last).nonzero().flatten()
    if torn.numel() > 0:
        token = int(torn[0])
        graphs = f"graphs {int(first[token])} and {int(last[token])} of 'batch'"
        found = f"{graphs} into token {token}, as batches of plain Data do"
        mend = "make each graph an AtomTokenData before batching."
        raise AtomEncodingError(f"'atom_to_token' puts atoms of {found}: {mend}")
