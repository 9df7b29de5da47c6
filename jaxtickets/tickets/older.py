"""Ticket files of older formats, read as `content.Content`; workdirs of older versions have them."""

from jaxtickets import masks as mask_lib
from jaxtickets import tensor_files
from jaxtickets import trained as trained_lib
from jaxtickets.tensor_files import expect

FORMAT = "jaxtickets 2"
WITHOUT_CHECKSUM = "jaxtickets 1"  # Its names are not encoded, and its metadata has several entries.
FIELDS = ("average", "batch_stats", "movement", "opt_state", "params", "seed", "step")


def content_1(arrays, metadata) -> dict:
    """The fields of a `Content` of the first format."""
    parsed = {name: tensor_files.parse(text) for name, text in metadata.items() if name != "format"}
    about = {"format": WITHOUT_CHECKSUM, "metadata": parsed.pop("ticket"), "nodes": {}, "trained": None, **parsed}
    if "trained" in parsed:
        about["trained"] = {**parsed["trained"], "format": trained_lib.WITHOUT_CHECKSUM}
    return content_2(arrays, about)


def content_2(arrays, about) -> dict:
    """The fields of a `Content` of the second format, whose arrays are dense and uncompressed, with a mask for each.

    Raises:
      KeyError, ValueError: the arrays are not those that `about` describes.
    """
    if about.keys() != {"format", "metadata", "nodes", "trained"}:
        raise ValueError(f"its metadata has {', '.join(sorted(about))}")
    metadata, nodes = (expect(about[name], dict, f"`{name}`") for name in ("metadata", "nodes"))
    leaves, bits, own = {}, {}, {}
    for name, array in arrays.items():
        tree, _, rest = name.partition("/")
        if tree not in ("masks", "trained", *FIELDS):
            raise ValueError(f"there is an array {name} too many")
        (bits if tree == "masks" else own if tree == "trained" else leaves)[
            rest if tree in ("masks", "trained") else name
        ] = array
    if strange := {name for name in bits if f"params/{name}" not in leaves}:
        raise ValueError(f"there is a mask of {min(strange)} and no parameter")
    masks = {
        f"params/{name}": mask_lib.unpack_leaf(array, leaves[f"params/{name}"].shape) for name, array in bits.items()
    }
    network = None
    if about["trained"] is not None:
        found = trained_lib.unpack(own, expect(about["trained"], dict, "`trained`"))
        trees = {"trained": {"params": found.params, "batch_stats": found.batch_stats}}
        leaves |= tensor_files.named(trees)
        nodes = nodes | tensor_files.nodes(trees)
        network = found.network
    elif own:
        raise ValueError("there are trained weights too many")
    return {
        **{"format": about["format"], "leaves": leaves, "masks": masks, "nodes": nodes, "axes": {}},
        **{"metadata": metadata, "network": None, "trained": network, "sizes": {}},
    }
