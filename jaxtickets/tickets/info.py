"""What a ticket file holds, for the eye and as JSON; and whether it is intact."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from jaxtickets import masks as mask_lib
from jaxtickets.errors import DamagedError
from jaxtickets.tables import aligned, wrapped
from jaxtickets.tickets import content as content_lib

OF_RUNS = ("row", "features", "command", "versions", "devices", "cpu_count", "git_revision")
LONGEST = 200  # characters of a value of the metadata


def facts(path: str | os.PathLike) -> dict[str, Any]:
    """What a ticket file says of itself, as JSON values.

    Raises:
      UserError: the file is missing or is no ticket.
      DamagedError: it is not what was written.
    """
    path = content_lib.place_of(path)
    with content_lib.reading(path):
        found = content_lib.read(path)
        weights = sum(int(mask.size) for mask in found.masks.values())
        kept = sum(int(np.count_nonzero(mask)) for mask in found.masks.values())
        own = {name: leaf for name, leaf in found.leaves.items() if f"{name}/".startswith("params/")}
        parameters = sum(int(np.size(leaf)) for leaf in own.values())
        metadata = found.metadata
        verdict = metadata.get("verdict") if isinstance(metadata.get("verdict"), dict) else {}
        step = found.leaves.get("step")
        return {
            "file": str(path),
            "bytes": path.stat().st_size,
            "bytes_of": _parts(found, path.stat().st_size),
            "format": found.format,
            "sparsity": 1 - kept / weights if weights else 0.0,
            "weights": weights,
            "kept": kept,
            "parameters": parameters,
            "parameters_kept": parameters - weights + kept,
            "network": found.trained or found.network,
            "has_trained_weights": found.trained is not None,
            "has_moments": found.has_moments,
            "step": None if step is None else int(step),
            "layers": [_layer(name, leaf, found) for name, leaf in own.items() if name in found.masks],
            "metric": {name: verdict.get(name) for name in ("metric", "value", "dense", "better", "tolerance")},
            "verdict": verdict.get("message"),
            "round": verdict.get("winning_round"),
            "data": verdict.get("data"),
            "config": metadata.get("config"),
            **{name: metadata.get(name) for name in OF_RUNS},
            "metadata": {
                name: value for name, value in metadata.items() if name not in ("config", "verdict", *OF_RUNS)
            },
        }


# The parts of a file, by what the name of an array begins with.
PARTS = {
    "rewind_point": ("params", "batch_stats", "step", "seed"),
    "trained_weights": ("trained",),
    "moments": content_lib.MOMENTS,
}


def _parts(found, size):
    """`{part: bytes}`, which add up to the size of the file; None for the formats of older versions."""
    if not found.sizes:
        return None
    parts = {"masks": -(-sum(int(mask.size) for mask in found.masks.values()) // 8)}
    for part, trees in PARTS.items():
        parts[part] = sum(own for name, own in found.sizes.items() if name.partition("/")[0] in trees)
    return parts | {"names_and_metadata": size - sum(parts.values())}


def _layer(name, leaf, found):
    mask, axes = found.masks[name], found.axes.get(name)
    return {
        "layer": name.removeprefix("params/"),
        "shape": list(leaf.shape),
        "weights": int(mask.size),
        "kept": int(np.count_nonzero(mask)),
        "axes": axes,
    }


def summary(about: dict[str, Any]) -> str:
    """The text for `facts`."""
    network, metric, config = about["network"], about["metric"], about["config"]
    lines = [f"{about['file']}: {about['format']}, {about['bytes']:,} bytes"]
    of_round = "" if about["round"] is None else f"round {about['round']} of its run, "
    pruned = f"{about['sparsity']:.2%} of {about['weights']:,} prunable weights pruned"
    lines.append(f"ticket: {of_round}{pruned}; {about['parameters_kept']:,} of {about['parameters']:,} parameters left")
    if network:
        model = network["model"]
        sizes = f"width {model.get('width')}, {model.get('latent_size')} latents"
        images = f"{model.get('image_size')}x{model.get('image_size')}x{network['channels']}"
        lines.append(f"network: {model['name']}, {sizes}, images of {images}")
        if counts := {name: own for name, own in (model.get("channels") or {}).items() if own}:
            named = [f"{component}/{name} {count}" for component, own in counts.items() for name, count in own.items()]
            lines.append(f"channels: {', '.join(named)}")
    if parts := about["bytes_of"]:
        told = [f"{part.replace('_', ' ')} {own:,}" for part, own in parts.items()]
        lines.append(f"bytes: {', '.join(told)}")
    lines.append(f"trained weights: {'yes' if about['has_trained_weights'] else 'no'}")
    if about["step"] is not None:
        moments = "are in the file" if about["has_moments"] else "there are those of its dense run"
        lines.append(f"rewind point: step {about['step']}; the optimiser's moments {moments}")
    if metric["metric"]:
        value, dense = ("-" if metric[name] is None else f"{metric[name]:.4g}" for name in ("value", "dense"))
        lines.append(f"metric: {metric['metric']} {value}, of the dense network {dense} ({metric['better']} is better)")
    if about["verdict"]:
        lines.append(f"verdict: {about['verdict']}")
    if config:
        name, digests = (config.get("data") or {}).get("name"), about["data"] or {}
        told = ", ".join(f"{split} {digest[:12]}" for split, digest in digests.items())
        lines.append(f"data: {name}{f' ({told})' if told else ''}; seed {config.get('seed')}")
    if versions := about["versions"]:
        lines.append(f"made with: {', '.join(f'{name} {one}' for name, one in versions.items() if one)}")
    if about["command"]:
        lines.append(f"command: {about['command']}")
    for name, value in about["metadata"].items():
        text = json.dumps(value, ensure_ascii=False)
        lines.append(f"{name}: {text if len(text) <= LONGEST else f'{text[:LONGEST]}...'}")
    cells = [
        [
            layer["layer"],
            "x".join(map(str, layer["shape"])),
            f"{layer['weights']:,}",
            f"{layer['kept']:,}",
            _share(layer),
        ]
        for layer in about["layers"]
    ]
    table = aligned(["layer", "shape", "weights", "kept", "sparsity %"], cells, left=(0, 1))
    return f"{wrapped(lines)}\n\n{table}"


def _share(layer):
    return f"{100 * (1 - layer['kept'] / layer['weights']):.2f}" if layer["weights"] else "-"


def verify(paths: list[Path]) -> tuple[list[str], bool]:
    """`(lines, whether all is well)`: each file is read, its checksum and its structure compared; several are nested.

    Of several tickets of one network, each must keep only what the less sparse ones keep.

    Raises:
      UserError: a file is missing or is no ticket.
    """
    lines, is_well, whole = [], True, {}
    for path in map(content_lib.place_of, paths):
        try:
            with content_lib.reading(path):
                found = content_lib.read(path)
                found.tree("params"), found.tree("batch_stats"), found.tree("trained"), found.mask_tree()
        except DamagedError as error:
            lines.append(str(error))
            is_well = False
            continue
        whole[path] = found.masks
        has = "trained weights" if found.trained is not None else "no trained weights"
        kept = mask_lib.counts(found.masks)
        unchecked = ", of a format without a checksum" if found.format.endswith(" 1") else ""
        lines.append(f"{path}: intact{unchecked}; {kept.kept:,} of {kept.weights:,} weights kept, {has}")
    denser, last = {}, None  # The ticket before, of each network by its shapes, and of any.
    for path, masks in sorted(whole.items(), key=lambda item: -mask_lib.counts(item[1]).kept):
        shapes = frozenset((name, mask.shape) for name, mask in masks.items())
        if above := denser.get(shapes):
            is_nested = mask_lib.is_nested(masks, whole[above])
            lines.append(f"{path}: {'nested' if is_nested else 'not nested'} in {above}")
            is_well &= is_nested
        elif last:
            lines.append(f"{path}: of another network than {last}; not compared")
        denser[shapes] = last = path
    return lines, is_well
