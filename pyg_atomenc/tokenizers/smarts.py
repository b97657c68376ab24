"""Molecules → groups that match SMARTS patterns."""

from collections.abc import Mapping, Sequence
from typing import Any, Union

import numpy as np

from pyg_atomenc.checks import check, check_choice
from pyg_atomenc.chem.codes import connected
from pyg_atomenc.chem.rdkit import as_mol, bond_ends, with_hydrogens
from pyg_atomenc.errors import AtomEncodingError, require_package
from pyg_atomenc.tokenizers.base import Tokens
from pyg_atomenc.tokenizers.features import chemical_tokens

_MOST_MATCHES = 1_000_000


class Smarts:
    """Makes every match of a pattern one token.

    Patterns are tried in their order, the matches of each in the order of RDKit; a
    match that needs an atom of an earlier match is left out, and hydrogens that no
    pattern takes go with their atom. ``token_name`` is the pattern's name, or the
    element's symbol (``"atom"``) or ``"rest"`` (``"component"``). Order, shapes and
    errors are those of :class:`~pyg_atomenc.tokenizers.BRICS`.

    Args:
        patterns (dict or sequence): SMARTS by name, or SMARTS that are their own names.
        rest (str): ``"atom"``: each other atom is a token; ``"component"``: those that
            bonds connect are one. (default: ``"atom"``)

    Raises:
        ValueError: If a pattern is no SMARTS, if there is none, or ``rest`` is unknown.

    Example:
        >>> from rdkit import Chem
        >>> tokenizer = Smarts({"acid": "C(=O)[OX2H1]", "ring": "c1ccccc1"})
        >>> tokenizer(Chem.MolFromSmiles("OC(=O)c1ccccc1Cl")).attributes["token_name"]
        ['acid', 'ring', 'Cl']
    """

    def __init__(
        self, patterns: Union[Mapping[str, str], Sequence[str]], rest: str = "atom"
    ) -> None:
        fits: Any = isinstance(patterns, (Mapping, Sequence)) and patterns
        mend = "pass SMARTS, a list or a dict by name."
        fits = fits and not isinstance(patterns, str)
        check(fits, f"'patterns' is {patterns!r}: {mend}")
        check_choice("rest", rest, ("atom", "component"))
        named = patterns if isinstance(patterns, Mapping) else {p: p for p in patterns}
        self.patterns, self.rest = dict(named), rest
        self._compile()

    def _compile(self) -> list[tuple[str, Any]]:
        # Not kept: RDKit's molecules need not travel to DataLoader workers.
        chem = require_package("rdkit.Chem", "Smarts")
        queries, base = [], require_package("rdkit.rdBase", "Smarts")
        for name, pattern in self.patterns.items():
            with base.BlockLogs():
                query = isinstance(pattern, str) and chem.MolFromSmarts(pattern)
            if not query or not query.GetNumAtoms() or not isinstance(name, str):
                mend = f"{name!r}: pass text, and SMARTS that RDKit does not refuse."
                raise AtomEncodingError(f"'patterns' has {pattern!r} for {mend}")
            queries.append((name, query))
        return queries

    def __call__(self, source: Any) -> Tokens:
        """Assign every atom to its match; see the class."""
        chem = require_package("rdkit.Chem", "Smarts")
        mol = chem.Mol(as_mol(source))
        chem.FastFindRings(mol)
        count, names = mol.GetNumAtoms(), list[str]()
        piece = np.full(count, -1)
        for name, query in self._compile():
            matches = mol.GetSubstructMatches(query, maxMatches=_MOST_MATCHES)
            # RDKit stops at so many without a word.
            text = f"'patterns' has {self.patterns[name]!r}, which matches too often."
            check(len(matches) < _MOST_MATCHES, text)
            for match in map(list, matches):
                if (piece[match] < 0).all():
                    piece[match] = len(names)
                    names.append(name)
        taken, own = piece >= 0, np.arange(count)
        rest = [atom.GetSymbol() for atom in mol.GetAtoms()]
        if self.rest == "component":
            ends, rest = bond_ends(mol), ["rest"] * count
            own = connected(count, ends[~taken[ends].any(axis=1)])
        full = np.where(taken, piece, len(names) + own)
        full = np.where(taken, full, with_hydrogens(mol, full))
        return chemical_tokens(source, full, names + rest)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({list(self.patterns)}, rest={self.rest!r})"
