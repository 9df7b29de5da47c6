"""Tables as Markdown and as LaTeX, from the texts of their cells."""

from collections.abc import Sequence

LATEX = {
    "\\": r"\textbackslash{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"$<$",
    ">": r"$>$",
    "±": r"$\pm$",
    "*": r"$^{*}$",
}


def markdown(header: Sequence[str], lines: Sequence[Sequence[str]], left: Sequence[int] = (0,)) -> str:
    """A table in GitHub's Markdown; the columns `left` are left-aligned, the others right-aligned."""
    rule = [":--" if place in left else "--:" for place in range(len(header))]
    rows = [[_escaped(cell) for cell in line] for line in (header, *lines)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (rows[0], rule, *rows[1:])) + "\n"


def _escaped(cell: str) -> str:
    text = " ".join(cell.split())
    for sign in "\\|*_<`":
        text = text.replace(sign, f"\\{sign}")
    return text


def latex(header: Sequence[str], lines: Sequence[Sequence[str]], left: Sequence[int] = (0,)) -> str:
    """A `tabular` of the package booktabs; the columns `left` are left-aligned, the others right-aligned."""
    columns = "".join("l" if place in left else "r" for place in range(len(header)))
    first, *rows = (f"{' & '.join(map(_latex, line))} \\\\" for line in (header, *lines))
    body = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", first, r"\midrule", *rows, r"\bottomrule"]
    return "\n".join([*body, r"\end{tabular}"]) + "\n"


def _latex(cell: str) -> str:
    return "".join(LATEX.get(sign, sign) for sign in " ".join(cell.split()))


KINDS = {"markdown": ("md", "text/markdown", markdown), "latex": ("tex", "application/x-tex", latex)}
