"""What the folders of a sweep and of its jobs are called: readable by what varies, unique by a hash.

``${pesloss.sweep:}`` names a sweep by the keys that it varies and by what else its command sets: the same
command finds its folder, and so does one with more values of a key. ``${pesloss.job:}`` names a job by its
values of those keys and by a hash of its whole config. What changes no number is in neither, and the order of
the command line does not matter.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override

LONGEST = 80
"""How many characters of a name are for reading; the hash comes after them."""
EXCLUDED = "hydra.job.config.override_dirname.exclude_keys"
_PARTS = ("hydra", "resume", "logger", "name", "check", "sweep")
_TRAINER = r"trainer\.(threads|workers|max_time|save_minutes|balance_\w+)"
_MULTIRUN = r"-m|--multirun|hydra\.mode=multirun"


def register() -> None:
    """Make the two names known to OmegaConf, whichever app composes the config."""
    OmegaConf.register_new_resolver("pesloss.sweep", sweep_name, replace=True)
    OmegaConf.register_new_resolver("pesloss.job", job_name, replace=True)


def job_name(_root_: Any) -> str:
    """Folder of a job within its sweep, from its composed config.

    Example:
        >>> job = {"override_dirname": "loss.weights.forces=10,seed=1"}
        >>> job_name(OmegaConf.create({"seed": 1, "hydra": {"job": job}}))
        'loss.weights.forces=10,seed=1-094de242'
    """
    varied = OmegaConf.select(_root_, "hydra.job.override_dirname") or ""
    return _named(str(varied), config_hash(_root_))


def sweep_name(_root_: Any) -> str:
    """Folder of a sweep, from its composed config or from that of any of its jobs."""
    excluded, params = _excluded(_root_.hydra), OmegaConf.select(_root_, "hydra.sweeper.params") or {}
    found = [one for one in _parsed(_root_.hydra.overrides.task) if _changes_numbers(_key(one))]
    fixed = {_key(one): one.get_value_element_as_str() for one in found if one.key_or_group in excluded}
    varied = {_key(one) for one in found if one.key_or_group not in excluded}
    varied = sorted((varied | {str(key).lstrip("+~") for key in params}) - set(fixed))
    words = [*varied, *(f"{key}={value}" for key, value in sorted(fixed.items()))]
    return _named(",".join(words) or str(_root_.hydra.job.name), digest([varied, fixed]))


def config_hash(config: Any) -> str:
    """Eight characters that differ for two configs unless their trainings are the same.

    Args:
        config: as it was composed, with or without ``hydra``.

    Example:
        >>> one = OmegaConf.create({"seed": 0, "trainer": {"epochs": 2, "threads": 1}})
        >>> two = OmegaConf.create({"trainer": {"threads": 4, "epochs": 2}, "seed": 0, "logger": None})
        >>> config_hash(one) == config_hash(two)
        True
        >>> config_hash(one) == config_hash(OmegaConf.merge(one, {"seed": 1}))
        False
    """
    kept = OmegaConf.masked_copy(config, [str(key) for key in config if key not in _PARTS])
    plain: Any = OmegaConf.to_container(kept, resolve=False)
    if isinstance(plain.get("trainer"), dict):
        plain["trainer"] = {k: v for k, v in plain["trainer"].items() if _changes_numbers(f"trainer.{k}")}
    return digest(plain)


def digest(content: Any) -> str:
    """Eight characters that stand for plain data, whatever the order of its keys."""
    text = json.dumps(_ordered(content), default=str)
    return hashlib.blake2b(text.encode(), digest_size=4).hexdigest()


def swept(hydra: Any) -> dict[str, Any]:
    """What a job's command line says of the keys that vary, as values of their types."""
    excluded = _excluded(hydra)
    found = _parsed(hydra.overrides.task)
    return {_key(one): one.value() for one in found if one.key_or_group not in excluded}


def with_fixed_keys(arguments: Sequence[str]) -> list[str]:
    """The command line of a sweep, telling Hydra which keys do not vary; any other as it is.

    Example:
        >>> with_fixed_keys(["-m", "seed=0,1", "loss=mae"])[-1]
        "hydra.job.config.override_dirname.exclude_keys=['loss']"
        >>> with_fixed_keys(["loss=mae"])
        ['loss=mae']
    """
    from pesloss.safety.overrides import of_hydra  # Hydra waits until it is needed

    found = [one for one in _parsed(arguments) if not of_hydra(one)]
    varied = {one.key_or_group for one in found if one.is_sweep_override()}
    fixed = dict.fromkeys(one.key_or_group for one in found if one.key_or_group not in varied)
    given = any(re.fullmatch(_MULTIRUN, argument.lower()) for argument in arguments)
    if not (varied or given) or not fixed or any(a.lstrip("+").startswith(EXCLUDED) for a in arguments):
        return list(arguments)
    last = max(i for i, word in enumerate(arguments) if not word.startswith("-") and _parsed([word]))
    # beside the others: overrides before and after an option are none to Hydra
    added = f"{EXCLUDED}=[{','.join(repr(key) for key in fixed)}]"
    return [*arguments[: last + 1], added, *arguments[last + 1 :]]


def _parsed(words: Iterable[str]) -> list[Override]:
    from pesloss.safety.overrides import parsed

    return [one for one in map(parsed, words) if one is not None]


def _key(override: Override) -> str:
    return override.get_key_element().lstrip("+~")


def _excluded(hydra: Any) -> Collection[str]:
    return OmegaConf.select(hydra, EXCLUDED.partition(".")[2]) or ()


def _changes_numbers(key: str) -> bool:
    return re.split("[./@]", key)[0] not in _PARTS and not re.fullmatch(_TRAINER, key)


def _named(text: str, unique: str) -> str:
    """A name that every file system takes and no shell has to quote."""
    readable = re.sub(r"[^\w=,.+-]+", "_", text, flags=re.ASCII)
    if len(readable) > LONGEST:
        readable = readable[:LONGEST].rpartition(",")[0] or readable[:LONGEST]
    readable = readable.strip("_,.+-")
    return f"{readable}-{unique}" if readable else unique


def _ordered(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {key: _ordered(content[key]) for key in sorted(content, key=str)}
    return [_ordered(one) for one in content] if isinstance(content, list) else content
