"""Molecule files, SDF, MOL and MOL2, by RDKit → `AtomTokenData`."""

import hashlib
import re
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Optional, Union

from pyg_atomenc.checks import check, check_choice, check_file, listed
from pyg_atomenc.data import AtomTokenData
from pyg_atomenc.errors import AtomEncodingError, FileFormatError, require_package
from pyg_atomenc.io.limits import Limits, read_bytes
from pyg_atomenc.io.rdmol import from_rdmol, parsed
from pyg_atomenc.io.sources import PathLike, check_options, named
from pyg_atomenc.tokenizers.base import Tokenizer

SUFFIXES = (".sdf", ".sd", ".mol", ".mol2")
_PROPERTY = re.compile("^>.*<(.*)>", re.MULTILINE)


class MoleculeFile:
    """The molecules of a file, for :class:`~pyg_atomenc.datasets.StructureDataset`.

    A graph's ``source`` is its entry, such as ``"entry 17"``, counted from 1, ``name``
    the entry's title, and ``y`` ``[1, L]`` its labels, if some are asked for. Hydrogens
    are those of the file; positions, if it is not flat, are read.

    Args:
        path (str or os.PathLike): The file: ``.sdf``, ``.sd``, ``.mol`` or ``.mol2``,
            each also with ``.gz``. A MOL2 file needs Corina's types and all hydrogens.
        labels (str or sequence): Which properties of an SDF become ``y``, float32; one
            that an entry lacks is NaN. (default: none)
        limits (Limits, optional): What the file may hold. (default: ``Limits()``)
        **options: As for :func:`~pyg_atomenc.io.from_rdmol`: ``conformer``.

    Raises:
        ValueError: If the file cannot be read, holds no entry or is of another kind.
    """

    def __init__(
        self, path: PathLike, labels: Union[str, Sequence[str]] = (), *,
        limits: Optional[Limits] = None, **options: Any,
    ) -> None:  # fmt: skip
        file = Path(path)
        self._labels = [labels] if isinstance(labels, str) else list(labels)
        self._reading = check_options(from_rdmol, options)
        self.options = {"labels": self._labels, **options}
        name = file.name.lower().removesuffix(".gz")
        kind = f"ends in none of {SUFFIXES}. Rename it."
        check_file(file, name.endswith(SUFFIXES), kind)
        content = read_bytes(file, limits or Limits())
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError:
            # Older programs write names and properties in it.
            text = content.decode("latin-1")
        text = re.sub("\r\n?", "\n", text)
        self._is_mol2 = name.endswith(".mol2")
        # In MOL2, what stands before the first is a comment.
        mark = r"(?m)^(?=@<TRIPOS>MOLECULE)" if self._is_mol2 else r"(?m)^\$\$\$\$.*\n?"
        entries = re.split(mark, text)[1 if self._is_mol2 else 0 :]
        self._entries = entries if entries and entries[-1].strip() else entries[:-1]
        self.names = [f"entry {i}" for i in range(1, len(self._entries) + 1)]
        check_file(file, self._entries, "holds no molecule. Check its kind.")
        there = {name for entry in self._entries for name in _PROPERTY.findall(entry)}
        for label in self._labels:
            why = f"has no property {label!r} in any entry, but {listed(sorted(there))}"
            check_file(file, label in there, f"{why}. Check 'labels'.")

    def stamp(self, index: int) -> str:
        """What tells the entry from any other."""
        return hashlib.blake2b(self._entries[index].encode()).hexdigest()

    def read(self, index: int, tokenizer: Optional[Tokenizer] = None) -> Any:
        """The graph of an entry, in a list."""
        parse, start = partial(self._parse, self._entries[index]), "RDKit refuses it"
        mol = parsed(parse, start, "it is no such entry", "Mend the entry.")
        # The format knows no radicals, and RDKit adds no hydrogens to it.
        if self._is_mol2 and any(a.GetNumRadicalElectrons() for a in mol.GetAtoms()):
            raise AtomEncodingError("it lacks hydrogens, which MOL2 needs: add them.")
        data = from_rdmol(mol, tokenizer, **self._reading)
        names = ("_Name", *self._labels)
        data.name, *labels = (mol.GetProp(n) if mol.HasProp(n) else "" for n in names)
        return [named(data, self.names[index], labels)]

    def _parse(self, entry: str, sanitize: bool = True) -> Any:
        chem = require_package("rdkit.Chem", "molecule files")
        if self._is_mol2:
            return chem.MolFromMol2Block(entry, sanitize, removeHs=False)
        # RDKit would leave out all but the first without a word.
        count = entry.count("\nM  END")
        check(count <= 1, f"it holds {count} molecules: part them by $$$$.")
        supplier = chem.SDMolSupplier()
        supplier.SetData(f"{entry}\n$$$$\n", sanitize=sanitize, removeHs=False)
        return supplier[0] if len(supplier) else None


def from_sdf(
    path: PathLike, tokenizer: Optional[Tokenizer] = None, *,
    on_error: str = "skip", **options: Any,
) -> list[AtomTokenData]:  # fmt: skip
    """Read all molecules of an SDF, MOL or MOL2 file, also gzipped.

    Args:
        path (str or os.PathLike): The file.
        tokenizer (callable, optional): As for :func:`from_rdmol`. (default: ``BRICS``)
        on_error (str): ``"skip"`` entries that cannot be read, with one warning that
            tells their numbers and reasons, or ``"raise"``. (default: ``"skip"``)
        **options: As for :class:`~pyg_atomenc.datasets.MoleculeFile`: ``labels`` etc.

    Returns:
        list: The graph of each entry, as from :func:`from_rdmol`, with ``source``, such
        as ``"entry 3"``, ``name``, and ``y`` where there are labels.

    Raises:
        ValueError: If the file, all entries, or with ``"raise"`` one cannot be read.
        ImportError: If RDKit is not installed.
    """
    check_choice("on_error", on_error, ("skip", "raise"))
    file, graphs, bad = MoleculeFile(path, **options), [], []
    for index, name in enumerate(file.names):
        try:
            graphs += file.read(index, tokenizer)
        except ValueError as error:
            bad.append(f"{name}: {error}")
    if bad:
        count = f"{len(bad)} of {len(file.names)} molecules cannot be read."
        text = "\n".join([f"{path}: {count}", *bad])
        if on_error == "raise" or not graphs:
            raise FileFormatError(text)
        warnings.warn(text, stacklevel=2)
    return graphs


from_mol2 = from_sdf
"""As :func:`from_sdf`, whose files may be MOL2, too."""
