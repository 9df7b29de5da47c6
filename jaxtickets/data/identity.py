"""The identity of a run's data: the digests of its splits, as `config.json` and `verdict.json` keep them."""

from collections.abc import Mapping

from jaxtickets.errors import UserError


def difference(there: Mapping[str, str] | None, here: Mapping[str, str]) -> str:
    """In which splits data differ, in words: `train is 3f0c... there and 91ab... here`; "" for none.

    Args:
      there, here: the digests by split. A split that one side lacks differs in nothing, nor does `None`, which stands
        for a run that an older version has trained.
    """
    return "; ".join(
        f"{split} is {there[split][:12]} there and {digest[:12]} here"
        for split, digest in here.items()
        if there and there.get(split, digest) != digest
    )


def check(there: Mapping[str, str] | None, here: Mapping[str, str], what: str, advice: str) -> None:
    """Refuses data that are not those of another run, or of this one when it began.

    Args:
      there, here: see `difference`.
      what: names the other run and the data, for the message.
      advice: what to do.

    Raises:
      UserError: the data differ.
    """
    if differing := difference(there, here):
        raise UserError(f"{what} was trained on other images or labels: the digest of {differing}; {advice}")
