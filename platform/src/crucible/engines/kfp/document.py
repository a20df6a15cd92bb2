"""A compiled pipeline as a file: two YAML documents, as the kfp SDK writes them."""

from __future__ import annotations

from crucible.engines.kfp.compile import Options, compile_plan
from crucible.engines.kfp.ir import Document
from crucible.plan.model import Import, Plan
from crucible.specs.context import ContextDocument


def compiled(plan: Plan, context: ContextDocument) -> Document:
    """The pipeline of ``plan``, its imports standing by what they were when it was planned.

    Raises:
        UserError: the plan cannot run in ``context``.
    """
    return compile_plan(plan, context, Options(imports=planned_imports(plan)))


def planned_imports(plan: Plan) -> dict[str, str]:
    """Identity by URI of what the plan takes from outside.

    Of an artifact or a model that is the digest under which the store has it. Of a file it is the
    digest of its content: its artifact is made when the plan is submitted.
    """
    sources = (source for step in plan.all_steps for slot in step.inputs for source in slot.sources)
    return {source.uri: source.identity for source in sources if isinstance(source, Import)}


def to_yaml(document: Document) -> str:
    """The pipeline and, behind it, its platform."""
    import yaml

    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    documents = [document.pipeline(), document.platform()]
    return str(yaml.dump_all(documents, Dumper=dumper, sort_keys=False, width=100))
