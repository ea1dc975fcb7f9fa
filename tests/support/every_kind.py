"""Pipelines of every kind that kfp can compile, with their arguments and their expected outputs.

In arguments, `{folder}` is replaced by an empty folder, and `{uri}` by an object in S3 with the content `from S3`.
"""

from typing import NamedTuple

from kfp import dsl
from kfp.dsl import (
    HTML,
    Artifact,
    ClassificationMetrics,
    Dataset,
    Input,
    InputPath,
    Markdown,
    Metrics,
    Output,
    OutputPath,
)

OPTIONS = {"base_image": "python:3.12", "install_kfp_package": False}


class Kind(NamedTuple):
    """A pipeline to run.

    Attributes:
        pipeline: a function that `kfp.compiler` compiles.
        arguments: its arguments.
        expected: its output parameters if it must succeed; a part of the error message if it must fail.
    """

    pipeline: object
    arguments: dict
    expected: dict | str


def arguments_of(kind: Kind, folder: str = "", uri: str = "") -> dict:
    """Return the arguments of a kind with `{folder}` and `{uri}` replaced."""
    fill = {"{folder}": folder, "{uri}": uri}
    return {name: fill.get(value, value) if isinstance(value, str) else value for name, value in kind.arguments.items()}


# Components. Most of these pipelines only return a value.


@dsl.component(**OPTIONS)
def text(value: str) -> str:
    return value


@dsl.component(**OPTIONS)
def number(value: int) -> int:
    return value


@dsl.component(**OPTIONS)
def double(value: int) -> int:
    return 2 * value


@dsl.component(**OPTIONS)
def total(values: list) -> int:
    return sum(values)


@dsl.component(**OPTIONS)
def described(values: list) -> str:
    return repr(values)


@dsl.component(**OPTIONS)
def up_to(count: int) -> list:
    return list(range(count))


@dsl.component(**OPTIONS)
def settings() -> list:
    return [{"letter": "a", "sizes": [1, 2]}, {"letter": "b", "sizes": [3]}]


@dsl.component(**OPTIONS)
def joined(letter: str, size: int) -> str:
    return f"{letter}{size}"


@dsl.component(**OPTIONS)
def joined_texts(letter: str, size: str) -> str:
    return letter + size


@dsl.component(**OPTIONS)
def write(value: str, data: Output[Dataset]):
    data.metadata["length"] = len(value)
    with open(data.path, "w") as file:
        file.write(value)


@dsl.component(**OPTIONS)
def read(data: Input[Dataset]) -> str:
    with open(data.path) as file:
        return file.read()


@dsl.component(**OPTIONS)
def read_all(data: Input[list[Dataset]]) -> str:
    return ",".join(open(item.path).read() for item in data)


@dsl.component(**OPTIONS)
def fail(message: str) -> str:
    raise ValueError(message)


# Conditions.


@dsl.pipeline
def branches(side: str = "heads", size: int = 1) -> str:
    thrown = text(value=side)
    with dsl.If(thrown.output == "heads", name="heads"):
        first = text(value="first")
    with dsl.Elif(size > 4):
        second = text(value="second")
    with dsl.Else():
        third = text(value="third")
    chosen = dsl.OneOf(first.output, second.output, third.output)
    return text(value=chosen).output


@dsl.pipeline
def branches_with_artifacts(large: bool = True) -> str:
    with dsl.If(large == True):  # noqa: E712 - this builds an expression
        one = write(value="large")
    with dsl.Else():
        other = write(value="small")
    return read(data=dsl.OneOf(one.outputs["data"], other.outputs["data"])).output


@dsl.pipeline
def only_if(limit: float = 0.5) -> str:
    with dsl.If(limit >= 1.0):
        skipped = text(value="never")
        fail(message="never").after(skipped)
    return text(value="after").output


# Loops.


@dsl.pipeline
def loop_over_numbers() -> int:
    with dsl.ParallelFor([1, 2, 3]) as item:
        doubled = double(value=item)
    return total(values=dsl.Collected(doubled.output)).output


@dsl.pipeline
def loop_over_an_input(items: list = [1, 2]) -> list[int]:  # noqa: B006 - a pipeline's default
    with dsl.ParallelFor(items, parallelism=1) as item:
        doubled = double(value=item)
    return dsl.Collected(doubled.output)


@dsl.pipeline
def loop_over_an_output(count: int) -> str:
    with dsl.ParallelFor(up_to(count=count).output) as item:
        doubled = double(value=item)
    return described(values=dsl.Collected(doubled.output)).output


@dsl.pipeline
def loop_over_dictionaries() -> str:
    with dsl.ParallelFor(settings().output) as outer, dsl.ParallelFor(outer.sizes) as size:
        pair = joined_texts(letter=outer.letter, size=size)
    return described(values=dsl.Collected(pair.output)).output


@dsl.pipeline
def loop_over_written_dictionaries() -> list[str]:
    with dsl.ParallelFor([{"letter": "a", "size": 1}, {"letter": "b", "size": 2}]) as item:
        pair = joined_texts(letter=item.letter, size=item.size)
    return dsl.Collected(pair.output)


@dsl.pipeline
def nested_loops() -> str:
    with dsl.ParallelFor(["a", "b"]) as letter, dsl.ParallelFor([1, 2]) as size:
        pair = joined(letter=letter, size=size)
    return described(values=dsl.Collected(pair.output)).output


@dsl.pipeline
def loop_with_condition(least: int = 2) -> str:
    with dsl.ParallelFor([1, 2, 3]) as item, dsl.If(item >= least):
        doubled = double(value=item)
    return described(values=dsl.Collected(doubled.output)).output


@dsl.pipeline
def written_in_a_loop() -> list[Dataset]:
    with dsl.ParallelFor(["x", "y"]) as item:
        written = write(value=item)
    return dsl.Collected(written.outputs["data"])


@dsl.pipeline
def collected_artifacts() -> str:
    with dsl.ParallelFor(["p", "q"]) as item:
        written = write(value=item)
    return read_all(data=dsl.Collected(written.outputs["data"])).output


@dsl.pipeline
def loop_over_artifacts() -> str:
    with dsl.ParallelFor(written_in_a_loop().output) as item:
        content = read(data=item)
    return described(values=dsl.Collected(content.output)).output


@dsl.pipeline
def nested_artifacts() -> str:
    with dsl.ParallelFor(["a", "b"]) as letter, dsl.ParallelFor([1, 2]) as size:
        written = write(value=joined(letter=letter, size=size).output)
    return read_all(data=dsl.Collected(written.outputs["data"])).output


# Pipelines with nested pipelines, defaults and types.


@dsl.component(**OPTIONS)
def everything(
    needed: int,
    word: str = "w",
    count: int = 2,
    share: float = 1.0,
    flag: bool = False,
    items: list = [1, 2.5, "x"],  # noqa: B006 - a component's default
    table: dict = {"a": [1], "b": {"c": "d"}},  # noqa: B006
    nothing: int = None,  # noqa: RUF013
    nowhere: Input[Dataset] = None,
) -> str:
    import json

    return json.dumps([needed, word, count, share, flag, items, table, nothing, nowhere is None], sort_keys=True)


@dsl.pipeline
def inner(needed: int, word: str = "inner", nothing: int = None) -> str:  # noqa: RUF013
    return everything(needed=needed, word=word, nothing=nothing).output


@dsl.pipeline
def defaults(needed: int = 7) -> str:
    return everything(needed=needed).output


@dsl.pipeline
def given(
    word: str = "v",
    count: int = 3,
    share: float = 2.0,
    flag: bool = True,
    items: list = [[1], {"k": 1}],  # noqa: B006
    table: dict = {"n": 1},  # noqa: B006
    nothing: int = None,  # noqa: RUF013
) -> str:
    return everything(
        needed=1, word=word, count=count, share=share, flag=flag, items=items, table=table, nothing=nothing
    ).output


@dsl.pipeline
def pipeline_in_pipeline() -> str:
    return inner(needed=number(value=5).output).output


@dsl.component(**OPTIONS)
def several() -> NamedTuple("Several", [("word", str), ("count", int), ("items", list)]):
    from typing import NamedTuple

    return NamedTuple("Several", [("word", str), ("count", int), ("items", list)])("w", 3, [1])


class SeveralOutputs(NamedTuple):
    """The outputs of the pipeline."""

    word: str
    count: int
    items: list


@dsl.pipeline
def named_tuples() -> SeveralOutputs:
    made = several()
    return SeveralOutputs(word=made.outputs["word"], count=made.outputs["count"], items=made.outputs["items"])


@dsl.component(**OPTIONS)
def write_paths(count: OutputPath(int), flag: OutputPath(bool), data: OutputPath("Dataset")):
    for path, content in ((count, "3"), (flag, "True"), (data, "by path")):
        with open(path, "w") as file:
            file.write(content)


@dsl.component(**OPTIONS)
def read_paths(count: int, flag: bool, data: InputPath("Dataset")) -> str:
    return f"{count} {flag} {open(data).read()}"


@dsl.pipeline
def paths() -> str:
    written = write_paths()
    return read_paths(count=written.outputs["count"], flag=written.outputs["flag"], data=written.outputs["data"]).output


# Placeholders in texts.


@dsl.component(**OPTIONS)
def show(items: list, table: dict, word: str) -> str:
    import json

    return json.dumps([items, table, word], sort_keys=True)


@dsl.pipeline
def texts_with_values(name: str = 'O\'Neill "x"', size: int = 3) -> str:
    made = text(value="made")
    return show(items=[f"{name}!", [size]], table={"key": f"{made.output}-{size}"}, word=f"{name} {size}").output


@dsl.component(**OPTIONS)
def names(run_id: str, name: str, task: str, task_id: str, root: str, created: str) -> str:
    import os
    import re

    assert run_id == os.environ["WORKSHOP_RUN_ID"], run_id
    assert task_id == os.environ["WORKSHOP_TASK_ID"], task_id
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", created), created
    assert "://" in root, root
    return f"{task}, {'{{' not in name}"


@dsl.pipeline
def placeholders() -> str:
    return names(
        run_id=dsl.PIPELINE_JOB_ID_PLACEHOLDER,
        name=dsl.PIPELINE_JOB_NAME_PLACEHOLDER + dsl.PIPELINE_JOB_RESOURCE_NAME_PLACEHOLDER,
        task=dsl.PIPELINE_TASK_NAME_PLACEHOLDER,
        task_id=dsl.PIPELINE_TASK_ID_PLACEHOLDER,
        root=dsl.PIPELINE_ROOT_PLACEHOLDER,
        created=dsl.PIPELINE_JOB_CREATE_TIME_UTC_PLACEHOLDER,
    ).output


@dsl.component(**OPTIONS)
def put(folder: str, word: str) -> str:
    with open(f"{folder}/word", "w") as file:
        file.write(word)
    return folder


@dsl.component(**OPTIONS)
def get(folder: str) -> str:
    return open(f"{folder}/word").read()


@dsl.pipeline(pipeline_config=dsl.PipelineConfig(workspace=dsl.WorkspaceConfig(size="1Gi")))
def shared_workspace(word: str = "shared") -> str:
    written = put(folder=dsl.WORKSPACE_PATH_PLACEHOLDER, word=word)
    return get(folder=dsl.WORKSPACE_PATH_PLACEHOLDER).after(written).output


# Exit handlers, ignored failures, retries.


@dsl.component(**OPTIONS)
def note(status: dsl.PipelineTaskFinalStatus, folder: str):
    import pathlib

    said = [status.state, status.pipeline_task_name, status.error_message or ""]
    pathlib.Path(folder, "status").write_text("\n".join(said))


@dsl.pipeline
def exit_handler(folder: str, word: str = "well") -> str:
    with dsl.ExitHandler(note(folder=folder), name="guarded"):
        text(value=word)
    return text(value="outside").output


@dsl.pipeline
def exit_handler_after_failure(folder: str):
    with dsl.ExitHandler(note(folder=folder)):
        fail(message="no bread")


@dsl.component(**OPTIONS)
def leave(folder: str, word: str = "by default"):
    import pathlib

    pathlib.Path(folder, "left").write_text(word)


@dsl.pipeline
def ignored_failure(folder: str):
    failed = fail(message="no milk")
    leave(folder=folder, word=failed.output).ignore_upstream_failure()


@dsl.component(**OPTIONS)
def third_time(folder: str) -> int:
    import pathlib

    counter = pathlib.Path(folder, "count")
    count = int(counter.read_text()) + 1 if counter.exists() else 1
    counter.write_text(str(count))
    print("time", count)
    if count < 3:
        raise RuntimeError(f"not yet: {count}")
    return count


@dsl.pipeline
def retried(folder: str) -> int:
    task = third_time(folder=folder)
    task.set_caching_options(False)
    task.set_retry(num_retries=3, backoff_duration="0s", backoff_factor=1, backoff_max_duration="1s")
    return task.output


@dsl.pipeline
def failing(message: str = "no eggs") -> str:
    return text(value=fail(message=message).output).output


# Artifacts.


@dsl.component(**OPTIONS)
def shown(page: Output[HTML], paper: Output[Markdown], metrics: Output[Metrics], kinds: Output[ClassificationMetrics]):
    with open(page.path, "w") as file:
        file.write("<h1>page</h1>")
    with open(paper.path, "w") as file:
        file.write("# paper")
    metrics.log_metric("accuracy", 0.75)
    metrics.log_metric("rows", 3)
    kinds.log_confusion_matrix(["cat", "dog"], [[3, 1], [0, 4]])


@dsl.component(**OPTIONS)
def looked_at(
    page: Input[HTML], paper: Input[Markdown], metrics: Input[Metrics], kinds: Input[ClassificationMetrics]
) -> str:
    rows = kinds.metadata["confusionMatrix"]["rows"]
    accuracy = metrics.metadata["accuracy"]
    return f"{open(page.path).read()} {open(paper.path).read()} {accuracy} {rows[0]['row']}"


@dsl.pipeline
def shown_artifacts() -> str:
    made = shown()
    return looked_at(**{name: made.outputs[name] for name in ("page", "paper", "metrics", "kinds")}).output


@dsl.component(**OPTIONS)
def write_folder(folder: Output[Artifact]):
    import pathlib

    (pathlib.Path(folder.path) / "deep").mkdir(parents=True)
    for name in ("one", "deep/two"):
        (pathlib.Path(folder.path) / name).write_text(name)


@dsl.component(**OPTIONS)
def read_folder(folder: Input[Artifact]) -> str:
    return open(f"{folder.path}/one").read() + open(f"{folder.path}/deep/two").read()


@dsl.pipeline
def folders() -> str:
    return read_folder(folder=write_folder().outputs["folder"]).output


@dsl.component(**OPTIONS)
def read_with_metadata(data: Input[Dataset]) -> str:
    return f"{open(data.path).read()} {data.metadata}"


@dsl.pipeline
def imported(uri: str, year: int = 2013) -> str:
    data = dsl.importer(artifact_uri=uri, artifact_class=Dataset, reimport=True, metadata={"year": f"{year}"})
    return read_with_metadata(data=data.output).output


# Containers.


@dsl.container_component
def in_container(word: str, written: OutputPath(str), data: Output[Dataset], times: int = 2):
    return dsl.ContainerSpec(
        image="alpine:3",
        command=["sh", "-c", 'mkdir -p "$(dirname "$1")"; printf %s "$0 $3$4" | tee "$1" > "$2"'],
        args=[
            dsl.ConcatPlaceholder(["<", word, ">"]),
            written,
            data.path,
            dsl.IfPresentPlaceholder(input_name="times", then=["x", times], else_=["once"]),
        ],
    )


@dsl.pipeline
def containers(word: str = "hello") -> str:
    made = in_container(word=word)
    return text(value=made.outputs["written"]).output


KINDS = {
    "if": Kind(branches, {}, {"Output": "first"}),
    "elif": Kind(branches, {"side": "tails", "size": 5}, {"Output": "second"}),
    "else": Kind(branches, {"side": "tails"}, {"Output": "third"}),
    "one of two artifacts": Kind(branches_with_artifacts, {}, {"Output": "large"}),
    "the other of two artifacts": Kind(branches_with_artifacts, {"large": False}, {"Output": "small"}),
    "a false condition": Kind(only_if, {}, {"Output": "after"}),
    "loop over numbers": Kind(loop_over_numbers, {}, {"Output": 12}),
    "loop over an input": Kind(loop_over_an_input, {"items": [4, 5, 6]}, {"Output": [8, 10, 12]}),
    "loop over a default": Kind(loop_over_an_input, {}, {"Output": [2, 4]}),
    "loop over an output": Kind(loop_over_an_output, {"count": 3}, {"Output": "[0, 2, 4]"}),
    "loop over an empty list": Kind(loop_over_an_output, {"count": 0}, {"Output": "[]"}),
    "loop over dictionaries": Kind(loop_over_dictionaries, {}, {"Output": "[['a1', 'a2'], ['b3']]"}),
    "loop over written dictionaries": Kind(loop_over_written_dictionaries, {}, {"Output": ["a1", "b2"]}),
    "nested loops": Kind(nested_loops, {}, {"Output": "[['a1', 'a2'], ['b1', 'b2']]"}),
    "condition in a loop": Kind(loop_with_condition, {}, {"Output": "[4, 6]"}),
    "collected artifacts": Kind(collected_artifacts, {}, {"Output": "p,q"}),
    "loop over artifacts": Kind(loop_over_artifacts, {}, {"Output": "['x', 'y']"}),
    "artifacts of nested loops": Kind(nested_artifacts, {}, {"Output": "a1,a2,b1,b2"}),
    "defaults": Kind(
        defaults, {}, {"Output": '[7, "w", 2, 1.0, false, [1, 2.5, "x"], {"a": [1], "b": {"c": "d"}}, null, true]'}
    ),
    "given values": Kind(
        given, {"word": "u"}, {"Output": '[1, "u", 3, 2.0, true, [[1], {"k": 1}], {"n": 1}, null, true]'}
    ),
    "pipeline in a pipeline": Kind(
        pipeline_in_pipeline,
        {},
        {"Output": '[5, "inner", 2, 1.0, false, [1, 2.5, "x"], {"a": [1], "b": {"c": "d"}}, null, true]'},
    ),
    "named tuples": Kind(named_tuples, {}, {"word": "w", "count": 3, "items": [1]}),
    "paths": Kind(paths, {}, {"Output": "3 True by path"}),
    "texts with values": Kind(
        texts_with_values,
        {},
        {"Output": '[["O\'Neill \\"x\\"!", ["3"]], {"key": "made-3"}, "O\'Neill \\"x\\" 3"]'},
    ),
    "placeholders": Kind(placeholders, {}, {"Output": "names, True"}),
    "exit handler": Kind(exit_handler, {"folder": "{folder}"}, {"Output": "outside"}),
    "exit handler after a failure": Kind(exit_handler_after_failure, {"folder": "{folder}"}, "ValueError: no bread"),
    "ignored failure": Kind(ignored_failure, {"folder": "{folder}"}, "ValueError: no milk"),
    "retries": Kind(retried, {"folder": "{folder}"}, {"Output": 3}),
    "failure": Kind(failing, {}, "the task fail failed: ValueError: no eggs (exit code 1)"),
    "artifacts to look at": Kind(
        shown_artifacts,
        {},
        {"Output": "<h1>page</h1> # paper 0.75 [3, 1]"},
    ),
    "folders": Kind(folders, {}, {"Output": "onedeep/two"}),
    "importer": Kind(imported, {"uri": "{uri}"}, {"Output": "from S3 {'year': '2013'}"}),
}
# Pipelines with a second document: the platform specification.
WITH_PLATFORM = {"workspace": Kind(shared_workspace, {}, {"Output": "shared"})}
# Pipelines that need Docker.
IN_CONTAINERS = {"containers": Kind(containers, {}, {"Output": "<hello> x2"})}
