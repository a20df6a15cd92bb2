"""From a merge file to everything that the merge will do, without a byte of weights.

All mistakes are told at once: of the file, of any model, of how they fit together, of the disk.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from crucible.errors import Problem, UserError
from crucible_components.merging.merge import Merge
from crucible_components.merging.options import MergeOptions
from crucible_components.merging.recipe.headers import ModelHeaders
from crucible_components.merging.recipe.parsing import refused
from crucible_components.merging.recipe.planning import Planner
from crucible_components.merging.recipe.references import (
    leading_model,
    merged_models,
    tokenizer_models,
)
from crucible_components.merging.recipe.schema import MergeFile
from crucible_components.merging.sources.comparison import Comparison, compare_configs
from crucible_components.merging.sources.locating import Folder, locate
from crucible_components.merging.sources.opening import Source, open_models
from crucible_components.merging.sources.result import (
    LayerOrigin,
    Settings,
    layer_notes,
    result_config,
)
from crucible_components.merging.sources.text_settings import num_layers
from crucible_components.merging.sources.ties import Untangled, untangle
from crucible_components.merging.vocabulary import VocabularyPlan, plan_vocabulary

GENERATION_FILE = "generation_config.json"


@contextmanager
def prepare(
    file: MergeFile,
    text: str,
    *,
    lookup: Mapping[str, Folder] | None = None,
    options: MergeOptions | None = None,
    scratch_dir: Path | None = None,
) -> Iterator[Merge]:
    """The merge, its models open until the block ends.

    Args:
        file: what is to be done.
        text: the same as it was given, kept beside the result.
        lookup: models by the names that the file uses for them; they come before all other places.
        options: how it is to be done.
        scratch_dir: where artifacts of other stores may put files.

    Raises:
        UserError: it cannot be done; lists every reason.
    """
    lookup = lookup or {}
    with ExitStack() as stack:
        sources = open_models(merged_models(file), lookup, scratch_dir=scratch_dir)
        for source in sources.values():
            stack.callback(source.close)
        folders = {name: source.folder for name, source in sources.items()}
        folders |= _tokenizer_folders(file, folders, lookup, scratch_dir)
        yield _Preparation(file, text, options or MergeOptions(), sources, folders).merge()


def _tokenizer_folders(
    file: MergeFile,
    known: Mapping[str, Folder],
    lookup: Mapping[str, Folder],
    scratch_dir: Path | None,
) -> dict[str, Folder]:
    """Of models that give nothing but tokens."""
    found: dict[str, Folder] = {}
    problems: list[Problem] = []
    for reference in tokenizer_models(file):
        if str(reference) not in known:
            try:
                located = locate(reference.model, lookup, scratch_dir=scratch_dir)
                found[str(reference)] = located.folder
            except UserError as error:
                problems += error.problems
    if problems:
        raise refused(problems)
    return found


class _Preparation:
    """What is found on the way from the file to the merge."""

    def __init__(
        self,
        file: MergeFile,
        text: str,
        options: MergeOptions,
        sources: Mapping[str, Source],
        folders: Mapping[str, Folder],
    ) -> None:
        self.file, self.text, self.options, self.sources = file, text, options, sources
        self.folders = folders
        self.configs = {name: source.config for name, source in sources.items()}
        self.leader = str(leading_model(file))

    def merge(self) -> Merge:
        readers = {name: source.reader for name, source in self.sources.items()}
        untangled = untangle(readers, self.configs)
        infos = {name: reader.infos for name, reader in untangled.readers.items()}
        vocabulary = plan_vocabulary(self.file, self.folders, infos, self.configs)
        headers = {
            name: ModelHeaders(found, num_layers(self.configs[name]))
            for name, found in vocabulary.infos.items()
        }
        planner = Planner(self.file, headers)
        plans = planner.plan()
        compared = self._compare()
        problems = [
            *untangled.problems,
            *vocabulary.problems,
            *compared.problems,
            *planner.problems,
        ]
        if problems:
            raise refused(list(dict.fromkeys(problems)))
        layers = [LayerOrigin(*origin) for origin in planner.layers] or None
        config = self._config(untangled, vocabulary, layers)
        notes = [*untangled.notes, *vocabulary.notes, *compared.notes, *planner.notes]
        return Merge(
            file=self.file,
            text=self.text,
            options=self.options,
            sources=self.sources,
            leader=self.leader,
            readers=vocabulary.readers(untangled.readers),
            plans=tuple(plans),
            config=config,
            tokenizer_files={**vocabulary.files, **self._generation_settings(vocabulary)},
            tokenizer_differences=tuple(
                line for each in vocabulary.differences for line in each.lines
            ),
            notes=(*notes, *layer_notes(config, layers or ())),
        )

    def _compare(self) -> Comparison:
        """With the settings of models of the leader's type; a module may be of another type."""
        kind = self.configs[self.leader].get("model_type")
        configs = self.configs
        if self.file.modules:
            configs = {m: c for m, c in configs.items() if c.get("model_type") == kind}
        return compare_configs(configs, self.leader, layers_are_free=self.file.slices is not None)

    def _generation_settings(self, vocabulary: VocabularyPlan) -> dict[str, bytes]:
        """They name tokens, so they come with the tokenizer."""
        folder = self.folders[vocabulary.source]
        if vocabulary.source == self.leader or GENERATION_FILE not in folder.paths():
            return {}
        with folder.open(GENERATION_FILE) as stream:
            return {GENERATION_FILE: stream.read()}

    def _config(
        self,
        untangled: Untangled,
        vocabulary: VocabularyPlan,
        layers: list[LayerOrigin] | None,
    ) -> dict[str, object]:
        settings = Settings(
            layers=layers,
            is_tied=untangled.is_tied,
            dtype=self.file.out_dtype or self.file.dtype,
        )
        return vocabulary.config(result_config(self.configs, self.leader, settings))
