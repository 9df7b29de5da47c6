"""The README.md of a ticket on Hugging Face's hub: a card with metadata."""

import json
import shlex

from jaxtickets.tickets.ticket import Ticket

# Tasks, as the hub names them.
GENERATION, RECONSTRUCTION = "unconditional-image-generation", "image-to-image"


def text(ticket: Ticket, license_: str, name: str, has_picture: bool) -> str:
    """The card: metadata in YAML between two lines of dashes, then what the model is and how it is opened.

    Args:
      license_: the identifier of a license, as the hub knows it.
      name: of the model.
      has_picture: whether `sample.png` lies beside it.
    """
    verdict, config = ticket.metadata.get("verdict") or {}, ticket.metadata.get("config") or {}
    network = (ticket.trained.network if ticket.trained else None) or ticket.network or {}
    model, data = network.get("model", {}).get("name"), (config.get("data") or {}).get("name")
    game, flax = (config.get("objective") or {}).get("name"), "flax" if network else None
    task = GENERATION if has_picture else RECONSTRUCTION if game else None
    about = {
        "library_name": "jaxtickets",
        "license": license_,
        "tags": [tag for tag in ("jax", flax, "lottery-ticket", "pruning", "sparse", game, model) if tag],
        "pipeline_tag": task,
        "metrics": [verdict["metric"]] if verdict.get("metric") else [],
    }
    if data and task and verdict.get("metric"):
        label = verdict.get("metric_label", verdict["metric"])
        value = {"type": verdict["metric"], "name": label, "value": verdict.get("value")}
        result = {"task": {"type": task}, "dataset": {"type": data, "name": data}, "metrics": [value]}
        about["model-index"] = [{"name": name, "results": [result]}]
    # JSON is YAML.
    front = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in about.items() if value]
    lines = ["---", *front, "---", "", f"# {name}", ""]
    what = f"A lottery ticket in {model or 'a network'}" + (f" on {data}" if data else "")
    lines += [f"{what}: {ticket.sparsity:.2%} of its prunable weights are pruned, that is exactly zero.", ""]
    if verdict.get("message"):
        lines += [verdict["message"], ""]
    if has_picture:
        lines += ["![64 samples](sample.png)", ""]
    if ticket.trained is None:
        pictured = "The samples are those of the untrained ticket at its rewind point: " if has_picture else ""
        metric = "; the metric is that of the network that the run has trained from it" if verdict.get("metric") else ""
        lines += [f"{pictured}{'the' if pictured else 'The'} file has no trained weights{metric}.", ""]
    held = "masks, rewind point and trained weights" if ticket.trained else "masks and rewind point"
    lines += [
        "## Files",
        "",
        f"`ticket.safetensors` is the ticket itself: {held} without the pruned ones.",
        *(["`model.safetensors` has the trained weights, dense, each under its path."] if ticket.trained else []),
        "`config.json` has the network, the config of the run and where it comes from.",
        "",
        "```python",
        "import jaxtickets as jt",
        "",
        'ticket = jt.load_ticket("DIRECTORY")  # where these files are'
        if network
        else 'ticket = jt.load_ticket("DIRECTORY", like=params)  # where these files are; parameters of your network',
        *(["images = ticket.sample(64)  # [64, height, width, channels] in [-1, 1]"] if has_picture else []),
        "```",
        "",
    ]
    if config:
        lines += ["`python -m jaxtickets.main --config=retrain.py --workdir=DIR` trains the ticket again.", ""]
    versions, command = ticket.metadata.get("versions") or {}, ticket.metadata.get("command")
    lines += ["## Where it comes from", ""] if versions or command else []
    if versions:
        lines += [", ".join(f"{package} {version}" for package, version in versions.items() if version), ""]
    if command:
        lines += ["```bash", shlex.join(shlex.split(command)), "```", ""]
    for split, digest in (verdict.get("data") or {}).items():
        lines.append(f"- {split} images of `{data}`: SHA-256 `{digest}`")
    return "\n".join(lines).rstrip() + "\n"
