"""`Tokens`: what a tokenizer gives, and the check of what it gave."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Optional

import torch
from torch import Tensor

import pyg_atomenc.checks as checks
from pyg_atomenc.errors import AtomEncodingError


@dataclass(frozen=True)
class Tokens:
    """Which token every atom belongs to, and what is known of the tokens.

    Args:
        atom_to_token (Tensor): Of every atom ``[N]``, int64 in ``[0, num_tokens)``.
        num_tokens (int): The number of tokens ``T``.
        attributes (dict): Token attributes by name, each a tensor or list with one
            entry per token; names start with ``token_``. (default: ``{}``)
        representative (Tensor, optional): The atom that stands for each token ``[T]``,
            int64, ``-1`` for none. (default: each token's first atom)

    Raises:
        ValueError: If ``atom_to_token`` is no int64 vector in ``[0, num_tokens)``, an
            attribute's name or length does not fit, or a representative is not its.
    """

    atom_to_token: Tensor
    num_tokens: int
    attributes: Mapping[str, Any] = field(default_factory=dict)
    representative: Optional[Tensor] = None

    def __post_init__(self) -> None:
        mend, index = "pass int64, one token id per atom.", self.atom_to_token
        dtype = checks.check_index("atom_to_token", index, mend).dtype
        checks.check(dtype == torch.long, f"'atom_to_token' is {dtype}: {mend}")
        checks.check_integer("num_tokens", self.num_tokens, 0)
        checks.check_range("atom_to_token", index, self.num_tokens, "tokens")
        for name, values in self.attributes.items():
            mend = "name it token_*, so that it batches by token."
            fits = name.startswith("token_")
            checks.check(fits, f"'attributes' names {name!r}: {mend}")
            listed = hasattr(values, "__len__") and not isinstance(values, str)
            if not isinstance(values, Tensor):
                values = torch.empty(len(values) if listed else ())
            checks.check_rows(name, values, self.num_tokens, "tokens")
        count = index.numel()
        first = torch.full((self.num_tokens,), count)
        first.scatter_reduce_(0, index, torch.arange(count), "amin")
        first, atom = first.where(first < count, -1), self.representative
        if atom is None:
            # A frozen dataclass sets its own fields this way.
            return object.__setattr__(self, "representative", first)
        fits = isinstance(atom, Tensor) and atom.dtype == torch.long
        if fits := fits and atom.shape == first.shape and bool((atom < count).all()):
            # A token has a representative if it has atoms, and it is one of them.
            token = torch.cat([index, index.new_tensor([-1])])[atom.clamp(min=-1)]
            fits = token.equal(torch.arange(self.num_tokens).where(first >= 0, -1))
        if not fits:
            mend = "give an atom of each token, -1 for one without atoms, as int64."
            raise AtomEncodingError(f"'representative' is {atom!r}: {mend}")


Tokenizer = Callable[[Any], Tokens]


def tokenize(tokenizer: Tokenizer, source: Any, num_atoms: int) -> Tokens:
    """Run any tokenizer on a molecule or structure, and check that it gave tokens."""
    checks.check_callable("tokenizer", tokenizer)
    mend = "a tokenizer must return pyg_atomenc.tokenizers.Tokens."
    tokens = checks.check_type("tokenizer(...)", tokenizer(source), Tokens, mend)
    mend = "the tokenizer must give every atom one token."
    checks.check_rows("atom_to_token", tokens.atom_to_token, num_atoms, "atoms", mend)
    return tokens
