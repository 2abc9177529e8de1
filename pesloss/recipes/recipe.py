"""A loss of another project, spelt in our parts."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from omegaconf import OmegaConf

from pesloss.losses import Term, TotalLoss
from pesloss.names import unknown

LAYERS = ("because", "terms")


class Recipe(TotalLoss):
    """Another project's loss: equal to it where it is right, and right where it is not, unless ``faithful``.

    Takes the arguments of :class:`pesloss.losses.TotalLoss`.

    Args:
        terms: terms by name, as arguments of a :class:`pesloss.PropertyTerm` or as a term.
        project: whose loss it is.
        original: what the project does and this does not: ``because``, a sentence; ``terms``, arguments that
            replace those above; and further arguments of the loss.
        faithful: whether to do as the project does.
        options: other arguments of the loss.

    Raises:
        ValueError: for a difference without a reason, or of a term that does not exist.
    """

    def __init__(
        self,
        terms: Mapping[str, Term | Mapping[str, Any]],
        *,
        project: str,
        original: Mapping[str, Any] | None = None,
        faithful: bool = False,
        **options: Any,
    ) -> None:
        original = dict(original or {})
        if original and not original.get("because"):
            raise ValueError(
                f"Recipe of {project}: what differs from the original needs a reason, `because`."
            )
        if faithful:
            terms = {name: _replaced(name, term, original.get("terms", {})) for name, term in terms.items()}
            options |= {key: value for key, value in original.items() if key not in LAYERS}
        for name in original.get("terms", {}):
            if name not in terms:
                raise ValueError(f"Recipe of {project}, original: {unknown('term', name, terms)}")
        super().__init__(terms, **options)
        self.project, self.faithful = project, faithful
        self.because = " ".join(original.get("because", "").split())

    @property
    def remarks(self) -> list[str]:
        """Whose loss it is, and what it does as the original or other than it."""
        said = [f"A loss of {self.project}."]
        if self.because:
            how = "As the original does" if self.faithful else "The original differs (faithful: true)"
            said.append(f"{how}: {self.because}")
        return said


def load(name: str) -> dict[str, Any]:
    """The node of a recipe, a file of ``conf/loss``, without its defaults.

    Raises:
        ValueError: if there is no such recipe.
    """
    folder = files("pesloss.conf").joinpath("loss")
    known = [entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml")]
    if name not in known:
        raise ValueError(unknown("recipe", name, known))
    text = folder.joinpath(f"{name}.yaml").read_text(encoding="utf-8")
    node = OmegaConf.to_container(OmegaConf.create(text), resolve=True)
    assert isinstance(node, dict)
    node.pop("defaults", None)
    return {"_target_": "pesloss.recipes.Recipe", **{str(key): value for key, value in node.items()}}


def _replaced(
    name: str, term: Term | Mapping[str, Any], terms: Mapping[str, Any]
) -> Term | Mapping[str, Any]:
    if name not in terms:
        return term
    other = terms[name]
    if isinstance(term, Term) or isinstance(other, Term):
        return other
    return {**term, **other}
