import subprocess
import sys
from pathlib import Path

import pytest

COMPONENT = """
from crucible.sdk.component import Component
from proj.direct import thing
class Own(Component):
    name = "own"
    def run(self, inputs, config, outputs, context):
        from .lazy import work
        import lone
"""
FILES = {
    "proj/__init__.py": "",
    "proj/steps/__init__.py": "",
    "proj/steps/component.py": COMPONENT,
    "proj/steps/lazy.py": "from .. import above\n",
    "proj/above.py": "X = 1\n",
    "proj/direct/__init__.py": "from proj.direct.thing import thing\n",
    "proj/direct/thing.py": "import json\nthing = 1\n",
    "proj/unrelated.py": "X = 1\n",
    "lone.py": "X = 1\n",
    "apart.py": "X = 1\n",
}
IN_CLOSURE = sorted(FILES.keys() - {"proj/unrelated.py", "apart.py"})


def write_project(folder: Path) -> None:
    for path, text in FILES.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)


def digest_in_new_process(folder: Path, *, extra: str = "") -> str:
    code = (
        f"import sys; sys.path.insert(0, {str(folder)!r})\n{extra}\n"
        "from crucible.sdk.catalogue import load_component\n"
        "from crucible.sdk.fingerprint import code_digest\n"
        "digest = code_digest(load_component('proj.steps.component:Own'))\n"
        "assert not {'proj.steps.lazy', 'lone', 'proj.above'} & set(sys.modules)\n"
        "print(digest)"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def digests_in_one_process(folder: Path, edits: list[tuple[str, str]]) -> list[str]:
    """The digest before, and after each edit alone, memo cleared in between."""
    script = f"""
import sys, pathlib
root = pathlib.Path({str(folder)!r})
sys.path.insert(0, str(root))
from crucible.sdk.catalogue import load_component
from crucible.sdk.fingerprint import code_digest
cls = load_component('proj.steps.component:Own')
print(code_digest(cls))
for path, text in {edits!r}:
    old = (root / path).read_text()
    (root / path).write_text(text)
    code_digest.cache_clear()
    print(code_digest(cls))
    (root / path).write_text(old)
"""
    done = subprocess.run(
        [sys.executable, "-I", "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_digest_follows_exactly_the_import_closure(tmp_path: Path) -> None:
    write_project(tmp_path)
    edits = [(path, FILES[path] + "# edited\n") for path in FILES]
    before, *after = digests_in_one_process(tmp_path, edits)
    changed = [path for (path, _), digest in zip(edits, after, strict=True) if digest != before]
    assert sorted(changed) == IN_CLOSURE


def test_digest_does_not_depend_on_where_the_project_lies(tmp_path: Path) -> None:
    for place in ("here", "there"):
        write_project(tmp_path / place)
    assert digest_in_new_process(tmp_path / "here") == digest_in_new_process(tmp_path / "there")


def test_installed_package_counts_itself_only(tmp_path: Path) -> None:
    installed = tmp_path / "site-packages"
    write_project(installed)
    before, lone, own = digests_in_one_process(
        installed, [("lone.py", "X = 2\n"), ("proj/above.py", "X = 2\n")]
    )
    assert lone == before
    assert own != before


def test_new_import_brings_its_module_in(tmp_path: Path) -> None:
    write_project(tmp_path)
    lazy = "from .. import above\nimport apart\n"
    before, edited = digests_in_one_process(tmp_path, [("proj/steps/lazy.py", lazy)])
    (tmp_path / "proj/steps/lazy.py").write_text(lazy)
    with_import, apart_edited = digests_in_one_process(tmp_path, [("apart.py", "X = 9\n")])
    assert before != edited == with_import != apart_edited


def test_import_of_a_broken_module_names_its_line(tmp_path: Path) -> None:
    write_project(tmp_path)
    (tmp_path / "lone.py").write_text("x = 1\ndef (:\n")
    with pytest.raises(AssertionError, match=r"UserError: .*lone\.py:2: "):
        digest_in_new_process(tmp_path)


def test_renamed_module_changes_the_digest(tmp_path: Path) -> None:
    write_project(tmp_path)
    before = digest_in_new_process(tmp_path)
    (tmp_path / "lone.py").rename(tmp_path / "sole.py")
    renamed = COMPONENT.replace("lone", "sole")
    (tmp_path / "proj/steps/component.py").write_text(renamed)
    assert digest_in_new_process(tmp_path) != before


def test_platform_component_leaves_the_step_process_out() -> None:
    from crucible.sdk import fingerprint, runner
    from crucible.testing import components

    names = fingerprint._closure(components).keys()
    assert "crucible.testing.components" in names
    assert "crucible.sdk.types" in names
    assert runner.__name__ not in names


def environment_digest_with(folder: Path) -> str:
    code = (
        f"import sys; sys.path.append({str(folder)!r})\n"
        "from crucible.sdk.fingerprint import environment_digest\n"
        "print(environment_digest())"
    )
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout


def test_environment_digest_names_distributions_and_versions(tmp_path: Path) -> None:
    base = environment_digest_with(tmp_path / "absent")
    (tmp_path / "new_thing-1.0.dist-info").mkdir()
    one = environment_digest_with(tmp_path)
    (tmp_path / "new_thing-1.0.dist-info").rename(tmp_path / "new_thing-1.1.dist-info")
    two = environment_digest_with(tmp_path)
    assert len({base, one, two}) == 3


def test_first_distribution_on_the_path_wins_and_ours_does_not_count(tmp_path: Path) -> None:
    base = environment_digest_with(tmp_path / "absent")
    (tmp_path / "pydantic-0.1.dist-info").mkdir()
    (tmp_path / "crucible_platform-9.9.dist-info").mkdir()
    assert environment_digest_with(tmp_path) == base
