"""How many hydrogens an atom has, by its valence."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

# The valences of neutral atoms, the least that suffices counts; a charge of N, O and
# their like adds to it, one of the others takes from it.
_VALENCES = {
    5: (3,), 6: (4,), 7: (3,), 8: (2,), 9: (1,), 14: (4,), 15: (3, 5), 16: (2, 4, 6),
    17: (1,), 33: (3, 5), 34: (2, 4, 6), 35: (1,), 53: (1,),
}  # fmt: skip
_GAINS = (7, 8, 9, 15, 16, 17, 33, 34, 35, 53)
# Single, double, triple, quadruple of biotite's BondType; aromatic bonds as well. Of a
# bond whose order nobody knows (0) there is one at least.
_ORDER = {0: 1, 1: 1, 2: 2, 3: 3, 4: 4, 5: 1, 6: 2, 7: 3, 9: 1.5}


def count_hydrogens(
    z: NDArray[np.int64], charge: NDArray[np.int64], bonds: NDArray[Any]
) -> NDArray[np.int64]:
    """Hydrogens of every atom, those that are atoms themselves included.

    Args:
        z (numpy.ndarray): Atomic numbers ``[N]``, int64.
        charge (numpy.ndarray): Formal charges ``[N]``, int64.
        bonds (numpy.ndarray): Bonds ``[B, 3]``: two atoms and biotite's bond type.

    Returns:
        numpy.ndarray: ``[N]``, int64: the hydrogens bonded to an atom, and as many as
        its valence leaves room for; none more for metals and unknown atoms. Bonds of an
        unknown order count as single.
    """
    ends, kind = bonds[:, :2].astype(np.int64), bonds[:, 2].astype(np.int64)
    order = np.zeros(max(_ORDER) + 3)
    order[list(_ORDER)] = list(_ORDER.values())
    weight = np.repeat(order[np.minimum(kind, len(order) - 1)], 2)
    flat = ends.ravel()
    used = np.bincount(flat, weight, minlength=len(z))
    bonded = np.bincount(flat, z[ends[:, ::-1].ravel()] == 1, minlength=len(z))
    free = np.zeros(len(z))
    for number, valences in _VALENCES.items():
        rows = np.flatnonzero(z == number)
        if len(rows) == 0:
            continue
        sign = charge[rows] if number in _GAINS else -np.abs(charge[rows])
        room = np.array(valences) + sign[:, None] - used[rows, None]
        # The first valence that is enough; none if all are too small.
        enough = room >= 0
        first = enough.argmax(axis=1)
        free[rows] = np.where(enough.any(axis=1), room[np.arange(len(rows)), first], 0)
    return (bonded + np.floor(free)).astype(np.int64)
