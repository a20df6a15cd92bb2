"""The merge file: every key of mergekit 0.1.5, its spelling and its defaults.

Source: what `mergekit-yaml` accepts. Departs: unknown keys are refused instead of ignored.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

Scalar = bool | int | float | str
Dtype = Literal["float32", "bfloat16", "float16"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelPath(_Strict):
    """A folder, an artifact's address or a hub name, and a revision of it."""

    path: str
    revision: str | None = None

    def __str__(self) -> str:
        return self.path if self.revision is None else f"{self.path}@{self.revision}"


class ModelReference(_Strict):
    """``path[@revision][+lora[@revision]]``, or the same as a mapping."""

    model: ModelPath
    lora: ModelPath | None = None
    override_architecture: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        if isinstance(value, str):
            model, plus, lora = value.partition("+")
            found: dict[str, Any] = {"model": _path(model)}
            return {**found, "lora": _path(lora)} if plus else found
        if isinstance(value, dict):
            paths = {k: _path(v) for k, v in value.items() if k in ("model", "lora")}
            return {**value, **paths}
        return value

    @model_serializer(mode="wrap")
    def _as_text(self, plain: SerializerFunctionWrapHandler) -> Any:
        return str(self) if self.override_architecture is None else plain(self)

    def __str__(self) -> str:
        return str(self.model) if self.lora is None else f"{self.model}+{self.lora}"


class Conditional(_Strict):
    """A value for tensors whose name holds ``filter``; for all without one, or with ``*``."""

    value: Scalar | list[Scalar]
    filter: str | None = None


def _many(value: Any) -> Any:
    return [value] if isinstance(value, dict) else value


Setting = Annotated[Scalar | list[Conditional] | list[Scalar], BeforeValidator(_many)]
Parameters = dict[str, Setting]


class SliceSource(_Strict):
    """Layers of one model."""

    model: ModelReference
    layer_range: tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]]
    parameters: Parameters = {}


class Source(_Strict):
    """One whole model."""

    model: ModelReference
    parameters: Parameters = {}


class Slice(_Strict):
    """Layers of the result: merged from as many layers of each source."""

    sources: Annotated[list[SliceSource], Field(min_length=1)]
    base_model: ModelReference | None = None
    parameters: Parameters = {}


class Module(_Strict):
    """One module of a model of several, such as the language model of a vision-language model."""

    slices: list[Slice] | None = None
    models: list[Source] | None = None
    parameters: Parameters = {}

    @model_validator(mode="after")
    def _one_of(self) -> Module:
        if bool(self.slices) == bool(self.models):
            raise ValueError("give either slices or models")
        return self


class ModelToken(_Strict):
    """The row of a token of one model."""

    kind: Literal["model_token"]
    model: ModelReference
    token: str | None = None
    token_id: Annotated[int, Field(ge=0)] | None = None

    @model_validator(mode="after")
    def _one_of(self) -> ModelToken:
        if (self.token is None) == (self.token_id is None):
            raise ValueError("give either token or token_id")
        return self


class ZeroToken(_Strict):
    """A row of zeros."""

    kind: Literal["zero"]


class TokenRule(_Strict):
    """Where the row of one token comes from, also in models that have it if ``force``."""

    source: ModelReference | ModelToken | ZeroToken | None = None
    force: bool = False


class TokenizerRules(_Strict):
    """The tokenizer of the result."""

    source: Literal["union", "base"] | ModelReference
    tokens: dict[str, TokenRule] = {}
    pad_to_multiple_of: Annotated[int, Field(ge=1)] | None = None


class MergeFile(_Strict):
    """One merge."""

    merge_method: str
    models: list[Source] | None = None
    slices: list[Slice] | None = None
    modules: dict[str, Module] | None = None
    base_model: ModelReference | None = None
    parameters: Parameters = {}
    dtype: Dtype | None = None
    out_dtype: Dtype | None = None
    tokenizer_source: Literal["union", "base"] | ModelReference | None = None
    tokenizer: TokenizerRules | None = None
    chat_template: str | None = None

    @model_validator(mode="after")
    def _one_of(self) -> MergeFile:
        if sum(map(bool, (self.models, self.slices, self.modules))) != 1:
            raise ValueError("give exactly one of models, slices and modules")
        if self.tokenizer_source is not None and self.tokenizer is not None:
            raise ValueError("give tokenizer or tokenizer_source, not both")
        return self


def _path(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    path, at, revision = value.partition("@")
    if "@" in revision:
        raise ValueError(f"{value}: has more than one @")
    return {"path": path, "revision": revision} if at else {"path": path}
