"""What two workdirs of the same run differ in: `python -m comparing WHOLE OTHER` prints a line per difference.

Only what is measured in seconds may differ, and what is drawn from it. The readers here are independent of the
project's own, where that is possible.
"""

import csv
import json
import re
import struct
import sys
import zlib
from collections import Counter
from pathlib import Path

import numpy as np

TIMINGS = ("train_seconds", "steps_per_second", "search_seconds", "seconds")
# Pages and plots show seconds; config.json says which machine has begun; crc32 covers the seconds of its line.
DRAWN = r"(^|/)(plots/|report\.html$|config\.json$|checksums\.json$)"
COUNTED = re.compile(r"(^|/)snapshots/(last|search)(/|$)")  # Numbered by the saves, which a kill adds to.
MARKERS = ("_METADATA", "manifest.ocdbt")
LEFTOVER = re.compile(r"(^|/)\.|orbax-checkpoint-tmp|\.tmp(\b|-)|\.(new|old)(/|$)")


def differences(whole: Path, other: Path) -> list[str]:
    """One line per difference between two finished workdirs, and per leftover in the second one."""
    found = [f"{name}: left over" for name in _names(other) if LEFTOVER.search(name)]
    snapshots = [_snapshots(path) for path in (whole, other)]
    for name in sorted(set(snapshots[0]) ^ set(snapshots[1])):
        found.append(f"{name}: only in {'the first' if name in snapshots[0] else 'the second'}")
    for name in sorted(set(snapshots[0]) & set(snapshots[1])):
        found += [f"{name}: {line}" for line in _trees(snapshots[0][name], snapshots[1][name])]
    names = [_plain(path) for path in (whole, other)]
    for name in sorted(names[0] ^ names[1]):
        found.append(f"{name}: only in {'the first' if name in names[0] else 'the second'}")
    for name in sorted(names[0] & names[1]):
        first, second = whole / name, other / name
        if re.search(DRAWN, name):
            continue
        try:
            reader = READERS.get(first.suffix, Path.read_bytes)
            contents = reader(first), reader(second)
            if contents[0] != contents[1]:
                found.append(f"{name}: {_where(*contents)}")
        except Exception as error:  # noqa: BLE001  (a damaged file is a difference)
            found.append(f"{name}: {type(error).__name__}: {error}")
    boards = [tensorboard(path) for path in (whole, other)]
    names = [name for name in {**boards[0], **boards[1]} if name.rpartition("/")[2] not in TIMINGS]
    if curves := [name for name in names if boards[0].get(name) != boards[1].get(name)]:
        example = " and ".join(str(board.get(curves[0])) for board in boards)
        found.append(f"tensorboard: {len(curves)} curves differ, {curves[0]}: {example}"[:300])
    return found


def _names(path):
    return sorted(str(file.relative_to(path)) for file in path.rglob("*"))


def _plain(path):
    """The files that are neither of a snapshot nor of TensorBoard."""
    inside = tuple(f"{folder.relative_to(path)}/" for folder in _folders(path))
    names = (str(file.relative_to(path)) for file in path.rglob("*") if file.is_file())
    return {
        name
        for name in names
        if not name.startswith(inside)
        and not re.search(r"(^|/)tb/", name)
        and not COUNTED.search(name)
        and not LEFTOVER.search(name)
        and "/checksum.json" not in name
    }


def _folders(path):
    return [
        folder for folder in path.rglob("*") if folder.is_dir() and all((folder / name).exists() for name in MARKERS)
    ]


def _snapshots(path):
    """Every Orbax directory by its name; of numbered ones the newest, under the name of the directory above."""
    found = {}
    for folder in sorted(
        _folders(path), key=lambda folder: [int(part) if part.isdigit() else -1 for part in folder.parts]
    ):
        name = str(folder.relative_to(path))
        if LEFTOVER.search(name):
            continue
        if COUNTED.search(name):
            name = re.sub(r"((?:last|search))/\d+.*", r"\1", name)
        found[name] = folder
    return found


def _trees(first, second):
    import jax
    import orbax.checkpoint

    with orbax.checkpoint.StandardCheckpointer() as checkpointer:
        try:
            leaves = [
                jax.tree_util.tree_flatten_with_path(checkpointer.restore(path.resolve()))[0]
                for path in (first, second)
            ]
        except Exception as error:  # noqa: BLE001
            return [f"{type(error).__name__}: {str(error).splitlines()[0]}"]
    trees = [{jax.tree_util.keystr(name): np.asarray(leaf) for name, leaf in found} for found in leaves]
    if trees[0].keys() != trees[1].keys():
        return ["other leaves"]
    return [
        f"{name} differs"
        for name in trees[0]
        if name != "['seconds']"
        and (trees[0][name].dtype, trees[0][name].tobytes()) != (trees[1][name].dtype, trees[1][name].tobytes())
    ]


def _table(path):
    with path.open(newline="") as file:
        return [{name: cell for name, cell in row.items() if name not in TIMINGS} for row in csv.DictReader(file)]


def _lines(path):
    """The rows, sorted by where they belong: their order in the file is that in which they were written."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [{name: value for name, value in row.items() if name not in (*TIMINGS, "crc32")} for row in rows]


def _json(path):
    def untimed(value):
        if isinstance(value, dict):
            return {name: untimed(inner) for name, inner in value.items() if name not in TIMINGS}
        return [untimed(inner) for inner in value] if isinstance(value, list) else value

    return untimed(json.loads(path.read_text()))


def tensors(path: Path) -> dict:
    """The content of a safetensors file: bytes, shape and type of each tensor, and the metadata without seconds."""
    content = path.read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + size])
    metadata = header.pop("__metadata__", {})
    body = content[8 + size :]
    found = {
        name: (entry["dtype"], tuple(entry["shape"]), body[slice(*entry["data_offsets"])])
        for name, entry in header.items()
    }
    if "ticket" in metadata and "about" in found:  # It names the command, and with it the workdir.
        about = json.loads(zlib.decompress(found["about"][2]))
        about["metadata"].pop("command", None)
        found["about"] = json.dumps(about, sort_keys=True)
        metadata = {}  # The format and a checksum, of the command too.
    timings = "|".join(rf"\\*{name}" for name in TIMINGS)
    text = re.sub(rf'"(?:{timings})\\*": ?[0-9.e+-]+', "", json.dumps(metadata))
    return found | {"": re.sub(r"sha256[^,}]*", "", text)}


READERS = {".csv": _table, ".jsonl": _lines, ".json": _json, ".safetensors": tensors}


def _where(first, second):
    """Where two contents differ, in short."""
    if isinstance(first, dict) and isinstance(second, dict):
        names = [name for name in {**first, **second} if first.get(name) != second.get(name)]
        return (
            f"differs in {', '.join(map(repr, names[:4]))}: "
            + f"{first.get(names[0])!r} and {second.get(names[0])!r}"[:300]
        )
    if isinstance(first, list) and isinstance(second, list):
        if len(first) != len(second):
            names = ("seed", "round", "step", "split", "layer")
            keys = [Counter(tuple(row.get(name) for name in names) for row in rows) for rows in (first, second)]
            missing, more = (list(some - others)[:3] for some, others in (keys, keys[::-1]))
            return f"{len(first)} and {len(second)} rows; missing {missing}, more {more}"
        for number, rows in enumerate(zip(first, second, strict=True)):
            if rows[0] != rows[1]:
                return f"row {number}: {_where(*rows)}"
    return "differs"


# TensorBoard.


def tensorboard(path: Path) -> dict[str, list]:
    """`{directory/tag: [(step, value), ...]}` as TensorBoard shows it: a file purges all from its first step on."""
    from google.protobuf.message import DecodeError
    from tensorboardX.proto import event_pb2

    found = {}
    for folder in sorted({file.parent for file in path.rglob("tb/**/events.out.tfevents.*")}):
        points = {}
        for file in sorted(folder.iterdir(), key=lambda file: file.name):
            for record in _records(file.read_bytes()):
                try:
                    event = event_pb2.Event.FromString(record)
                except DecodeError:  # TensorBoard leaves it out.
                    points.setdefault("damaged", []).append((0, file.name))
                    continue
                if event.session_log.status == event_pb2.SessionLog.START:
                    points = {tag: [one for one in of if one[0] < event.step] for tag, of in points.items()}
                for value in event.summary.value:
                    is_number = value.HasField("simple_value")
                    content = value.simple_value if is_number else zlib.crc32(value.image.encoded_image_string)
                    points.setdefault(value.tag, []).append((event.step, content))
        name = str(folder.relative_to(path))
        found |= {f"{name}/{tag}": of for tag, of in points.items() if of}
    return found


def _records(content):
    """The records of a TFRecord file: length, checksum, data, checksum; what a kill has cut short is left out."""
    start = 0
    while start + 12 <= len(content):
        (size,) = struct.unpack("<Q", content[start : start + 8])
        end = start + 12 + size
        if end + 4 > len(content):
            return
        yield content[start + 12 : end]
        start = end + 4


def main() -> int:
    """Prints the differences between two workdirs; the status is 1 if there are any."""
    found = differences(*map(Path, sys.argv[1:3]))
    print(*found, sep="\n", end="")
    return int(bool(found))
