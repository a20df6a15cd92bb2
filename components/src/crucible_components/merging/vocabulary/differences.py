"""In what the tokenizers of a merge differ: for its report, and for merges that set no tokenizer.

Merging is by row, so a row that is one token in one model and another in the next is a mistake
that no error shows: Qwen2.5 and its R1 distillation have the same sizes but other special tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from crucible.errors import Problem
from crucible_components.merging.vocabulary.tokens import ROLES, Vocabulary

NUM_EXAMPLES = 10

_PARTS = ("normalizer", "pre_tokenizer", "post_processor", "decoder")


@dataclass(frozen=True)
class OtherToken:
    """An id that two tokenizers give to different tokens, or only one to any."""

    id: int
    reference_token: str | None
    token: str | None


@dataclass(frozen=True)
class VocabularyDifference:
    """In what the tokenizer of one model differs from that of the first."""

    model: str
    reference: str
    num_tokens: int
    num_reference_tokens: int
    num_other_ids: int
    """Ids that are not the same token in both."""
    examples: tuple[OtherToken, ...]
    """The first of them."""
    num_moved_tokens: int
    """Tokens that both have, with different ids."""
    roles: tuple[tuple[str, str | None, str | None], ...]
    """Such as eos_token, where they differ; the reference's token, then the model's."""
    other_flags: tuple[str, ...]
    """Tokens that are special, or cut out of texts, in another way."""
    other_parts: tuple[str, ...]
    """Parts of tokenizer.json that turn the same text into other tokens, or back."""

    @property
    def is_empty(self) -> bool:
        return not (self.num_other_ids or self.roles or self.other_flags or self.other_parts)

    @property
    def lines(self) -> list[str]:
        """The same in words."""
        head = f"{self.model} and {self.reference}"
        found = []
        if self.num_other_ids:
            shown = ", ".join(
                f"{each.id}: {each.token!r} and {each.reference_token!r}" for each in self.examples
            )
            found.append(f"{head} differ in the tokens of {self.num_other_ids} ids ({shown}).")
        if self.num_moved_tokens:
            found.append(f"{head} share {self.num_moved_tokens} tokens under different ids.")
        found += [f"{head} have as {role} {ours!r} and {theirs!r}."
                  for role, theirs, ours in self.roles]  # fmt: skip
        if self.other_flags:
            shown = ", ".join(map(repr, self.other_flags[:NUM_EXAMPLES]))
            found.append(f"{head} treat {len(self.other_flags)} tokens differently: {shown}.")
        if self.other_parts:
            found.append(f"{head} do not have the same {', '.join(self.other_parts)}.")
        return found


def compare(vocabularies: Mapping[str, Vocabulary]) -> tuple[VocabularyDifference, ...]:
    """What differs between the first and each other, without those that are like the first."""
    if not vocabularies:
        return ()
    (reference, first), *others = vocabularies.items()
    found = [_difference(reference, first, model, each) for model, each in others]
    return tuple(each for each in found if not each.is_empty)


def check_sizes(num_rows: Mapping[str, int]) -> list[Problem]:
    """Embeddings of different sizes, which only a tokenizer rule makes alike."""
    if len(set(num_rows.values())) < 2:
        return []
    counts = ", ".join(f"{model} has {rows}" for model, rows in num_rows.items())
    message = f"is not set, but the models' embeddings differ in their rows: {counts}."
    fix = "Set tokenizer_source: base, or union to keep the tokens of all models."
    return [Problem("tokenizer_source", message, fix)]


def _difference(
    reference: str, first: Vocabulary, model: str, other: Vocabulary
) -> VocabularyDifference:
    theirs = {number: token for token, number in first.ids.items()}
    ours = {number: token for token, number in other.ids.items()}
    numbers = sorted(n for n in theirs.keys() | ours.keys() if theirs.get(n) != ours.get(n))
    return VocabularyDifference(
        model=model,
        reference=reference,
        num_tokens=len(other.ids),
        num_reference_tokens=len(first.ids),
        num_other_ids=len(numbers),
        examples=tuple(OtherToken(n, theirs.get(n), ours.get(n)) for n in numbers[:NUM_EXAMPLES]),
        num_moved_tokens=sum(
            number != other.ids.get(token, number) for token, number in first.ids.items()
        ),
        roles=tuple(
            (role, first.roles.get(role), other.roles.get(role))
            for role in ROLES
            if first.roles.get(role) != other.roles.get(role)
        ),
        other_flags=tuple(
            sorted(
                token
                for token in first.added.keys() | other.added.keys()
                if token in first.ids
                and token in other.ids
                and first.added.get(token) != other.added.get(token)
            )
        ),
        other_parts=tuple(_other_parts(first, other)),
    )


def _other_parts(first: Vocabulary, other: Vocabulary) -> Iterator[str]:
    if first.kind != other.kind:
        yield f"type ({other.kind} and {first.kind})"
    elif first.definition["model"].get("merges") != other.definition["model"].get("merges"):
        yield "merges"
    for part in _PARTS:
        if first.definition.get(part) != other.definition.get(part):
            yield part
