"""Vocabularies of the models of a merge: the result's tokenizer, and rows of embeddings for it."""

from crucible_components.merging.vocabulary.plan import VocabularyPlan, plan_vocabulary
from crucible_components.merging.vocabulary.tokens import is_tokenizer_file

__all__ = ["VocabularyPlan", "is_tokenizer_file", "plan_vocabulary"]
