import json
import sys
from pathlib import Path

import pytest

from crucible.errors import UserError
from crucible.sdk.catalogue import component_names, load_component
from crucible.sdk.component import Component, ComponentConfig, ComponentInputs

GOOD = """
from crucible.sdk.component import Component, ComponentConfig
class Clean(Component):
    '''Clean.'''
    name = "clean"
    def run(self, inputs, config, outputs, context): ...
class Half(Component):
    name = "half"
class Other: ...
"""


@pytest.fixture
def working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry != ""])
    return tmp_path


def write_module(folder: Path, name: str, text: str) -> None:
    (folder / f"{name}.py").write_text(text)


@pytest.mark.parametrize("name", component_names())
def test_every_catalogue_entry_loads_under_its_own_name(name: str) -> None:
    assert load_component(name).name == name


def test_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(UserError, match=r"Did you mean 'merge-models'\? Valid: .*train-vlm"):
        load_component("merge-model")


def test_own_component_is_found_in_the_working_folder(working_folder: Path) -> None:
    write_module(working_folder, "steps_found", GOOD)
    assert load_component("steps_found:Clean").summary() == "Clean."


@pytest.mark.parametrize(
    ("uses", "message"),
    [
        ("steps_bad:Claen", r"does not exist. Did you mean 'Clean'\?"),
        ("steps_bad:Other", "is not a subclass"),
        ("steps_bad:Half", r"Half\.run: is not defined"),
        ("steps_absent:Clean", "no module named 'steps_absent'. Install it, or run from"),
        ("steps_missing:Clean", "no module named 'not_there_xyz'. Install what it imports"),
        ("steps_raising:Clean", "importing steps_raising failed: ZeroDivisionError"),
        ("steps_bad:", "package.module:Class"),
    ],
)
def test_wrong_own_component_is_one_clear_error(
    working_folder: Path, uses: str, message: str
) -> None:
    write_module(working_folder, "steps_bad", GOOD)
    write_module(working_folder, "steps_missing", "import not_there_xyz\n")
    write_module(working_folder, "steps_raising", "1 / 0\n")
    with pytest.raises(UserError, match=message):
        load_component(uses)
    sys.modules.pop("steps_bad", None)


def test_contradictions_in_a_declaration_are_all_reported(working_folder: Path) -> None:
    write_module(
        working_folder,
        "steps_clash",
        """
from typing import Annotated
from crucible.sdk.component import Component, ComponentConfig, ComponentInputs, ComponentOutputs
from crucible.sdk.types import Model, SameVariantAs
class Clash(Component):
    name = "clash"
    class Inputs(ComponentInputs):
        models: list[Model]
    class Config(ComponentConfig):
        models: int = 1
    class Outputs(ComponentOutputs):
        merged: Annotated[Model, SameVariantAs("model")]
        many: list[Model]
    def run(self, inputs, config, outputs, context): ...
""",
    )
    with pytest.raises(UserError) as caught:
        load_component("steps_clash:Clash")
    assert [problem.path for problem in caught.value.problems] == [
        "Clash.models",
        "Clash.Outputs.merged",
        "Clash.Outputs.many",
    ]
    assert "Did you mean 'models'?" in str(caught.value)


def test_slot_of_no_artifact_type_is_named(working_folder: Path) -> None:
    write_module(
        working_folder,
        "steps_slot",
        """
from crucible.sdk.component import Component, ComponentInputs
class Wrong(Component):
    name = "wrong"
    class Inputs(ComponentInputs):
        count: int
    def run(self, inputs, config, outputs, context): ...
""",
    )
    with pytest.raises(UserError, match=r"Wrong\.Inputs\.count: .*int.* is not an artifact type"):
        load_component("steps_slot:Wrong")


def test_catalogue_imports_nothing_heavy() -> None:
    import subprocess

    code = (
        "import sys, json; from crucible.sdk.catalogue import component_names; component_names();"
        "print(json.dumps([n for n in ('torch','transformers','mlflow','kfp','minio','numpy')"
        " if n in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []


def test_contract_classes_are_importable_names() -> None:
    assert issubclass(Component.Config, ComponentConfig)
    assert issubclass(Component.Inputs, ComponentInputs)
