"""A registered model used by others: MLflow's own loader, real weights, no copy of them."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from crucible.errors import ArtifactCorrupt, UserError
from crucible.registry import Version

if TYPE_CHECKING:
    from tests.unit.registry.conftest import Workshop

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

QUESTIONS = ["how many red circles", "what colour", "how many"]


def build_causal_lm(folder: Path) -> None:
    """An untrained Llama of 2 layers with a word tokenizer, in transformers' own files."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = ["<pad>", "<eos>", "<unk>", *" ".join(QUESTIONS).split(), "one", "two", "blue"]
    vocabulary = {word: i for i, word in enumerate(dict.fromkeys(words))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
    )
    LlamaForCausalLM(config).save_pretrained(folder)


def expected_answers(folder: Path) -> list[str]:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    answers = []
    for question in QUESTIONS:
        ids = tokenizer(question, return_tensors="pt")["input_ids"]
        new = model.generate(ids, max_new_tokens=5, do_sample=False)[0, ids.shape[1] :]
        answers.append(tokenizer.decode(new, skip_special_tokens=True).strip())
    return answers


@pytest.fixture
def tracking_uri(workshop: Workshop) -> Iterator[None]:
    import mlflow

    mlflow.set_tracking_uri(workshop.settings.mlflow_tracking_uri)
    yield
    mlflow.set_tracking_uri(None)


def register(workshop: Workshop, folder: Path, variant: str) -> Version:
    model = workshop.store.put_tree(folder, type="Model", variant=variant)
    shutil.rmtree(folder)
    candidate = workshop.candidate(model, 60)
    decision = workshop.registry.decide(
        workshop.policy, candidate.metrics_digest, candidate.predictions_digest, None
    )
    version = workshop.registry.register(candidate, decision, None)
    return workshop.registry.promote("vlm", version.version)


def load(uri: str) -> Any:
    import warnings

    import mlflow

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow's own, about its type hints and pydantic
        return mlflow.pyfunc.load_model(uri)


@pytest.mark.usefixtures("tracking_uri")
def test_causal_lm_answers_as_transformers_does(workshop: Workshop, tmp_path: Path) -> None:
    import pandas as pd

    build_causal_lm(tmp_path / "lm")
    expected = expected_answers(tmp_path / "lm")
    version = register(workshop, tmp_path / "lm", "causal-lm")
    model_folder = Path(version.source.removeprefix("file://"))
    assert sum(path.stat().st_size for path in model_folder.iterdir()) < 10_000
    assert not [p for p in model_folder.rglob("*") if p.suffix in (".pkl", ".safetensors")]

    model = load("models:/vlm@champion")
    assert [column.name for column in model.metadata.signature.inputs] == ["question"]
    frame = pd.DataFrame({"question": QUESTIONS}, index=[5, 6, 7])
    answers = model.predict(frame, params={"max_new_tokens": 5})
    assert list(answers["answer"]) == expected
    assert list(answers.index) == [5, 6, 7]
    assert model.metadata.metadata["crucible"]["digest"] == version.digest


@pytest.mark.usefixtures("tracking_uri")
def test_fusion_model_answers_about_pictures(workshop: Workshop, tmp_path: Path) -> None:
    import pandas as pd
    from PIL import Image

    from crucible_components.models.fusion import build_model, generate_answers, save_model
    from crucible_components.models.fusion.tokenizer import train_tokenizer

    tokenizer = train_tokenizer(QUESTIONS, vocab_size=300)
    model, processor = build_model("pico", tokenizer, seed=3)
    picture = Image.effect_noise((32, 32), 80).convert("RGB")
    images = [picture, None, picture]
    expected = generate_answers(model.eval(), processor, images, QUESTIONS, max_new_tokens=6)
    folder = tmp_path / "vlm"
    folder.mkdir()
    save_model(model, processor, folder)
    register(workshop, folder, "vision-language")

    stream = io.BytesIO()
    picture.save(stream, "PNG")
    png = stream.getvalue()
    loaded = load("models:/vlm@champion")
    frame = pd.DataFrame({"image": [png, None, png], "question": QUESTIONS})
    answers = loaded.predict(frame, params={"max_new_tokens": 6})
    assert list(answers["answer"]) == [answer.text.strip() for answer in expected]
    unseen = generate_answers(model, processor, [None] * 3, QUESTIONS, max_new_tokens=6)
    blind = loaded.predict(frame[["question"]], params={"max_new_tokens": 6})
    assert list(blind["answer"]) == [answer.text.strip() for answer in unseen]


@pytest.mark.usefixtures("tracking_uri")
def test_damaged_weights_are_refused(workshop: Workshop, tmp_path: Path) -> None:
    build_causal_lm(tmp_path / "lm")
    version = register(workshop, tmp_path / "lm", "causal-lm")
    sha = version.tags["weights.sha256"]
    blob = workshop.settings.home_dir / "store" / "blobs" / "sha256" / sha[:2] / sha
    blob.chmod(0o644)
    damaged = bytearray(blob.read_bytes())
    damaged[-1] ^= 1
    blob.write_bytes(bytes(damaged))
    with pytest.raises(ArtifactCorrupt, match=sha):
        load("models:/vlm@champion")


def test_inputs_are_checked() -> None:
    import pandas as pd

    from crucible_components.serving.pyfunc import QuestionAnswerer

    class Echo:
        def answer(self, questions: Any, images: Any, max_new_tokens: int) -> list[str]:
            sizes = [image.size if image else None for image in images]
            return [f"{q} {s} {max_new_tokens}" for q, s in zip(questions, sizes, strict=True)]

    from PIL import Image

    stream = io.BytesIO()
    Image.new("RGB", (3, 2)).save(stream, "PNG")
    model = QuestionAnswerer(Echo())
    frame = pd.DataFrame({"question": ["a", "b"], "image": [stream.getvalue(), None]})
    assert list(model.predict(frame)["answer"]) == ["a (3, 2) 64", "b None 64"]
    with pytest.raises(UserError, match="no column 'question'"):
        model.predict(pd.DataFrame({"text": ["a"]}))
    with pytest.raises(UserError, match="image of row 0"):
        model.predict(pd.DataFrame({"question": ["a"], "image": [b"no picture"]}))
