from __future__ import annotations

import numpy as np
import pytest

from crucible_components.models.fusion import FusionProcessor, Turn
from crucible_components.models.fusion.layout import expand, strip_image
from crucible_components.models.fusion.template import IMAGE, LATENT, TEMPLATES

TURNS = [
    Turn("<image>\nHow many red circles are there?", "three"),
    Turn("What colour is the square?", "blue, I think."),
    Turn("And 12 é?", "çä 7"),
    Turn("Is it red?", "red"),
]


@pytest.mark.parametrize("num_turns", [1, 2, 3, 4])
@pytest.mark.parametrize("has_image", [True, False])
def test_supervised_spans_are_the_answers_and_their_ends(
    templated: FusionProcessor, num_turns: int, has_image: bool
) -> None:
    encoded = templated.encode(TURNS[:num_turns], has_image=has_image)
    end = TEMPLATES[templated.template].end
    edges = np.flatnonzero(np.diff(encoded.supervised, prepend=False, append=False))
    spans = [encoded.ids[start:stop] for start, stop in edges.reshape(-1, 2)]
    decoded = [templated.tokenizer.decode(span).strip() for span in spans]
    assert decoded == [f"{turn.answer}{end}" for turn in TURNS[:num_turns]]
    assert encoded.turn_ends.tolist() == [start - 1 for start in edges[::2]]


def test_text_reads_as_the_template_says(templated: FusionProcessor) -> None:
    encoded = templated.encode(TURNS[:2])
    text = templated.tokenizer.decode(encoded.ids)
    shape = TEMPLATES[templated.template]
    vision = "<vision_start>{}<vision_end>"
    expected = "".join(
        [
            shape.system_prefix + shape.user_role,
            vision.format(IMAGE) + vision.format(LATENT),
            "\nHow many red circles are there?" + shape.end,
            shape.assistant_role + "three" + shape.end,
            shape.user_role + vision.format(LATENT) + "What colour is the square?" + shape.end,
            shape.assistant_role + "blue, I think." + shape.end,
        ]
    )
    # Tokenizers differ in white space beside special tokens, in nothing else.
    bos = (
        templated.tokenizer.bos_token if encoded.ids[0] == templated.tokenizer.bos_token_id else ""
    )
    assert "".join(text.split()) == "".join((bos or "").split()) + "".join(expected.split())


def test_beginning_of_sequence_stands_once(templated: FusionProcessor) -> None:
    encoded = templated.encode(TURNS)
    bos = templated.tokenizer.bos_token_id
    starts = templated.template == "llama_3"
    assert (encoded.ids == bos).sum() == int(starts)
    assert (encoded.guidance_ids[0] == bos) == starts


def test_guidance_is_all_questions_joined(templated: FusionProcessor) -> None:
    encoded = templated.encode(TURNS[:2])
    text = templated.tokenizer.decode(encoded.guidance_ids, skip_special_tokens=True)
    assert text.strip() == "How many red circles are there?What colour is the square?"


@pytest.mark.parametrize("query_len", [1, 4, 9])
def test_expansion_places_every_index(templated: FusionProcessor, query_len: int) -> None:
    encoded = templated.encode(TURNS[:3])
    row = templated.expand(encoded, query_len)
    assert (row.ids == templated.image_token_id).sum() == 16
    latents = np.flatnonzero(row.ids == templated.latent_token_id)
    assert latents.tolist() == [s + i for s in row.latent_starts for i in range(query_len)]
    edges = np.flatnonzero(np.diff(row.supervised, prepend=False, append=False))
    assert row.turn_ends.tolist() == [start - 1 for start in edges[::2]]
    kept = ~np.isin(row.ids, [templated.image_token_id, templated.latent_token_id])
    plain = ~np.isin(encoded.ids, [templated.image_token_id, templated.latent_token_id])
    np.testing.assert_array_equal(row.ids[kept], encoded.ids[plain])


@pytest.mark.parametrize("query_len", [1, 9])
def test_cutting_keeps_whole_prompts(templated: FusionProcessor, query_len: int) -> None:
    encoded = templated.encode(TURNS)
    shape = {"num_image_tokens": 16, "image_token_id": templated.image_token_id}
    whole = expand(encoded, query_len, **shape)
    for limit in range(int(whole.turn_ends[0]) + 1, len(whole.ids) + 3):
        row = expand(encoded, query_len, **shape, max_length=limit)
        assert len(row.ids) <= limit
        assert len(row.turn_ends) == (whole.turn_ends < limit).sum()
        assert (row.ids == templated.latent_token_id).sum() == query_len * len(row.turn_ends)
        np.testing.assert_array_equal(row.ids, whole.ids[: len(row.ids)])
        # Nothing supervised is lost that would have fitted.
        assert row.supervised.sum() == whole.supervised[:limit].sum()
    with pytest.raises(ValueError, match="Shorten the question"):
        expand(encoded, query_len, **shape, max_length=int(whole.turn_ends[0]))


def test_placeholders_in_records_are_removed() -> None:
    assert strip_image(" <image>\nwhat <vision_start>is it? ") == "what is it?"
