"""Records of the five datasets: captions, multi-turn conversations, and single questions.

Set names and limits are those of the published data engine (FUSION, arXiv:2504.09925, appendix E):
stage 1 takes captions, stage 1.5 takes sets by form of answer, stage 2 here takes groups of
question categories, so that specialists can be trained on some of them.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

from PIL import Image

from crucible_components.data.schema import Record
from crucible_components.synthesis.balance import Balancer, pick_questions
from crucible_components.synthesis.captions import INSTRUCTIONS, captions
from crucible_components.synthesis.contrast import contrast_questions
from crucible_components.synthesis.questions import (
    CATEGORIES,
    GROUPS,
    YES_NO_CATEGORIES,
    Question,
)
from crucible_components.synthesis.rendering import render, render_pair
from crucible_components.synthesis.sampling import SceneSampler
from crucible_components.synthesis.scene import Scene

WORD_SUFFIX = "answer in one word."
LETTER_SUFFIX = "answer with the letter."
"""Asked for in the first turn of sets with short answers."""
MAX_TURNS = 8
_MAX_TEXT_TURNS = 5
_MAX_CONTRAST_TURNS = 7
_CONTRAST_ONE_IN = 6
_OPEN_CATEGORIES = tuple(category for category in CATEGORIES if category != "choice")

Stream = Iterator[tuple[Image.Image, list[Record]]]
"""A picture and its records, which still lack the picture's name."""


@dataclass(frozen=True)
class ConversationSet:
    """One named set of stage 1.5: which questions it mixes and how it answers."""

    name: str
    categories: tuple[str, ...]
    max_turns: int = MAX_TURNS
    sentences: bool = False


CONVERSATION_SETS = (
    ConversationSet("SynthConvShort", _OPEN_CATEGORIES),
    ConversationSet("SynthConvLong", _OPEN_CATEGORIES, sentences=True),
    ConversationSet("SynthMultiChoice", ("choice", *YES_NO_CATEGORIES)),
    ConversationSet("SynthTextQA", GROUPS["reading"], max_turns=_MAX_TEXT_TURNS),
)
CONTRAST_SET = "SynthContrastShort"


def alignment_stream(
    sampler: SceneSampler, num_scenes: int, captions_per_scene: int, rng: random.Random
) -> Stream:
    """Captions: the sets of which there are fewest so far, one single-turn record each."""
    written: Counter[str] = Counter()
    for number in range(num_scenes):
        scene = sampler.scene()
        found = captions(scene, sampler.world)
        names = sorted(found, key=lambda name: (written[name], rng.random()))[:captions_per_scene]
        written.update(names)
        yield (
            render(scene),
            [
                _conversation(
                    f"alignment-{number:06d}-{name}",
                    name,
                    [(rng.choice(INSTRUCTIONS[name]), found[name])],
                )
                for name in names
            ],
        )


def fusion_stream(
    sampler: SceneSampler, num_scenes: int, max_turns: int, rng: random.Random
) -> Stream:
    """Conversations of stage 1.5, one a picture, every sixth about two panels side by side."""
    balancers = {each.name: Balancer() for each in CONVERSATION_SETS}
    contrasts = Balancer()
    written: Counter[str] = Counter()
    for number in range(num_scenes):
        if number % _CONTRAST_ONE_IN == 0:
            left, right = sampler.panels()
            turns = contrast_questions(
                left,
                right,
                sampler.world,
                limit=min(max_turns, _MAX_CONTRAST_TURNS),
                balancer=contrasts,
                rng=rng,
            )
            picture, name, sentences = render_pair(left, right), CONTRAST_SET, False
        else:
            scene = sampler.scene()
            chosen, turns = _pick_set(
                scene, sampler, balancers, written, max_turns=max_turns, rng=rng
            )
            picture, name, sentences = render(scene), chosen.name, chosen.sentences
        if turns:
            record_id = f"fusion-{number:06d}"
            yield picture, [_conversation(record_id, name, _dialogue(turns, sentences=sentences))]


def instruction_stream(
    sampler: SceneSampler, num_scenes: int, max_turns: int, rng: random.Random
) -> Stream:
    """Conversations of stage 2, one a picture: short answers of one group of categories."""
    balancer = Balancer()
    written: Counter[str] = Counter()
    for number in range(num_scenes):
        scene = sampler.scene()
        suited = [name for name in GROUPS if _suits(GROUPS[name], scene)]
        for group in sorted(suited, key=lambda name: (written[name], rng.random())):
            turns = pick_questions(
                scene,
                sampler.world,
                categories=GROUPS[group],
                limit=max_turns,
                balancer=balancer,
                rng=rng,
            )
            if turns:
                written[group] += 1
                record_id = f"instruction-{number:06d}"
                yield render(scene), [_conversation(record_id, group, _dialogue(turns))]
                break


def question_stream(
    sampler: SceneSampler, num_scenes: int, per_scene: int, rng: random.Random, *, name: str
) -> Stream:
    """Single questions with their answers, and the scene graph that they can be checked against."""
    balancer = Balancer()
    for number in range(num_scenes):
        scene = sampler.scene()
        questions = pick_questions(
            scene,
            sampler.world,
            categories=CATEGORIES,
            limit=per_scene,
            balancer=balancer,
            rng=rng,
        )
        graph = asdict(scene)
        yield (
            render(scene),
            [
                _question(f"{name}-{number:06d}-{index}", question, graph)
                for index, question in enumerate(questions)
            ],
        )


def _suits(categories: Sequence[str], scene: Scene) -> bool:
    """False for reading sets on scenes that have nothing to read."""
    if categories != GROUPS["reading"]:
        return True
    return scene.digit is not None or scene.sign is not None


def _pick_set(
    scene: Scene,
    sampler: SceneSampler,
    balancers: dict[str, Balancer],
    written: Counter[str],
    *,
    max_turns: int,
    rng: random.Random,
) -> tuple[ConversationSet, list[Question]]:
    """The set with fewest conversations that has something to ask about ``scene``."""
    suited = [each for each in CONVERSATION_SETS if _suits(each.categories, scene)]
    for chosen in sorted(suited, key=lambda each: (written[each.name], rng.random())):
        turns = pick_questions(
            scene,
            sampler.world,
            categories=chosen.categories,
            limit=min(max_turns, chosen.max_turns),
            balancer=balancers[chosen.name],
            rng=rng,
        )
        if turns:
            written[chosen.name] += 1
            return chosen, turns
    return CONVERSATION_SETS[0], []


def _dialogue(turns: Sequence[Question], *, sentences: bool = False) -> list[tuple[str, str]]:
    pairs = [(turn.text, turn.statement if sentences else turn.answer) for turn in turns]
    if not sentences:
        pairs[0] = (prompt_of(turns[0]), turns[0].answer)
    return pairs


def prompt_of(question: Question) -> str:
    """The question as it is asked alone or first: with the form of answer that is wanted."""
    return f"{question.text} {LETTER_SUFFIX if question.choices else WORD_SUFFIX}"


def _conversation(record_id: str, category: str, pairs: Sequence[tuple[str, str]]) -> Record:
    turns = []
    for asked, answered in pairs:
        turns.append({"from": "human", "value": asked})
        turns.append({"from": "gpt", "value": answered})
    turns[0]["value"] = f"<image>\n{turns[0]['value']}"
    return {"id": record_id, "category": category, "conversations": turns}


def _question(record_id: str, question: Question, graph: dict[str, object]) -> Record:
    record: Record = {
        "id": record_id,
        "category": question.category,
        "question": prompt_of(question),
        "answer": question.answer,
        "template": question.template,
        "scene": graph,
    }
    if question.choices:
        record["choices"] = list(question.choices)
    return record
