"""Element symbols → atomic numbers."""

import numpy as np
from numpy.typing import NDArray

from pyg_atomenc.errors import AtomEncodingError

_NAMED = (
    "H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn "
    "Ga Ge As Se Br Kr Rb Sr Y Zr Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce "
    "Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu Hf Ta W Re Os Ir Pt Au Hg Tl Pb Bi Po At "
    "Rn Fr Ra Ac Th Pa U Np Pu Am Cm Bk Cf Es Fm Md No Lr Rf Db Sg Bh Hs Mt Ds Rg Cn "
    "Nh Fl Mc Lv Ts Og"
).split()

_NUMBER = {symbol.upper(): number for number, symbol in enumerate(_NAMED, start=1)}
# Deuterium and tritium are hydrogen; the PDB writes an unknown atom as X.
SYMBOLS = ("X", *(symbol.upper() for symbol in _NAMED))
"""Symbols in capitals by atomic number, as biotite writes them; 0 is unknown."""

_NUMBER |= {"D": 1, "T": 1, "X": 0}


def atomic_numbers(elements: NDArray[np.str_]) -> NDArray[np.int64]:
    """Look up atomic numbers.

    Args:
        elements (numpy.ndarray): Symbols ``[N]``, in any case; ``D`` and ``T`` are
            hydrogen, ``X`` is an unknown atom.

    Returns:
        numpy.ndarray: Atomic numbers ``[N]``, int64, 0 for an unknown atom.

    Raises:
        ValueError: If a symbol is no element.
    """
    symbols, inverse = np.unique(elements, return_inverse=True)
    numbers = []
    for symbol in symbols.tolist():
        if symbol.upper() not in _NUMBER:
            atom = int((elements == symbol).argmax())
            raise AtomEncodingError(
                f"'element' is {symbol!r} for atom {atom}: give every atom the symbol "
                f"of its element, or 'X' where it is not known."
            )
        numbers.append(_NUMBER[symbol.upper()])
    return np.array(numbers, dtype=np.int64)[inverse.reshape(-1)]
