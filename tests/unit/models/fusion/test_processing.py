from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from crucible_components.models.fusion import FusionForConditionalGeneration, FusionProcessor
from crucible_components.models.fusion.modeling import normalise_pixels

Built = tuple[FusionForConditionalGeneration, FusionProcessor]


@pytest.mark.parametrize("size", [(7, 90), (32, 32), (100, 33)])
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P"])
def test_any_picture_becomes_four_crops_and_the_whole(
    tiny: Built, size: tuple[int, int], mode: str
) -> None:
    processor = tiny[1]
    noise = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    picture = Image.fromarray(noise).convert(mode)
    pixels = processor.preprocess(picture)
    assert pixels.shape == (5, 3, 16, 16)
    assert pixels.dtype == np.uint8
    whole = picture.convert("RGB").resize((16, 16), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(pixels[4], np.asarray(whole).transpose(2, 0, 1))
    double = np.asarray(picture.convert("RGB").resize((32, 32), Image.Resampling.BICUBIC))
    rows = [np.concatenate(list(pair), axis=2) for pair in (pixels[:2], pixels[2:4])]
    raster = np.concatenate(rows, axis=1).transpose(1, 2, 0)
    np.testing.assert_array_equal(raster, double)


def test_pixels_are_normalised_as_siglip_does() -> None:
    pixels = torch.arange(256, dtype=torch.uint8)
    expected = (pixels / 255 - 0.5) / 0.5
    torch.testing.assert_close(normalise_pixels(pixels, torch.float32), expected)
    assert pixels.dtype == torch.uint8


def test_a_processor_survives_its_folder(tiny: Built, tmp_path: object) -> None:
    processor = tiny[1]
    processor.save_pretrained(tmp_path)
    again = FusionProcessor.from_pretrained(tmp_path)
    assert again.to_dict() == processor.to_dict()
    text = "How many red circles, é 12?"
    assert again.tokenizer(text)["input_ids"] == processor.tokenizer(text)["input_ids"]
    assert again.banned_token_ids == processor.banned_token_ids


def test_pretrained_tokenizers_know_no_unknown_text(tiny: Built) -> None:
    processor = tiny[1]
    for text in ("three", "zebra 99 — ñ 🙂", "a  b"):
        ids = processor.tokenizer(text)["input_ids"]
        assert processor.decode(ids) == text.strip()
