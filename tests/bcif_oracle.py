"""BinaryCIF decoded by a loop over its encodings, straight from the specification."""

from collections import Counter

import msgpack
import numpy as np

DTYPES = {1: "i1", 2: "<i2", 3: "<i4", 4: "u1", 5: "<u2", 6: "<u4", 32: "<f4",
          33: "<f8"}  # fmt: skip


def decode(data, steps):
    for step in reversed(steps):
        kind = step["kind"]
        if kind == "ByteArray":
            data = np.frombuffer(data, DTYPES[step["type"]]).tolist()
        elif kind == "FixedPoint":
            data = [value / step["factor"] for value in data]
        elif kind == "Delta":
            total, out = step["origin"], []
            for value in data:
                total += value
                out.append(total)
            data = out
        elif kind == "RunLength":
            data = [v for v, n in zip(data[::2], data[1::2], strict=True)
                    for _ in range(n)]  # fmt: skip
            assert len(data) == step["srcSize"]
        elif kind == "IntegerPacking":
            bits = 8 * step["byteCount"]
            high = 2**bits - 1 if step["isUnsigned"] else 2 ** (bits - 1) - 1
            low = None if step["isUnsigned"] else -(2 ** (bits - 1))
            total, out = 0, []
            for value in data:
                total += value
                if value not in (high, low):
                    out.append(total)
                    total = 0
            data = out
            assert len(data) == step["srcSize"]
        elif kind == "StringArray":
            ends = decode(step["offsets"], step["offsetEncoding"])
            text = step["stringData"]
            words = [text[a:b] for a, b in zip(ends[:-1], ends[1:], strict=True)]
            data = [words[i] if i >= 0 else "" for i in
                    decode(data, step["dataEncoding"])]  # fmt: skip
        else:
            raise ValueError(kind)
    return data


def atoms_of_bcif(content):
    """Rows of (chain, number, ins, residue, atom, element, position), one location."""
    (block,) = msgpack.unpackb(content)["dataBlocks"]
    (table,) = (c for c in block["categories"] if c["name"].lstrip("_") == "atom_site")
    columns = {}
    for column in table["columns"]:
        values = decode(column["data"]["data"], column["data"]["encoding"])
        if column["mask"] is not None:
            mask = decode(column["mask"]["data"], column["mask"]["encoding"])
            values = [None if m else v for v, m in zip(values, mask, strict=True)]
        assert len(values) == table["rowCount"]
        columns[column["name"]] = values

    def either(name):
        author, label = (
            columns.get(f"{key}_{name}", [None] * table["rowCount"])
            for key in ("auth", "label")
        )
        return [b if a is None else a for a, b in zip(author, label, strict=True)]

    rows = zip(
        either("asym_id"), either("seq_id"), columns["pdbx_PDB_ins_code"],
        either("comp_id"), either("atom_id"), columns["type_symbol"],
        columns["Cartn_x"], columns["Cartn_y"], columns["Cartn_z"],
        columns.get("label_alt_id", [None] * table["rowCount"]),
        columns.get("occupancy", [1.0] * table["rowCount"]),
        columns.get("pdbx_PDB_model_num", [1] * table["rowCount"]),
        strict=True,
    )  # fmt: skip
    rows = list(rows)
    rows = [row for row in rows if row[-1] == rows[0][-1]]
    weight = Counter()
    for *place, altloc, occupancy, _ in rows:
        if altloc:
            weight[(*place[:3], altloc)] += occupancy or 0.0
    best = {}
    for (*place, altloc), total in weight.items():
        if total > best.get(tuple(place), ("", -1.0))[1] + 1e-6:
            best[tuple(place)] = altloc, total
    return [
        (
            chain,
            int(number or 0),
            (ins or "").strip(),
            residue,
            name,
            element.upper(),
            float(x),
            float(y),
            float(z),
        )
        for chain, number, ins, residue, name, element, x, y, z, altloc, _, _ in rows
        if not altloc or altloc == best[chain, number, ins][0]
    ]
