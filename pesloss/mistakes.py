"""From an error to a sentence: what was asked for, what there is, what is nearest."""

from __future__ import annotations

import difflib
import functools
import linecache
import re
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import yaml
from hydra.core.object_type import ObjectType
from hydra.errors import (
    ConfigCompositionException,
    HydraException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    InterpolationKeyError,
    InterpolationResolutionError,
    MissingMandatoryValue,
    OmegaConfBaseException,
)

from pesloss.building import BuildError
from pesloss.names import unknown

_FILE_ERRORS = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)


def explain(error: BaseException, ours: frozenset[str] | set[str] = frozenset({"pesloss"})) -> str | None:
    """Sentence about a mistake that the user can mend, or None for an error that needs its traceback.

    Args:
        error: as it was caught; its traceback tells which configs there are.
        ours: packages whose own ``raise`` statements are written for the user.

    Example:
        >>> explain(FileNotFoundError(2, "No such file or directory", "aspirin.xyz"))
        "No such file or directory: 'aspirin.xyz'."
        >>> explain(ZeroDivisionError("division by zero")) is None
        True
    """
    if isinstance(error, BuildError):
        cause = error.__cause__
        return str(error) if cause is None or explain(cause, ours) else None
    sentence = _sentence(error)
    if sentence is None and _is_raised_by(error, ours):
        # a KeyError would put its sentence in quotes
        return str(error.args[0] if isinstance(error, KeyError) and error.args else error) or None
    return sentence


def _is_raised_by(error: BaseException, packages: frozenset[str] | set[str]) -> bool:
    """Whether a ``raise`` of these packages made the error, not a slip such as a missing dict key."""
    frames = list(traceback.walk_tb(error.__traceback__))
    if not frames:
        return False
    frame, line = frames[-1]
    source = linecache.getline(frame.f_code.co_filename, line, frame.f_globals)
    return (
        source.lstrip().startswith("raise")
        and frame.f_globals.get("__name__", "").partition(".")[0] in packages
    )


@functools.singledispatch
def _sentence(error: BaseException) -> str | None:
    return None


@_sentence.register(HydraException)
def _hydra(error: HydraException) -> str | None:
    return str(error) or None


@_sentence.register(yaml.YAMLError)
def _yaml(error: yaml.YAMLError) -> str:
    return f"A config file is not valid YAML: {error}"


@_sentence.register(OSError)
def _file(error: OSError) -> str | None:
    if isinstance(error, _FILE_ERRORS) and error.filename is not None:
        return f"{error.strerror}: '{error.filename}'."
    return None


@_sentence.register(OverrideParseException)
def _override(error: OverrideParseException) -> str:
    reason = error.message.partition("\nSee https")[0].replace("\n", ": ")
    return (
        f"'{error.override}' is not an override ({reason}). It reads key=value; "
        "a value with spaces, commas or brackets stands in quotes: 'key=\"a, b\"'."
    )


@_sentence.register(MissingConfigException)
def _missing_config(error: MissingConfigException) -> str:
    """A file that no config source has: a misspelt option of a group, or primary config."""
    group, _, option = (error.missing_cfg_file or "").rpartition("/")
    if not option:
        return str(error)
    if group:
        return _no(option, f"the group '{group}'", error.options or [])
    return _no(option, "the config folder", _options(error, "", ObjectType.CONFIG))


@_sentence.register(ConfigCompositionException)
def _composition(error: ConfigCompositionException) -> str:
    text, cause = str(error), error.__cause__
    if isinstance(cause, (ConfigKeyError, ConfigAttributeError)):
        added = re.search(r"use (\+[^/=]*=.*)", text)
        return _unknown_key(cause, error) + (f" (To add a new key, write {added[1]})" if added else "")
    if isinstance(cause, OmegaConfBaseException):
        return ": ".join(filter(None, (text, _sentence(cause))))
    for pattern, words in _COMPOSITION.items():
        match = re.search(pattern, text)
        if match is not None:
            return words(error, *match.groups())
    return text


def _no_group(error: BaseException, group: str) -> str:
    return _no(group, "the config groups", _groups(error))


def _no_default(error: BaseException, name: str, known: str, added: str | None) -> str:
    hint = f" (To add it, write {added})" if added else ""
    return _no(name, "the defaults", known.split(", ")) + hint


def _not_in_use(error: BaseException, group: str, added: str) -> str:
    return f"'{group}' is a config group, but no default chooses from it. (To add one, write {added})"


def _no_deletion(error: BaseException, path: str) -> str:
    parent, _, name = path.rpartition(".")
    config = _composed(error)
    node = OmegaConf.select(config, parent) if config is not None and parent else config
    if parent and not isinstance(node, DictConfig):
        return _no_deletion(error, parent)
    return f"Nothing to delete: {_no(name, _place(parent), _names(error, parent, node))}"


def _twice(error: BaseException, group: str, option: str) -> str:
    return (
        f"'{group}' is chosen twice. On the command line write {group}={option}, without the +; "
        f"in a defaults list write 'override /{group}: {option}'."
    )


def _listed_twice(error: BaseException, group: str) -> str:
    return f"'{group}' is chosen twice. On the command line write {group}=..., without the +."


_COMPOSITION: dict[str, Callable[..., str]] = {
    r"config group '(.+)' does not exist": _no_group,
    r"override '(.+)'\.\nDid you mean to override (?:one of )?(.+)\?(?:\n.* use (.*))?": _no_default,
    r"Could not override '(.+)'\. No match in the defaults list\.\n.* use (.*)": _not_in_use,
    r"Could not delete from config\. '(.+)' does not exist": _no_deletion,
    r"Multiple values for (.+)\. To .* 'override .+: (.+)'": _twice,
    r"^(\S+) appears more than once in the final defaults list": _listed_twice,
}
"""What Hydra says -> what we say; the text is all that its exceptions carry."""


@_sentence.register(OmegaConfBaseException)
def _omegaconf(error: OmegaConfBaseException) -> str:
    place = f"{error.full_key}: " if error.full_key else ""
    return f"{place}{str(error).partition(chr(10))[0]}."


@_sentence.register(ConfigKeyError)
@_sentence.register(ConfigAttributeError)
def _key_error(error: ConfigKeyError | ConfigAttributeError) -> str:
    return _unknown_key(error, error)


def _unknown_key(key_error: ConfigKeyError | ConfigAttributeError, error: BaseException) -> str:
    """A key that a config node lacks; ``error`` is what Hydra made of it, whose traceback reaches further."""
    path, name = key_error.full_key or str(key_error.key), str(key_error.key)
    if "/" in path:
        return _no_group(error, path)
    parent = path.removesuffix(name).rstrip(".")
    known = _names(error, parent, key_error.parent_node)
    return _no(name, _place(parent), known, [] if parent else _elsewhere(error, name))


@_sentence.register(MissingMandatoryValue)
def _missing_value(error: MissingMandatoryValue) -> str:
    key = error.full_key or str(error.key)
    return f"'{key}' has no value yet. Give it on the command line, {key}=..., or in a config."


@_sentence.register(InterpolationResolutionError)
def _interpolation(error: InterpolationResolutionError) -> str | None:
    variable = re.search(r"Environment variable '(.+)' not found", str(error))
    if variable is None:
        return _omegaconf(error)
    instead = f", or give {error.full_key}=... on the command line" if error.full_key else ""
    return f"The environment variable '{variable[1]}' is not set. Set it{instead}."


@_sentence.register(InterpolationKeyError)
def _interpolation_key(error: InterpolationKeyError) -> str | None:
    asked = re.search(r"'(.+)' not found", str(error))
    if asked is None:
        return _omegaconf(error)
    place = f"{error.full_key} refers" if error.full_key else "An interpolation refers"
    root = error.parent_node._get_root() if error.parent_node is not None else None
    near = difflib.get_close_matches(asked[1], _paths(root), n=1)
    return f"{place} to '{asked[1]}', which is not there{_guess(near)}"


def _no(name: str, place: str, known: Sequence[str], elsewhere: Sequence[str] = ()) -> str:
    """Sentence about a name that is not in a place: what is there, and the nearest of it."""
    if elsewhere:
        return f"No '{name}' in {place}{_guess(elsewhere)} Known: {', '.join(sorted(known))}."
    return f"No '{name}' in {place}" + unknown("", name, known).removeprefix(f"Unknown  '{name}'")


def _guess(names: Sequence[str]) -> str:
    return f"; did you mean {' or '.join(map(repr, names))}?" if names else "."


def _place(path: str) -> str:
    return path or "the config"


def _names(error: BaseException, path: str, node: Any) -> list[str]:
    """Keys of a config node; at the top also the groups, which may have no key."""
    keys = list(map(str, node)) if isinstance(node, DictConfig) else []
    groups = [] if path else _options(error, "", ObjectType.GROUP)
    return sorted({*keys, *groups})


def _elsewhere(error: BaseException, name: str) -> list[str]:
    """Paths of a key that was looked for at the top but stands below."""
    return [path for path in _paths(_composed(error)) if path.rpartition(".")[2] == name][:3]


def _paths(config: Any, prefix: str = "") -> list[str]:
    """Dotted paths of everything in the app's own part of a config."""
    if OmegaConf.is_config(config):
        config = OmegaConf.to_container(config, resolve=False)
    if not isinstance(config, dict):
        return []
    own = {f"{prefix}{key}": value for key, value in config.items() if (prefix, key) != ("", "hydra")}
    return [path for key, value in own.items() for path in (key, *_paths(value, f"{key}."))]


def _groups(error: BaseException, parent: str = "") -> list[str]:
    names = [f"{parent}{name}" for name in _options(error, parent, ObjectType.GROUP) if name != "hydra"]
    return [path for name in names for path in (name, *_groups(error, f"{name}/"))]


def _options(error: BaseException, group: str, kind: ObjectType) -> list[str]:
    """Groups or options that Hydra finds in a group, over all its config sources."""
    for value in _locals(error):
        if hasattr(type(value), "get_group_options"):
            return [name for name in value.get_group_options(group, kind) if not name.startswith("_")]
    return []


def _composed(error: BaseException) -> Any:
    """The config that Hydra was composing."""
    return next(
        (value for value in _locals(error) if isinstance(value, DictConfig) and "hydra" in value), None
    )


def _locals(error: BaseException) -> Iterator[Any]:
    """Values that Hydra worked with, the latest first: its exceptions carry a text and nothing else."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    for frame in reversed(frames):
        yield from reversed(list(frame.f_locals.values()))
