import json
from collections.abc import Callable

import pytest

from crucible.engines.kfp.compile import MAX_ITEMS_BYTES, Options, compile_plan
from crucible.engines.kfp.document import to_yaml
from crucible.errors import UserError
from crucible.plan.model import Condition, Gate, Import, MetricRef, Plan, Release, StepOutput
from crucible.sdk.component import Resources
from crucible.sdk.pod.request import patched
from crucible.testing.plans import make_plan, make_step, noop_chain

from .conftest import Compiled, MakeContext

Compile = Callable[..., Compiled]
IMAGE = "registry/base@sha256:" + "0" * 64


def fan_out(number: int, **fields: object) -> Plan:
    items = [make_step(f"trial[{i}]", "Emit", config={"values": {"x": i}}) for i in range(number)]
    read = make_step("sum", "Sum", {"metrics": [StepOutput(i.id, "metrics") for i in items]})
    return make_plan(*items, read, **fields)


def conditional() -> Plan:
    ref = MetricRef("probe", "metrics", "score")
    when = (Condition(ref, ">=", 0.5), Condition(ref, "<", 2.0))
    return make_plan(
        make_step("probe", "Emit", config={"values": {"score": 1}}),
        make_step("train", "Noop", when=when, after=("probe",)),
        make_step("next", "Noop", {"dataset": StepOutput("train", "dataset")}),
    )


def test_a_step_gets_all_that_its_pod_needs(make_context: MakeContext, compile_it: Compile) -> None:
    source = make_step("source", "Noop", image=IMAGE)
    reader = make_step(
        "reader",
        "Noop",
        {"dataset": StepOutput("source", "dataset")},
        config={"salt": "s"},
        seed=3,
        image=IMAGE,
    )
    plan = make_plan(source, reader)
    compiled = compile_it(plan, make_context())
    task = compiled.root["reader"]
    values = compiled.constants(task)
    assert values["config"] == {"salt": "s"}
    assert values["plan"] == plan.digest
    assert values["kfp_run_id"] == "{{$.pipeline_job_uuid}}"
    assert values["step"] == {
        "step_id": "reader",
        "component": "crucible.testing.components:Noop",
        "fingerprint": reader.fingerprint,
        "code": "",
        "seed": 3,
        "cache": True,
        "cpus": 0.5,
        "optional_outputs": [],
        "inputs": {"dataset": [{"step": "source", "output": "dataset"}]},
        "outputs": {"dataset": {"name": "Dataset", "variant": "any"}},
        "metric_refs": {},
        "parameters": {},
    }
    assert task["inputs"]["parameters"]["run_id"] == {"componentInputParameter": "run_id"}
    assert task["inputs"]["artifacts"] == {
        "dataset.0": {
            "taskOutputArtifact": {"producerTask": "source", "outputArtifactKey": "dataset"}
        }
    }
    assert task["dependentTasks"] == ["source"]
    assert task["cachingOptions"] == {}
    container = compiled.executor("reader")
    assert container["command"] == ["python3", "-P", "-m", "crucible.step"]
    assert container["args"][1:] == ["--executor-input", "{{$}}"]
    assert container["image"] == IMAGE


def test_the_run_id_may_be_left_out_where_somebody_else_submits(
    make_context: MakeContext, compile_it: Compile
) -> None:
    root = compile_it(noop_chain(1), make_context()).pipeline["root"]
    assert root["inputDefinitions"]["parameters"]["run_id"] == {
        "parameterType": "STRING",
        "isOptional": True,
        "defaultValue": "",
    }


def test_no_two_containers_are_equal(make_context: MakeContext, compile_it: Compile) -> None:
    """KFP keeps one component a container: equal ones would share inputs and outputs."""
    compiled = compile_it(released(noop_chain(4)), make_context())
    executors = compiled.pipeline["deploymentSpec"]["executors"].values()
    assert len({json.dumps(executor) for executor in executors}) == len(executors)


def test_a_fan_out_is_a_loop_whose_items_say_what_sets_them_apart(
    make_context: MakeContext, compile_it: Compile
) -> None:
    plan = fan_out(5)
    compiled = compile_it(plan, make_context())
    loop = compiled.root["trial-items"]
    items = json.loads(loop["parameterIterator"]["items"]["raw"])
    inner = compiled.tasks_of("comp-trial-items")["trial"]
    values = compiled.constants(inner)
    members = [
        patched({**values["step"], "config": values["config"]}, json.loads(item)) for item in items
    ]
    assert [member["step_id"] for member in members] == [f"trial[{i}]" for i in range(5)]
    assert [member["config"]["values"] for member in members] == [{"x": i} for i in range(5)]
    assert [member["fingerprint"] for member in members] == [s.fingerprint for s in plan.steps[:5]]
    reader = compiled.root["sum"]
    assert reader["dependentTasks"] == ["trial-items"]
    assert compiled.constants(reader)["step"]["inputs"] == {
        "metrics": [{"step": "trial", "output": "metrics", "count": 5}]
    }


def test_a_thousand_items_fit_what_one_argument_may_have(
    make_context: MakeContext, compile_it: Compile
) -> None:
    compiled = compile_it(fan_out(1000), make_context())
    loops = [task for name, task in compiled.root.items() if name.startswith("trial-items")]
    components = [loop["componentRef"]["name"] for loop in loops]
    assert len(set(components)) == len(loops)  # KFP refuses two loops over one component
    items = [json.loads(loop["parameterIterator"]["items"]["raw"]) for loop in loops]
    assert sum(map(len, items)) == 1000
    assert max(len(json.dumps(loop)) for loop in loops) < 128 * 1024 / 1.5
    assert len(loops) < 1000 * 250 / MAX_ITEMS_BYTES + 1
    assert len(json.dumps(compiled.root["sum"])) < 4096
    assert sorted(compiled.root["sum"]["dependentTasks"]) == sorted(
        name for name in compiled.root if name.startswith("trial-items")
    )


def test_a_condition_compares_what_the_other_step_measured(
    make_context: MakeContext, compile_it: Compile
) -> None:
    compiled = compile_it(conditional(), make_context())
    train = compiled.root["train"]
    name = "probe.metrics.score"
    value = f"inputs.parameter_values['{name}']"
    assert train["triggerPolicy"]["condition"] == f"{value} >= 0.5 && {value} < 2.0"
    assert train["inputs"]["parameters"][name] == {
        "taskOutputParameter": {"producerTask": "probe", "outputParameterKey": name}
    }
    probe = compiled.pipeline["components"]["comp-probe"]
    assert probe["outputDefinitions"]["parameters"] == {name: {"parameterType": "NUMBER_DOUBLE"}}
    assert compiled.constants(compiled.root["probe"])["step"]["parameters"] == {
        name: {"step": "probe", "output": "metrics", "metric": "score"}
    }
    assert "triggerPolicy" not in compiled.root["next"]


def test_a_fan_out_with_a_condition_is_a_level_of_its_own(
    make_context: MakeContext, compile_it: Compile
) -> None:
    """A loop whose condition does not hold has succeeded to Argo, and what follows it would run."""
    when = (Condition(MetricRef("probe", "metrics", "score"), ">", 1.0),)
    items = [make_step(f"trial[{i}]", "Emit", when=when, after=("probe",)) for i in range(2)]
    read = make_step("sum", "Sum", {"metrics": [StepOutput(i.id, "metrics") for i in items]})
    compiled = compile_it(make_plan(make_step("probe", "Emit"), *items, read), make_context())
    level = compiled.root["trial"]
    assert "probe.metrics.score" in level["triggerPolicy"]["condition"]
    assert level["dependentTasks"] == ["probe"]
    loop = compiled.tasks_of(level["componentRef"]["name"])["trial-items"]
    assert "triggerPolicy" not in loop
    assert compiled.root["sum"]["dependentTasks"] == ["trial"]
    declared = compiled.pipeline["components"]["comp-trial"]["inputDefinitions"]["parameters"]
    assert "probe.metrics.score" not in declared


def test_a_lost_pod_is_tried_again_however_long_it_ran(
    make_context: MakeContext, compile_it: Compile
) -> None:
    """KFP's ``backoffMaxDuration`` is a time after the start of the first attempt."""
    task = compile_it(noop_chain(1), make_context()).root["step0"]
    assert int(task["retryPolicy"]["backoffMaxDuration"].removesuffix("s")) >= 14 * 24 * 3600


@pytest.mark.parametrize(("value", "written"), [(1e-7, "1e-07"), (5.0, "5.0"), (-2.5, "-2.5")])
def test_numbers_in_conditions_are_doubles(
    make_context: MakeContext, compile_it: Compile, value: float, written: str
) -> None:
    when = (Condition(MetricRef("probe", "metrics", "score"), ">", value),)
    plan = make_plan(
        make_step("probe", "Emit"), make_step("train", "Noop", when=when, after=("probe",))
    )
    condition = compile_it(plan, make_context()).root["train"]["triggerPolicy"]["condition"]
    assert condition.endswith(f"> {written}")


def test_a_condition_on_a_done_step_is_decided_already(
    make_context: MakeContext, compile_it: Compile
) -> None:
    compiled = compile_it(conditional(), make_context(), done=frozenset({"probe"}))
    assert set(compiled.root) == {"train", "next"}
    assert "triggerPolicy" not in compiled.root["train"]
    assert "dependentTasks" not in compiled.root["train"]
    declared = compiled.pipeline["components"]["comp-train"]["inputDefinitions"]["parameters"]
    assert declared.keys() == compiled.root["train"]["inputs"]["parameters"].keys()


def released(plan: Plan) -> Plan:
    model = make_step("model", "MakeModel")
    score = make_step("score", "Emit")
    release = Release(StepOutput("model", "model"), "m", Gate(StepOutput("score", "metrics")))
    return make_plan(
        *plan.steps, model, score, release=release, on_exit=make_step("on_exit", "Emit")
    )


def test_the_release_waits_for_all_and_the_exit_step_for_everything(
    make_context: MakeContext, compile_it: Compile
) -> None:
    plan = released(noop_chain(2))
    compiled = compile_it(plan, make_context())
    assert set(compiled.root) == {"run", "on-exit"}
    level = compiled.tasks_of("comp-run")
    assert set(level) == {"step0", "step1", "model", "score", "crucible-release"}
    assert level["crucible-release"]["dependentTasks"] == ["model", "score", "step0", "step1"]
    values = compiled.constants(level["crucible-release"])
    assert values["step"]["component"] == "crucible.engines.kfp.closing:ReleaseModel"
    assert values["config"] == {"plan": plan.digest}
    end = compiled.root["on-exit"]
    assert end["dependentTasks"] == ["run"]
    assert end["triggerPolicy"] == {"strategy": "ALL_UPSTREAM_TASKS_COMPLETED"}
    chain = compiled.constants(end)["chain"]
    assert [member["step_id"] for member in chain] == ["crucible-record", "on_exit"]


def test_what_a_condition_skips_does_not_keep_the_release_from_running(
    make_context: MakeContext, compile_it: Compile
) -> None:
    compiled = compile_it(released(conditional()), make_context())
    level = compiled.tasks_of("comp-run")
    assert set(level) == {"steps", "crucible-release"}
    assert level["crucible-release"]["dependentTasks"] == ["steps"]
    assert {"probe", "train", "next"} < set(compiled.tasks_of("comp-steps"))


def test_with_mlflow_a_run_is_ended_even_without_an_exit_step(
    make_context: MakeContext, compile_it: Compile
) -> None:
    context = make_context('mlflow: {uri: "http://mlflow.crucible-system:5000"}')
    compiled = compile_it(noop_chain(1), context)
    values = compiled.constants(compiled.root["on-exit"])
    assert values["step"]["component"] == "crucible.engines.kfp.closing:RecordRun"
    env = {entry["name"]: entry["value"] for entry in compiled.executor("step0")["env"]}
    assert env["MLFLOW_TRACKING_URI"] == "http://mlflow.crucible-system:5000"


def test_chains_share_a_pod_if_the_context_wants_it(
    make_context: MakeContext, compile_it: Compile
) -> None:
    wide = Resources(cpus=0.5, memory_gib=3.0)
    plan = noop_chain(3)
    split = make_step("big", "Noop", {"dataset": StepOutput("step2", "dataset")}, resources=wide)
    on_gpu = make_step(
        "gpu",
        "Noop",
        {"dataset": StepOutput("big", "dataset")},
        resources=Resources(gpus=1, pool="gpu-train"),
    )
    plan = make_plan(*plan.steps, split, on_gpu)
    assert len(compile_it(plan, make_context()).root) == 5
    compiled = compile_it(plan, make_context("chain_steps: true"))
    assert set(compiled.root) == {"big", "gpu"}
    chain = compiled.constants(compiled.root["big"])["chain"]
    assert [member["step_id"] for member in chain] == ["step0", "step1", "step2", "big"]
    assert compiled.executor("big")["resources"]["resourceMemoryLimit"] == "3584Mi"
    assert compiled.root["gpu"]["inputs"]["artifacts"]["dataset.0"]["taskOutputArtifact"] == {
        "producerTask": "big",
        "outputArtifactKey": "big.dataset",
    }


def test_a_chain_ends_where_two_read(make_context: MakeContext, compile_it: Compile) -> None:
    plan = make_plan(
        make_step("a", "Noop"),
        make_step("b", "Noop", {"dataset": StepOutput("a", "dataset")}),
        make_step("c", "Noop", {"dataset": StepOutput("a", "dataset")}),
    )
    assert set(compile_it(plan, make_context("chain_steps: true")).root) == {"a", "b", "c"}


def test_done_steps_cost_no_pod_and_are_read_from_the_journal(
    make_context: MakeContext, compile_it: Compile
) -> None:
    compiled = compile_it(
        noop_chain(3),
        make_context(),
        done=frozenset({"step0", "step1"}),
        fresh=frozenset({"step2"}),
    )
    assert set(compiled.root) == {"step2"}
    task = compiled.root["step2"]
    assert "artifacts" not in task["inputs"]
    step = compiled.constants(task)["step"]
    assert step["inputs"] == {"dataset": [{"step": "step1", "output": "dataset"}]}
    assert step["cache"] is False


def test_imports_stand_by_their_digest(make_context: MakeContext, compile_it: Compile) -> None:
    source = Import("file:///data", "sha256:tree")
    plan = make_plan(make_step("a", "Noop", {"dataset": source}))
    compiled = compile_it(plan, make_context(), imports={"file:///data": "sha256:stored"})
    step = compiled.constants(compiled.root["a"])["step"]
    assert step["inputs"] == {"dataset": [{"digest": "sha256:stored"}]}


def test_pages_of_kfp_get_what_they_can_show(
    make_context: MakeContext, compile_it: Compile
) -> None:
    compiled = compile_it(make_plan(make_step("emit", "Emit")), make_context())
    outputs = compiled.pipeline["components"]["comp-emit"]["outputDefinitions"]["artifacts"]
    titles = {name: kind["artifactType"]["schemaTitle"] for name, kind in outputs.items()}
    assert titles == {
        "dataset": "system.Dataset",
        "metrics": "system.Metrics",
        "report": "system.Artifact",
        "report.html": "system.HTML",
    }


def test_settings_that_no_argument_can_carry_are_refused_all_at_once(
    make_context: MakeContext,
) -> None:
    plan = make_plan(
        make_step("a", "Noop", config={"salt": "x" * 200_000}),
        make_step("b", "Noop", config={"salt": "x" * 300_000}),
    )
    with pytest.raises(UserError) as caught:
        compile_plan(plan, make_context())
    assert [problem.path for problem in caught.value.problems] == ["steps.a.with", "steps.b.with"]


def test_more_tasks_than_a_workflow_holds_are_refused_with_a_way_out(
    make_context: MakeContext, compile_it: Compile
) -> None:
    with pytest.raises(UserError) as caught:
        compile_plan(noop_chain(150), make_context())
    (problem,) = caught.value.problems
    assert "are 150 tasks" in problem.message
    assert "foreach, or set chain_steps" in problem.fix
    joined = compile_it(noop_chain(150), make_context("chain_steps: true"))
    assert len(joined.root) == 8
    assert max(len(json.dumps(task)) for task in joined.root.values()) < 128 * 1024


def test_a_long_pipeline_compiles_to_yaml(make_context: MakeContext) -> None:
    document = compile_plan(noop_chain(100), make_context(), Options())
    assert to_yaml(document).count("crucible.step\n") == 100
