"""Tables of words for the terminal, for Markdown and for LaTeX, whatever the words are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pesloss.names import visible

WIDE = 40
"""Characters from which on a column of a LaTeX table is broken into lines."""

_COMMANDS = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    **{sign: f"\\{sign}" for sign in "{}$&#_%"},
    "Å": r"\AA{}",
}
_SYMBOLS = {
    "²": "^2", "³": "^3", "½": r"\tfrac12", "·": r"\cdot", "×": r"\times", "−": "-",
    "√": r"\surd", "∞": r"\infty", "≤": r"\le", "≥": r"\ge", "∂": r"\partial", "∫": r"\int", "‖": r"\|",
    "⟨": r"\langle", "⟩": r"\rangle", "∝": r"\propto", "↑": r"\uparrow", "↓": r"\downarrow", "ᵀ": r"^\top",
    "ᵢ": "_i", "ⱼ": "_j", "ₖ": "_k", "₀": "_0", "₁": "_1", "₂": "_2", "ŷ": r"\hat y", "→": r"\to",
    "∈": r"\in", "≈": r"\approx", "±": r"\pm", "∇": r"\nabla",
}  # fmt: skip
_GREEK = {
    "α": "alpha", "β": "beta", "γ": "gamma", "δ": "delta", "ε": "varepsilon", "η": "eta", "θ": "theta",
    "λ": "lambda", "μ": "mu", "ν": "nu", "π": "pi", "ρ": "rho", "σ": "sigma", "τ": "tau", "φ": "varphi",
    "ω": "omega", "Γ": "Gamma", "Δ": "Delta", "Σ": "Sigma", "Φ": "Phi", "Ω": "Omega",
}  # fmt: skip
LATEX = {
    **_COMMANDS,
    **{sign: f"${words}$" for sign, words in _SYMBOLS.items()},
    **{letter: f"$\\{name}$" for letter, name in _GREEK.items()},
}
"""What stands for a character in LaTeX; none of them can begin a command of the text's own."""


@dataclass(frozen=True)
class Section:
    """One table.

    Args:
        title: what it is about.
        columns: their names; empty ones, if the rows speak for themselves.
        rows: a word or number for each column.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def text(section: Section) -> str:
    """For the terminal: columns side by side."""
    rows = [section.columns, *section.rows] if any(section.columns) else list(section.rows)
    cells = [[_cell(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in cells]
    return "\n".join([_cell(section.title), *(f"  {line}" for line in lines)])


def markdown(section: Section) -> str:
    """For notes and web pages."""
    rows = [section.columns, ["---"] * len(section.columns), *section.rows]
    lines = ["| " + " | ".join(map(_markdown_cell, row)) + " |" for row in rows]
    return "\n".join([f"**{_markdown_cell(section.title)}**", "", *lines])


def latex(section: Section) -> str:
    """For a paper, with the packages amsmath and booktabs."""
    columns = zip(section.columns, *section.rows, strict=True)
    widths = [max(map(len, column)) for column in columns]
    form = "".join(r"p{0.35\linewidth}" if width > WIDE else "l" for width in widths)
    head = [_latex_row(section.columns), r"\midrule"] if any(section.columns) else []
    lines = [
        r"\begin{table}",
        f"\\caption{{{_latex_cell(section.title)}}}",
        f"\\begin{{tabular}}{{{form}}}",
        r"\toprule",
        *head,
        *map(_latex_row, section.rows),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines)


FORMATS: Mapping[str, Callable[[Section], str]] = {"text": text, "markdown": markdown, "latex": latex}


def _latex_row(row: Sequence[str]) -> str:
    return " & ".join(map(_latex_cell, row)) + r" \\"


def _latex_cell(words: str) -> str:
    return "".join(LATEX.get(character, character) for character in _cell(words))


def _markdown_cell(words: str) -> str:
    return "".join(f"\\{c}" if c in "\\`*_{}[]<>|#~$" else c for c in _cell(words))


def _cell(words: str) -> str:
    return " ".join(visible(words).split("\n"))
