"""mmCIF and BinaryCIF files → biotite's `AtomArray`."""

import io
from collections.abc import Sequence
from typing import Any, Optional

import numpy as np

from pyg_atomenc.errors import AtomEncodingError, require_package
from pyg_atomenc.io.altloc import NO_ALTLOC, choose_altloc
from pyg_atomenc.io.limits import Limits, check_encoded_sizes

_LABELS = ("label_asym_id", "label_seq_id")
# What biotite reads beside the atoms; of a file with alternate locations all else goes.
_CATEGORIES = (
    "struct_conn",
    "chem_comp_bond",
    "pdbx_struct_assembly",
    "pdbx_struct_assembly_gen",
    "pdbx_struct_oper_list",
)


class CifDocument:
    """A parsed mmCIF or BinaryCIF file.

    Args:
        content (bytes): The file.
        binary (bool): Whether it is BinaryCIF.
        limits (Limits): Of which the number of atoms is checked before they are made.
    """

    def __init__(self, content: bytes, binary: bool, limits: Limits) -> None:
        self.pdbx = require_package("biotite.structure.io.pdbx", "from_structure")
        if binary:
            msgpack = require_package("msgpack", "BinaryCIF")
            raw = msgpack.unpackb(content, use_list=True, raw=False)
            # Other categories, such as anisotropic factors, have rows like atoms.
            check_encoded_sizes(raw, 16 * limits.atoms)
            self.block = self.pdbx.BinaryCIFFile.deserialize(raw).block
        else:
            text = content.decode("utf-8")
            _check_complete(text)
            self.block = self.pdbx.CIFFile.read(io.StringIO(text)).block
        self.site = self.block["atom_site"]
        for name in ("Cartn_x", "Cartn_y", "Cartn_z"):
            _check_present(self.site, name)

    @property
    def num_atoms(self) -> int:
        """The rows of ``atom_site``: the atoms of all models and locations."""
        return len(self.site["Cartn_x"])

    @property
    def num_models(self) -> int:
        """How many models there are."""
        return self.pdbx.get_model_count(self.block)

    @property
    def assemblies(self) -> dict[str, str]:
        """The biological assemblies by their ids."""
        if "pdbx_struct_assembly" not in self.block:
            return {}
        return {
            str(k): str(v) for k, v in self.pdbx.list_assemblies(self.block).items()
        }

    def read(self, model: int, assembly: Optional[str], fields: Sequence[str]) -> Any:
        """One model, or an assembly of it, with one location per residue.

        Args:
            model (int): Which model, from 1.
            assembly (str, optional): Which assembly.
            fields (sequence): What to read beside the usual annotations.

        Returns:
            biotite.structure.AtomArray: With bonds, and with ``label_asym_id`` and
            ``label_seq_id`` where the file has them.
        """
        fields = [*fields, *(name for name in _LABELS if name in self.site)]
        block = self._one_location(model)
        read = self.pdbx.get_structure
        options: dict[str, Any] = {"model": model if block is self.block else 1}
        if assembly is not None:
            read, options["assembly_id"] = self.pdbx.get_assembly, assembly
        return read(block, extra_fields=fields, include_bonds=True, **options)

    def _one_location(self, model: int) -> Any:
        """The block, or if it has alternate locations, one of the chosen rows alone."""
        site = self.site
        altlocs = site.get("label_alt_id")
        ids = altlocs.as_array(str) if altlocs is not None else np.array(["."])
        if np.isin(ids, NO_ALTLOC).all():
            return self.block
        # Bonds come with locations already chosen only: choose, then read again.
        atoms = self.pdbx.get_structure(
            self.block, model=model, altloc="all", extra_fields=["occupancy"]
        )
        numbers = site["pdbx_PDB_model_num"].as_array(int)
        _, first = np.unique(numbers, return_index=True)
        rows = np.flatnonzero(numbers == numbers[np.sort(first)[model - 1]])
        chosen = rows[choose_altloc(atoms)]
        names = set(site)
        if not np.char.isalpha(ids[~np.isin(ids, NO_ALTLOC)]).all():
            # biotite drops every location that is not named by a letter.
            names.discard("label_alt_id")
        others = {name: self.block[name] for name in _CATEGORIES if name in self.block}
        return type(self.block)({"atom_site": _rows(site, names, chosen), **others})


def _check_present(site: Any, name: str) -> None:
    """A '?' or '.' in place of a coordinate would be read as 0."""
    mask = site[name].mask
    if mask is not None and (mask.array != 0).any():
        row = int((mask.array != 0).argmax())
        raise AtomEncodingError(f"no value for {name} in row {row} of atom_site")


def _check_complete(text: str) -> None:
    """An entry of the archive closes its categories with '#', its atoms as well."""
    start = text.find("\n_atom_site.")
    before, rest = text[: max(start, 0)], text[max(start, 0) :]
    if "\n_entry.id" in before and "\n#" in before and "\n#" not in rest:
        raise AtomEncodingError("it ends within its atoms")


def _rows(category: Any, names: set[str], rows: Any) -> Any:
    column = type(category).subcomponent_class()
    data = column.subcomponent_class()
    kept = {}
    for name in names:
        values, mask = category[name].data, category[name].mask
        masked = None if mask is None else data(mask.array[rows])
        kept[name] = column(data(values.array[rows]), masked)
    return type(category)(kept)
