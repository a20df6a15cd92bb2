"""Contexts of a user: which is current, which exist, and files that are wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from crucible.cluster.contexts import (
    add_context,
    list_contexts,
    load,
    load_current,
    remove_context,
    use_context,
)
from crucible.errors import UserError
from crucible.settings import Settings

FILE = """\
apiVersion: crucible/v1
kind: Context
metadata: {{name: {name}}}
store: {{uri: "s3://bucket/prefix"}}
images: {{base: "registry/base@sha256:{digest}"}}
"""


@pytest.fixture
def env(tmp_path) -> dict[str, str]:
    return {"XDG_CONFIG_HOME": str(tmp_path / "config"), "CRUCIBLE_HOME": str(tmp_path / "home")}


def context_file(tmp_path: Path, name: str) -> Path:
    path = tmp_path / f"{name}.yaml"
    path.write_text(FILE.format(name=name, digest="0" * 64))
    return path


def current(env: dict[str, str]) -> list[str]:
    return [entry.name for entry in list_contexts(env) if entry.is_current]


def test_at_first_there_is_this_machine(env) -> None:
    assert [(e.name, e.path, e.is_current) for e in list_contexts(env)] == [("local", None, True)]
    assert Settings.load(env).context is None


def test_add_use_remove(env, tmp_path) -> None:
    entry = add_context(context_file(tmp_path, "dev"), environ=env)
    assert entry.path == tmp_path / "config/crucible/contexts/dev.yaml"
    assert entry.path.read_text() == context_file(tmp_path, "dev").read_text()
    assert entry.path.stat().st_mode & 0o077 == 0
    assert current(env) == ["local"]
    use_context("dev", env)
    assert current(env) == ["dev"]
    assert Settings.load(env).context == "dev"
    assert load_current(Settings.load(env), env).metadata.name == "dev"
    remove_context("dev", env)
    assert current(env) == ["local"]
    assert not entry.path.exists()


def test_the_variable_wins(env, tmp_path) -> None:
    for name in ("dev", "prod"):
        add_context(context_file(tmp_path, name), environ=env)
    use_context("dev", env)
    assert current({**env, "CRUCIBLE_CONTEXT": "prod"}) == ["prod"]
    assert current({**env, "CRUCIBLE_CONTEXT": "local"}) == ["local"]
    assert Settings.load({**env, "CRUCIBLE_CONTEXT": "local"}).context is None
    assert current({**env, "CRUCIBLE_CONTEXT": ""}) == ["dev"]


def test_without_xdg_the_home_folder_is_used(tmp_path) -> None:
    env = {"HOME": str(tmp_path), "CRUCIBLE_HOME": str(tmp_path / "home")}
    add_context(context_file(tmp_path, "dev"), environ=env)
    assert (tmp_path / ".config/crucible/contexts/dev.yaml").is_file()


def test_without_a_home_there_is_only_this_machine(tmp_path) -> None:
    env = {"CRUCIBLE_HOME": str(tmp_path)}
    assert current(env) == ["local"]
    with pytest.raises(UserError, match="HOME"):
        add_context(context_file(tmp_path, "dev"), environ=env)
    with pytest.raises(UserError, match="CRUCIBLE_CONTEXT"):
        use_context("local", env)


def test_a_name_twice(env, tmp_path) -> None:
    add_context(context_file(tmp_path, "dev"), environ=env)
    with pytest.raises(UserError, match="--replace"):
        add_context(context_file(tmp_path, "dev"), environ=env)
    add_context(context_file(tmp_path, "dev"), replace=True, environ=env)


@pytest.mark.parametrize("call", [use_context, remove_context, load])
def test_a_misspelt_name(env, tmp_path, call) -> None:
    add_context(context_file(tmp_path, "staging"), environ=env)
    with pytest.raises(UserError, match="Did you mean 'staging'"):
        call("stagin", env)


@pytest.mark.parametrize("name", ["../../secret", "/etc/passwd", "a/b", "", "UPPER"])
def test_a_name_is_no_path(env, tmp_path, name) -> None:
    (tmp_path / "config/crucible").mkdir(parents=True)
    (tmp_path / "config/secret.yaml").write_text("here")
    with pytest.raises(UserError):
        load(name, env)


@pytest.mark.parametrize("name", [None, "local"])
def test_this_machine_is_no_cluster(env, tmp_path, name) -> None:
    with pytest.raises(UserError, match="context add FILE"):
        load(name, env)
    add_context(context_file(tmp_path, "dev"), environ=env)
    with pytest.raises(UserError, match="There are dev"):
        load(name, env)
    with pytest.raises(UserError, match="built in"):
        remove_context("local", env)


def test_a_bad_file_is_not_added(env, tmp_path) -> None:
    path = context_file(tmp_path, "dev")
    path.write_text(path.read_text() + "stor: 1\n")
    with pytest.raises(UserError) as caught:
        add_context(path, environ=env)
    assert caught.value.problems[0].line == 6
    assert "store" in caught.value.problems[0].fix
    assert len(list_contexts(env)) == 1


def test_a_file_under_another_name(env, tmp_path) -> None:
    entry = add_context(context_file(tmp_path, "dev"), environ=env)
    entry.path.rename(entry.path.with_name("other.yaml"))
    with pytest.raises(UserError, match=r"metadata\.name is 'dev'"):
        load("other", env)


def test_a_chosen_context_that_is_gone_is_an_error_not_this_machine(env, tmp_path) -> None:
    entry = add_context(context_file(tmp_path, "dev"), environ=env)
    use_context("dev", env)
    entry.path.unlink()
    assert Settings.load(env).context == "dev"
    with pytest.raises(UserError, match="there is no context 'dev'"):
        load_current(Settings.load(env), env)
