"""Checks, before a run, which parts of a pipeline cannot run here and which settings are ignored."""

from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any

from workshop.sandbox.pipelines_api.engine import expressions, spec, structure
from workshop.sandbox.pipelines_api.engine.artifacts import SCHEMES, is_local
from workshop.sandbox.pipelines_api.engine.errors import EngineError
from workshop.sandbox.pipelines_api.engine.spec import Place, Spec

MAX_EXPRESSIONS = 400_000  # letters of all different expressions of a pipeline
MAX_NAMED = 10  # errors of a pipeline, and ignored settings of one kind in a warning
_EXECUTOR = "kfp.dsl.executor_main"
_DOCKER = "workshop sandbox up --runner docker"
# kfp-kubernetes uses these image names for tasks that are requests to Kubernetes instead of containers.
_KUBERNETES_REQUESTS = {"argostub/createpvc": "creates a volume claim", "argostub/deletepvc": "deletes a volume claim"}
# Settings of an executor in a platform specification, and the warning that the sandbox ignores them.
_IGNORED = {
    "secretAsEnv": "the variables from secrets are not set: {}",
    "secretAsVolume": "the secrets that it mounts as files do not exist: {}",
    "configMapAsEnv": "the variables from config maps are not set: {}",
    "configMapAsVolume": "the config maps that it mounts as files do not exist: {}",
    "fieldPathAsEnv": "the variables from its pod are not set: {}",
    "pvcMount": "the volumes that it mounts do not exist: {}",
    "genericEphemeralVolume": "the volumes that it mounts do not exist: {}",
    "emptyDirMounts": "the empty folders that it mounts do not exist: {}",
    "nodeSelector": "its node selector is ignored",
    "nodeAffinity": "its node affinity is ignored",
    "podAffinity": "its pod affinity is ignored",
    "tolerations": "its tolerations are ignored",
    "podMetadata": "its pod labels and annotations are ignored",
    "imagePullSecret": "its image pull secrets are ignored",
    "imagePullPolicy": "its image pull policy is ignored",
    "activeDeadlineSeconds": "its timeout is ignored",
    "enabledSharedMemory": "its shared memory volume is ignored",
    "securityContext": "its security context is ignored",
}
_RESOURCES = {
    "cpuLimit": "CPU limit",
    "resourceCpuLimit": "CPU limit",
    "cpuRequest": "CPU request",
    "resourceCpuRequest": "CPU request",
    "memoryLimit": "memory limit",
    "resourceMemoryLimit": "memory limit",
    "memoryRequest": "memory request",
    "resourceMemoryRequest": "memory request",
    "accelerator": "accelerator",
}


def check(job_spec: Spec, platform: Spec, runner: str) -> tuple[list[str], list[str]]:
    """Check whether the sandbox can run a pipeline.

    Args:
        job_spec: the `PipelineSpec` as a dictionary.
        platform: the `PlatformSpec` as a dictionary; empty if there is none.
        runner: "subprocess" or "docker".

    Returns:
        Errors (why the pipeline cannot run) and warnings (settings that are ignored). Each error or warning is a
        sentence that names the task.
    """
    if problem := next(structure.problems(job_spec), ""):
        return [problem], []
    try:
        places = list(spec.walk(job_spec))
    except EngineError as error:
        return [str(error)], []
    if (letters := _letters_of_expressions(places)) > MAX_EXPRESSIONS:
        return [f"its expressions have {letters:,} letters; {MAX_EXPRESSIONS:,} is the limit"], []
    known: dict[tuple[Any, str], str] = {}
    found = (f"task {place.path}: {error}" for place in places for error in _errors(place, runner, known))
    errors = list(islice(found, MAX_NAMED))
    errors += islice(_lost_loop_items(job_spec), MAX_NAMED)
    warnings = [f"task {place.path}: {warning}" for place in places for warning in _warnings(place, platform)]
    return list(dict.fromkeys(errors)), list(dict.fromkeys([*warnings, *_of_pipeline(job_spec, platform)]))


def _errors(place: Place, runner: str, known: dict[tuple[Any, str], str]) -> Iterator[str]:
    yield from _expressions(place, known)
    if place.executor is None:
        return
    if "importer" in place.executor:
        yield from _importer(place.executor["importer"])
    elif "container" in place.executor:
        yield from _container(place.executor, runner)
    else:
        kind = ", ".join(place.executor) or "none"
        yield f"the sandbox cannot run executors of the kind {kind!r}, only containers and importers"


def _lost_loop_items(job_spec: Spec) -> Iterator[str]:
    """Find loops in exit handlers. kfp gives such a group the item of the loop as an input, which nothing provides."""
    for dag in (job_spec.get("root", {}), *job_spec.get("components", {}).values()):
        provided = dag.get("inputDefinitions", {}).get("parameters", {})
        for name, task in dag.get("dag", {}).get("tasks", {}).items():
            for source in task.get("inputs", {}).get("parameters", {}).values():
                wanted = source.get("componentInputParameter", "")
                if "loop-item" in wanted and wanted not in provided:
                    yield f"task {name}: {_lost(wanted)}"


def _lost(item: str) -> str:
    values = item.removeprefix("pipelinechannel--").removesuffix("-loop-item")
    over = "" if values.startswith("loop-item") else f" over {values!r}"
    return (
        f"it contains a loop{over} that puts its item into a longer text, which kfp compiles wrongly in a "
        "dsl.ExitHandler (kubeflow/pipelines#12390). Put the loop into a pipeline of its own, and call that pipeline "
        "in the ExitHandler"
    )


def _letters_of_expressions(places: list[Place]) -> int:
    """Return the length of all different expressions. The length limits the time of their compilation."""
    conditions = {place.task.get("triggerPolicy", {}).get("condition", "") for place in places}
    return sum(map(len, conditions.union(*map(_selectors, places))))


def _selectors(place: Place) -> list[str]:
    return [
        source["parameterExpressionSelector"]
        for source in place.task.get("inputs", {}).get("parameters", {}).values()
        if "parameterExpressionSelector" in source
    ]


def _expressions(place: Place, known: dict[tuple[Any, str], str]) -> Iterator[str]:
    """Compile all expressions of a task, so that an invalid one is found before the run.

    Args:
        place: the task.
        known: the problems of the expressions that were compiled before.
    """
    condition = place.task.get("triggerPolicy", {}).get("condition")
    compilations = [(expressions.compile_condition, condition)] if condition else []
    for one in [*compilations, *((expressions.compile_selector, selector) for selector in _selectors(place))]:
        if one not in known:
            known[one] = _compilation_problem(*one)
        if known[one]:
            yield known[one]


def _compilation_problem(compile_it: Callable[[str], Any], expression: str) -> str:
    try:
        compile_it(expression)
    except EngineError as error:
        return str(error)
    return ""


def _importer(importer: Spec) -> Iterator[str]:
    uri = importer.get("artifactUri", {}).get("constant", "")
    if isinstance(uri, str) and "{{$" not in uri and not is_local(uri) and uri.partition("://")[0] not in SCHEMES:
        yield (
            f"it imports {uri}, but no task could read it: the sandbox reads s3://, minio:// and local files. "
            "Copy it into a bucket of the sandbox, and import it from there"
        )


def _container(executor: Spec, runner: str) -> Iterator[str]:
    image, command = executor["container"].get("image", ""), spec.command_of(executor)
    if image in _KUBERNETES_REQUESTS:
        yield f"it {_KUBERNETES_REQUESTS[image]}, which needs Kubernetes. Pass data as artifacts, or use a cluster"
    elif runner == "docker":
        return
    elif not any(_EXECUTOR in part for part in command):
        yield f"needs Docker: it is a container component, and its program is in the image {image}. Run: {_DOCKER}"
    elif command[:3] == ["python3", "-m", _EXECUTOR]:
        yield f"needs Docker: it is a containerized Python component, its code is in the image {image}. Run: {_DOCKER}"


def _warnings(place: Place, platform: Spec) -> Iterator[str]:
    if place.executor is None or "container" not in place.executor:
        return
    resources = place.executor["container"].get("resources", {})
    if named := dict.fromkeys(word for key, word in _RESOURCES.items() if key in resources):
        yield f"its {', '.join(named)} {'is' if len(named) == 1 else 'are'} ignored"
    for name, below in platform.get("platforms", {}).items():
        config = below.get("deploymentSpec", {}).get("executors", {}).get(place.label, {})
        if name != "kubernetes" and config:
            yield f"its settings for the platform {name!r} are ignored"
            continue
        for key, value in config.items():
            yield _IGNORED.get(key, f"its {key} is ignored").format(", ".join(islice(_names(value), MAX_NAMED)))
    if place.component.get("taskConfigPassthroughs"):
        yield "the settings that it passes to its own workload are empty"


def _of_pipeline(job_spec: Spec, platform: Spec) -> Iterator[str]:
    root = job_spec.get("defaultPipelineRoot", "")
    if root and root.partition("://")[0] not in SCHEMES:
        yield f"no artifacts can be stored under the pipeline root {root}: give the run a root that begins with minio://"
    kubernetes = platform.get("platforms", {}).get("kubernetes", {})
    config = kubernetes.get("pipelineConfig", {})
    if "workspace" in config:
        yield "the pipeline's workspace is a folder on this machine: its size and its kind of volume are ignored"
    if "resourceTtl" in config:
        yield "the pipeline's time to live is ignored"


def _names(value: Any) -> Iterator[str]:
    """Yield a name for each ignored setting: its variables, else its name, path or source."""
    for entry in value if isinstance(value, list) else [value]:
        if not isinstance(entry, Mapping):
            continue
        variables = [pair.get("envVar", "") for pair in entry.get("keyToEnv", [])]
        known = ("name", "mountPath", "volumeName", "secretName", "configMapName", "pvcName")
        single = next((str(entry[key]) for key in known if isinstance(entry.get(key), str)), "")
        yield from filter(None, variables or [single])
