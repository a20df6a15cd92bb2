"""How MLflow loads a registered model: ``mlflow.pyfunc.load_model("models:/NAME@champion")``.

The MLmodel folder of a version holds an artifact reference instead of weights. The loader opens the
artifact store that it names, verifies and maps the safetensors, and returns an object whose
``predict`` takes a data frame of questions, with pictures where the model sees. Nothing is
unpickled and no code comes with the model.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from crucible.artifacts.manifest import ArtifactRef
from crucible.artifacts.store import open_store
from crucible.errors import UserError

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped]
    from PIL import Image

DEFAULT_MAX_NEW_TOKENS = 64
_BATCH_SIZE = 16


class Responder(Protocol):
    """A loaded model that answers questions greedily."""

    def answer(
        self, questions: Sequence[str], images: Sequence[Image.Image | None], max_new_tokens: int
    ) -> list[str]: ...


class QuestionAnswerer:
    """What MLflow calls: data frame in, data frame out."""

    def __init__(self, responder: Responder) -> None:
        self._responder = responder

    def predict(
        self, model_input: pd.DataFrame, params: Mapping[str, Any] | None = None
    ) -> pd.DataFrame:
        """One ``answer`` for each row's ``question`` and, if given, ``image``.

        Args:
            model_input: ``question`` is text; ``image`` is PNG or JPEG bytes or missing.
            params: ``max_new_tokens``, by default 64.

        Raises:
            UserError: no ``question`` column, or bytes that are no picture.
        """
        import pandas as pd

        if "question" not in model_input.columns:
            have = ", ".join(map(str, model_input.columns))
            raise UserError(f"predict: no column 'question'. The input has: {have}.")
        questions = [str(question) for question in model_input["question"]]
        images: list[Image.Image | None] = [None] * len(questions)
        if "image" in model_input.columns:
            images = [_picture(row, value) for row, value in enumerate(model_input["image"])]
        max_new_tokens = int((params or {}).get("max_new_tokens", DEFAULT_MAX_NEW_TOKENS))
        answers = self._responder.answer(questions, images, max_new_tokens)
        return pd.DataFrame({"answer": answers}, index=model_input.index)


class CausalResponder:
    """A transformers causal language model."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self._tokenizer = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, padding_side="left"
        )
        if self._tokenizer.pad_token is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token
        self._model: Any = AutoModelForCausalLM.from_pretrained(
            folder, local_files_only=True, dtype="auto", use_safetensors=True
        )
        self._model.train(False)

    def answer(
        self, questions: Sequence[str], images: Sequence[Image.Image | None], max_new_tokens: int
    ) -> list[str]:
        import torch

        if any(image is not None for image in images):
            raise UserError("predict: this model sees no pictures. Leave the image column out.")
        answers: list[str] = []
        for start in range(0, len(questions), _BATCH_SIZE):
            prompts = [self._prompt(question) for question in questions[start:][:_BATCH_SIZE]]
            batch = self._tokenizer(
                prompts,
                return_tensors="pt",
                padding=True,
                add_special_tokens=not self._tokenizer.chat_template,
            )
            with torch.inference_mode():
                ids = self._model.generate(
                    input_ids=batch["input_ids"],
                    attention_mask=batch["attention_mask"],
                    max_new_tokens=max_new_tokens,
                    do_sample=False,
                    pad_token_id=self._tokenizer.pad_token_id,
                )
            new = ids[:, batch["input_ids"].shape[1] :]
            answers += self._tokenizer.batch_decode(new, skip_special_tokens=True)
        return [text.strip() for text in answers]

    def _prompt(self, question: str) -> str:
        if not self._tokenizer.chat_template:
            return question
        turns = [{"role": "user", "content": question}]
        return str(
            self._tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        )


class FusionResponder:
    """A FUSION vision-language model."""

    def __init__(self, folder: Path) -> None:
        from crucible_components.models.fusion import load_model

        self._model, self._processor = load_model(folder)

    def answer(
        self, questions: Sequence[str], images: Sequence[Image.Image | None], max_new_tokens: int
    ) -> list[str]:
        from crucible_components.models.fusion import generate_answers

        answers = generate_answers(
            self._model, self._processor, images, questions, max_new_tokens=max_new_tokens
        )
        return [answer.text.strip() for answer in answers]


_RESPONDERS: Mapping[str, Callable[[Path], Responder]] = {
    "causal-lm": CausalResponder,
    "vision-language": FusionResponder,
}


def _load_pyfunc(data_path: str) -> QuestionAnswerer:
    """Called by MLflow with the path of the artifact reference."""
    reference = ArtifactRef.read(Path(data_path))
    variant = reference.manifest.variant
    if variant not in _RESPONDERS:
        raise UserError(f"model variant {variant!r} cannot answer. Known: {sorted(_RESPONDERS)}.")
    # Mapped weights stay readable after their names are gone, so the folder need not outlive this.
    with tempfile.TemporaryDirectory() as scratch:
        reader = open_store(reference.store).reader(reference, Path(scratch))
        return QuestionAnswerer(_RESPONDERS[variant](reader.local_dir()))


def _picture(row: int, value: Any) -> Image.Image | None:
    from PIL import Image, UnidentifiedImageError

    if not isinstance(value, bytes):  # None and NaN: asked without a picture
        return None
    try:
        return Image.open(io.BytesIO(value)).convert("RGB")
    except UnidentifiedImageError as cause:
        raise UserError(f"predict: image of row {row} is neither PNG nor JPEG.") from cause
