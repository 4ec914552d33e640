"""What the trackers' clients leave on the disk, read back: `(x, name) -> value`, and the settings they were handed."""

from __future__ import annotations

import csv
import json
import sqlite3
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

Numbers = dict[tuple[float, str], float]
BLOCK = 32_768  # of the log format that W&B's file has: records do not cross a block, fragments of them do
FULL, LAST = 1, 4


def metrics_csv(run: Path) -> Numbers:
    """The local record, by samples; with the number of updates as `step`, as trackers get it."""
    found: Numbers = {}
    with (run / "metrics.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            found[float(row["samples"]), row["name"]] = float(row["value"])
            found[float(row["samples"]), "step"] = float(row["step"])
    return found


def tensorboard(run: Path) -> tuple[Numbers, dict[str, Any]]:
    """Read with TensorBoard's own reader."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0, "tensors": 0})
    events.Reload()
    tags = events.Tags()
    numbers = _once(
        [((float(event.step), tag), event.value) for tag in tags["scalars"] for event in events.Scalars(tag)]
    )
    (text,) = events.Tensors("config/text_summary")
    return numbers, yaml.safe_load(text.tensor_proto.string_val[0].decode())


def wandb(run: Path) -> tuple[Numbers, dict[str, Any], dict[str, str]]:
    """Read with W&B's own message types; also project, entity and name of its run, which may be in several files."""
    from wandb.proto.wandb_internal_pb2 import Record

    numbers: list[tuple[tuple[float, str], float]] = []
    config: dict[str, Any] = {}
    about: dict[str, str] = {}
    ids = set()
    files = sorted((run / "wandb").glob("offline-run-*/*.wandb"))
    for data in (record for file in files for record in _records(file.read_bytes())):
        record = Record.FromString(data)
        if record.HasField("run"):
            ids.add(record.run.run_id)
            config |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
            about = {"project": record.run.project, "entity": record.run.entity, "name": record.run.display_name}
        if record.HasField("history"):
            row = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
            numbers += [((row["samples"], name), value) for name, value in row.items()
                        if name != "samples" and not name.startswith("_")]  # fmt: skip
    config.pop("_wandb", None)
    assert len(ids) == 1
    return _once(numbers), config, about


def neptune(run: Path) -> tuple[Numbers, dict[str, Any], str]:
    """Read the offline queues of operations; also the name of its run, which may be in several."""
    numbers: list[tuple[tuple[float, str], float]] = []
    config: dict[str, Any] = {}
    name = ""
    files = sorted((run / "neptune" / "offline").glob("*/data-1.log"))
    text = "".join(file.read_text(encoding="utf-8") for file in files)
    decoder, place = json.JSONDecoder(), 0
    while place < len(text):
        entry, place = decoder.raw_decode(text, place)
        place += len(text[place:]) - len(text[place:].lstrip())
        for operation in entry["obj"].get("operations", [entry["obj"]]):
            path = "/".join(operation["path"])
            if operation["type"] == "LogFloats":
                numbers += [((item["step"], path), item["value"]) for item in operation["values"]]
            elif path.startswith("config/"):
                config[path.removeprefix("config/").replace("/", ".")] = operation["value"]
            elif path == "sys/name":
                name = operation["value"]
    return _once(numbers), config, name


def mlflow(run: Path) -> tuple[Numbers, dict[str, str], tuple[str, str]]:
    """Read the sqlite store with sqlite; also name and state of its run."""
    with sqlite3.connect(run / "mlflow" / "mlflow.db") as store:
        rows = store.execute("select step, key, value, is_nan from metrics").fetchall()
        numbers = _once([((float(step), key), float("nan") if bad else value) for step, key, value, bad in rows])
        config = dict(store.execute("select key, value from params").fetchall())
        (about,) = store.execute("select name, status from runs").fetchall()
    store.close()
    return numbers, config, about


def _once(numbers: list[tuple[tuple[float, str], float]]) -> Numbers:
    """The numbers by place and name, each sent once; how many updates there were may come with each part of them."""
    found = dict(numbers)
    sent = [key for key, _ in numbers if key[1] != "step"]
    assert len(sent) == len({key for key in found if key[1] != "step"})
    return found


def _records(data: bytes) -> Iterator[bytes]:
    """Records of a leveldb log, which starts with seven bytes of W&B's own."""
    place, whole = 7, b""
    while place + 7 <= len(data):
        left = BLOCK - place % BLOCK
        if left < 7:
            place += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, place)
        whole += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (FULL, LAST):
            yield whole
            whole = b""
