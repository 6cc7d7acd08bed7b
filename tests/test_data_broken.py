"""Files with random damage: they read, or one clear line says why not; never another exception."""

import random

import numpy as np
import pytest
from archive_rows import DEPTH_HEADER, KLINE_HEADER, kline, put, snapshot, text
from test_data_venues import FILES

from tailrisk._fields import InputError
from tailrisk.data import read
from tailrisk.data.quality import examine

pytest.importorskip("pyarrow")
WHOLE = [
    *((name, content) for name, content, _ in FILES),
    *((name, text(KLINE_HEADER, [kline(i) for i in range(5)])) for name in ("a.csv", "a.csv.gz", "a.zip")),
    ("a.csv", text(DEPTH_HEADER, [row for i in range(2) for row in snapshot(30 * i, 100.0 + i)])),
]
PIECES = [
    b"",
    b"nan",
    b"inf",
    b"-1",
    b"1e400",
    b"9" * 30,
    b",",
    b"\n",
    b'"',
    b"\xff",
    b"\0",
    b"null",
    b"[]",
    b"{}",
    b" ",
    b"0",
]
PIECES += [b"true", b"2025-10-10", b"-", b'{"d":5}\n', b"[1]", b'{"result":[]}', b"1e-320", b"18446744073709551616"]


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.filterwarnings("error")
def test_damage_is_named(tmp_path, seed):
    """Cuts, swaps and insertions at random places of every format; an error names the file."""
    chance, said = random.Random(seed), []
    with np.errstate(all="raise", under="ignore"):
        for _ in range(100):
            name, content = chance.choice(WHOLE)
            raw = bytearray(put(tmp_path, name, content).read_bytes())
            for _ in range(chance.choice([1, 1, 2, 5])):
                start = chance.randrange(len(raw) + 1)
                raw[start : start + chance.choice([0, 1, 3, 10, 40])] = chance.choice(PIECES)
                raw = raw[: start if chance.random() < 0.15 else None]
            (tmp_path / name).write_bytes(raw)
            try:
                examine(read(tmp_path / name))
            except InputError as error:
                said.append(str(error))
    assert 20 < len(said) < 100
    assert all(line.startswith(str(tmp_path)) for text in said for line in text.splitlines())
