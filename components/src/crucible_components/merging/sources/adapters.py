"""LoRA adapters as peft writes them: what they change in which tensor of their base.

Everything is decided from ``adapter_config.json`` and the header of ``adapter_model.safetensors``.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ConfigDict, PositiveInt, ValidationError, field_validator

from crucible.errors import Problem
from crucible_components.models.weights import TensorInfo

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"

_UNSUPPORTED = {
    "lora_bias": "trains biases of the factors",
    "target_parameters": "adapts parameters that are not modules",
    "trainable_token_indices": "trains single tokens",
    "layer_replication": "repeats layers",
    "use_qalora": "adapts groups of quantised weights",
    "use_bdlora": "has block-diagonal factors",
    "arrow_config": "routes between adapters",
    "kasa_config": "has singular values between its factors",
    "monteclora_config": "samples its factors",
    "alora_invocation_tokens": "acts on some tokens only",
}
"""Settings whose adapters are more than W + s·B·A."""
_CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Initialisations that take their start out of the base's weights."""
_FACTOR = re.compile(
    r"(.+)\.(lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_magnitude_vector)(?:\.weight)?"
)
_MAX_LISTED = 3


class AdapterConfig(BaseModel):
    """Of ``adapter_config.json``, what the merged weights depend on."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    peft_type: str | None = None
    base_model_name_or_path: str | None = None
    r: PositiveInt = 8
    lora_alpha: float = 8
    rank_pattern: dict[str, PositiveInt] | None = None
    alpha_pattern: dict[str, float] | None = None
    use_rslora: bool = False
    use_dora: bool = False
    fan_in_fan_out: bool = False
    target_modules: str | list[str] | None = None
    modules_to_save: list[str] | None = None
    init_lora_weights: bool | str | None = True
    ensure_weight_tying: bool = False

    @field_validator("rank_pattern", "alpha_pattern")
    @classmethod
    def _are_patterns(cls, patterns: dict[str, Any] | None) -> dict[str, Any] | None:
        for pattern in patterns or {}:
            try:
                re.compile(pattern)
            except re.error as cause:
                raise ValueError(f"{pattern!r} is no regular expression: {cause}") from cause
        return patterns

    def rank(self, module: str) -> int:
        return self.r if (own := _by_pattern(self.rank_pattern, module)) is None else int(own)

    def scale(self, module: str, rank: int) -> float:
        """The s of W + s·B·A."""
        own = _by_pattern(self.alpha_pattern, module)
        alpha = self.lora_alpha if own is None else own
        return alpha / (math.sqrt(rank) if self.use_rslora else rank)


@dataclass(frozen=True)
class Adapted:
    """How one tensor is adapted: the names of the adapter's tensors, and s."""

    a: str
    b: str
    scale: float
    is_transposed: bool = False
    """The weight is [in, out] or an embedding: W + s·(B·A)ᵀ."""
    magnitude: str | None = None
    """Of DoRA: the length of each row of the result."""


@dataclass(frozen=True)
class Adapter:
    """What an adapter does, by the names of the base's tensors."""

    adapted: Mapping[str, Adapted] = field(default_factory=dict)
    replaced: Mapping[str, str] = field(default_factory=dict)
    """The adapter's own name of a tensor that takes the place of the base's."""

    @property
    def touched(self) -> frozenset[str]:
        return frozenset(self.adapted) | frozenset(self.replaced)


def parse_config(label: str, raw: Any) -> tuple[AdapterConfig, list[Problem]]:
    """The settings, and why an adapter with them cannot be merged here."""
    where = f"{label}.{CONFIG_FILE}"
    try:
        config = AdapterConfig.model_validate(raw)
    except ValidationError as cause:
        problems = [
            Problem(
                path=".".join([where, *map(str, error["loc"])]),
                message=f"{error['msg']}.",
                fix="Save the adapter again with peft.",
            )
            for error in cause.errors()
        ]
        return AdapterConfig(), problems
    fix = (
        'Merge it with peft first: python -c "from peft import AutoPeftModelForCausalLM as M; '
        "M.from_pretrained('ADAPTER').merge_and_unload().save_pretrained('MERGED')\""
    )
    reasons = {key: text for key, text in _UNSUPPORTED.items() if raw.get(key)}
    if config.peft_type != "LORA":
        reasons["peft_type"] = f"is {config.peft_type!r}, not 'LORA'"
    if str(config.init_lora_weights).lower().startswith(_CHANGES_BASE):
        reasons["init_lora_weights"] = (
            f"is {config.init_lora_weights!r}: the adapter belongs to weights that are not its "
            "base's"
        )
    return config, [
        Problem(path=f"{where}.{key}", message=f"{text}; not supported.", fix=fix)
        for key, text in reasons.items()
    ]


def touched_names(names: Iterable[str], base_names: Iterable[str]) -> frozenset[str]:
    """Names, in the base, of the tensors that an adapter with tensors of these names changes."""
    known = BaseNames(base_names)
    return frozenset(
        known.find(f"{_module(found[1])}.weight" if (found := _FACTOR.fullmatch(n)) else _plain(n))
        for n in names
    )


class BaseNames:
    """Finds the tensors of a base by the names that an adapter has for them.

    An adapter has those of the model in memory. A checkpoint may have other first parts
    (``h.0`` for ``transformer.h.0``): then the one tensor is meant that ends in the same parts,
    its layer's number among them.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._names = frozenset(names)
        self._by_ending: dict[str, list[str]] = defaultdict(list)
        for name in self._names:
            for ending in _endings(name):
                self._by_ending[ending].append(name)

    def find(self, name: str) -> str:
        """The base's name for ``name``, or the same name if it has none."""
        if name in self._names:
            return name
        for ending in _endings(name)[1:-1]:
            beginning = name.removesuffix(ending)
            found = self._by_ending.get(ending, [])
            if any(part.isdigit() for part in beginning.split(".")):
                break
            if found:
                return found[0] if len(found) == 1 else name
        return name


def bind(
    label: str,
    config: AdapterConfig,
    infos: Mapping[str, TensorInfo],
    base_infos: Mapping[str, TensorInfo],
) -> tuple[Adapter, list[Problem]]:
    """What the adapter does to a base with these tensors, and what does not fit.

    Args:
        label: how problems call the adapter.
        config: its settings.
        infos: its tensors.
        base_infos: those of the base.
    """
    binder = _Binder(config, infos, base_infos)
    return binder.bind(), binder.problems(label)


@dataclass
class _Binder:
    config: AdapterConfig
    infos: Mapping[str, TensorInfo]
    base_infos: Mapping[str, TensorInfo]
    faults: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    """Of each kind, what has it."""

    def bind(self) -> Adapter:
        adapted, replaced = {}, {}
        known = BaseNames(self.base_infos)
        modules: dict[str, dict[str, str]] = defaultdict(dict)
        for name, info in self.infos.items():
            if found := _FACTOR.fullmatch(name):
                modules[_module(found[1])][found[2]] = name
            elif self._fits(known.find(_plain(name)), info.shape):
                replaced[known.find(_plain(name))] = name
        for module, parts in modules.items():
            tensor = known.find(f"{module}.weight")
            if (one := self._adapted(module, tensor, parts)) is not None:
                adapted[tensor] = one
        self._check_targets(set(modules))
        if not self.infos:
            self.faults["empty"].append(WEIGHTS_FILE)
        return Adapter(adapted, replaced)

    def _fits(self, tensor: str, shape: tuple[int, ...]) -> bool:
        base = self.base_infos.get(tensor)
        if base is None:
            self.faults["absent"].append(tensor)
        elif base.shape != shape:
            self.faults["shape"].append(f"{tensor} {list(base.shape)} for {list(shape)}")
        return base is not None and base.shape == shape

    def _adapted(self, module: str, tensor: str, parts: dict[str, str]) -> Adapted | None:
        is_embedding = any(part.startswith("lora_embedding") for part in parts)
        prefix = "lora_embedding_" if is_embedding else "lora_"
        a, b = parts.get(f"{prefix}A"), parts.get(f"{prefix}B")
        if a is None or b is None:
            self.faults["unpaired"].append(module)
            return None
        is_transposed = is_embedding or self.config.fan_in_fan_out
        shape_A, shape_B = self.infos[a].shape, self.infos[b].shape
        if len(shape_A) != 2 or len(shape_B) != 2:
            self.faults["convolution"].append(module)
            return None
        rank = shape_A[0]
        if rank != shape_B[1] or rank != self.config.rank(module):
            wanted = self.config.rank(module)
            self.faults["rank"].append(f"{module} A {list(shape_A)}, B {list(shape_B)}, r {wanted}")
            return None
        shape = (shape_B[0], shape_A[1])
        if not self._fits(tensor, shape[::-1] if is_transposed else shape):
            return None
        magnitude = parts.get("lora_magnitude_vector")
        if self.config.use_dora != (magnitude is not None):
            self.faults["magnitude"].append(module)
        elif magnitude is not None and is_transposed:
            self.faults["dora"].append(module)
        elif magnitude is not None and math.prod(self.infos[magnitude].shape) != shape[0]:
            self.faults["magnitude"].append(module)
        return Adapted(a, b, self.config.scale(module, rank), is_transposed, magnitude)

    def _check_targets(self, modules: set[str]) -> None:
        """A module that the settings name and the base has must be among the weights."""
        present = {m for name in self.base_infos for m in _endings(name.removesuffix(".weight"))}
        stored = {m for module in modules for m in _endings(module)}
        stored |= {m for name in self.infos for m in _endings(_plain(name).rpartition(".")[0])}
        targets = self.config.target_modules
        named = [
            *(targets if isinstance(targets, list) else []),
            *(self.config.modules_to_save or []),
        ]
        self.faults["untrained"] += [m for m in named if m in present and m not in stored]

    def problems(self, label: str) -> list[Problem]:
        base = self.config.base_model_name_or_path
        other = f"Use its own base{f', {base}' if base else ''}."
        again = "Save the adapter again with peft."
        peft = "Merge it with peft first."
        rules = {
            "absent": ("changes tensors that the base does not have", other),
            "shape": ("does not fit the base", other),
            "unpaired": ("has only one of the factors A and B", again),
            "rank": ("has factors of another rank than its settings say", again),
            "convolution": ("adapts convolutions, which is not supported", peft),
            "magnitude": (f"has magnitudes that do not fit use_dora in {CONFIG_FILE}", again),
            "dora": ("has magnitudes of columns, which is not supported", peft),
            "untrained": ("lacks weights of modules that its settings name", again),
            "empty": ("holds no tensors", again),
        }
        return [
            Problem(path=label, message=f"{rules[kind][0]}: {_some(items)}.", fix=rules[kind][1])
            for kind, items in self.faults.items()
            if items
        ]


def _module(name: str) -> str:
    return name.removeprefix("base_model.model.")


def _plain(name: str) -> str:
    """A whole tensor's name in the base."""
    return re.sub(r"\.(base_layer|modules_to_save(\.default)?)(?=\.)", "", _module(name))


def _endings(module: str) -> list[str]:
    parts = module.split(".")
    return [".".join(parts[index:]) for index in range(len(parts))]


def _by_pattern(pattern: Mapping[str, float] | None, module: str) -> float | None:
    """The first whose key matches the end of the module's name, as peft has it."""
    for key, value in (pattern or {}).items():
        if re.match(rf"(.*\.)?({key})$", module):
            return value
    return None


def _some(items: list[str]) -> str:
    rest = f" and {len(items) - _MAX_LISTED} more" if len(items) > _MAX_LISTED else ""
    return ", ".join(items[:_MAX_LISTED]) + rest
