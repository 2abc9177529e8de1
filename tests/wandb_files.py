"""What Weights & Biases keeps on disk of the runs that are not online."""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

BLOCK = 32768
HEADER = struct.Struct("<IHB")
LAST_PARTS = (1, 4)


class Run(NamedTuple):
    id: str
    name: str
    group: str
    exit_code: int | None
    steps: list[int]


def runs(folder: Path) -> list[Run]:
    """Runs of a folder and those below it, by name; one that was continued is there twice."""
    return sorted(map(_run, folder.rglob("offline-run-*/*.wandb")), key=lambda run: run.name)


def _run(path: Path) -> Run:
    records = _whole(path)
    told = {record.WhichOneof("record_type"): record for record in records}
    rows = [{item.nested_key[0]: item.value_json for item in r.history.item} for r in records]
    steps = [int(row["step"]) for row in rows if "steps/loss" in row]
    code = told["exit"].exit.exit_code if "exit" in told else None
    about = told["run"].run
    return Run(about.run_id, about.display_name, about.run_group, code, steps)


def _whole(path: Path) -> list[Any]:
    """Its records, when the last of them is there: it is written a moment after the run is finished."""
    for _ in range(100):
        records = list(_records(path))
        if records and records[-1].WhichOneof("record_type") == "exit":
            break
        time.sleep(0.1)
    return records


def _records(path: Path) -> Iterator[Any]:
    """Protocol buffers in a log of LevelDB: blocks of parts, each after its checksum, length and kind."""
    from wandb.proto import wandb_internal_pb2

    data, place, record = path.read_bytes(), len(":W&B") + 3, b""
    while place + HEADER.size <= len(data):
        if BLOCK - place % BLOCK < HEADER.size:
            place += BLOCK - place % BLOCK
            continue
        _, length, kind = HEADER.unpack_from(data, place)
        record += data[place + HEADER.size : place + HEADER.size + length]
        place += HEADER.size + length
        if kind in LAST_PARTS:
            yield wandb_internal_pb2.Record.FromString(record)
            record = b""
