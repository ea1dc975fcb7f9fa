"""The graph of a compiled pipeline."""

import pytest
from kfp import compiler, dsl

from pipelines.unzip_and_read import unzip_and_read_pipeline
from workshop import WorkshopError
from workshop.graph import describe, draw_pipeline, read_graph


@pytest.fixture
def compiled(tmp_path):
    path = tmp_path / "pipeline.yaml"
    compiler.Compiler().compile(unzip_and_read_pipeline, str(path))
    return path


def test_the_graph_holds_tasks_artifacts_and_the_values_between_them(compiled):
    graph = read_graph(compiled)
    table = ("csv-s3-reader", "table")
    assert {node: data["kind"] for node, data in graph.nodes(data=True)} == {
        "unzip-func": "task",
        "csv-s3-reader": "task",
        table: "artifact",
    }
    assert graph.edges["unzip-func", "csv-s3-reader"]["label"] == "csv_path"
    assert graph.nodes["unzip-func"]["inputs"] == ["bucket_name", "output_prefix", "zip_key"]
    assert graph.nodes["csv-s3-reader"]["inputs"] == ["bucket_name", "csv_name"]
    assert graph.has_edge("csv-s3-reader", table)


def test_an_artifact_that_a_task_reads_and_an_order_without_data_are_edges(tmp_path):
    @dsl.component(base_image="python:3.12")
    def make(data: dsl.Output[dsl.Dataset]):
        pass

    @dsl.component(base_image="python:3.12")
    def use(data: dsl.Input[dsl.Dataset]):
        pass

    @dsl.component(base_image="python:3.12")
    def last():
        pass

    @dsl.pipeline(name="chain")
    def chain():
        made = make()
        used = use(data=made.outputs["data"])
        last().after(used)

    compiler.Compiler().compile(chain, str(tmp_path / "chain.yaml"))
    graph = read_graph(tmp_path / "chain.yaml")
    assert set(graph.edges) == {("make", ("make", "data")), (("make", "data"), "use"), ("use", "last")}


def test_the_picture_has_a_text_that_describes_it(compiled):
    image = draw_pipeline(compiled)
    assert image.data.startswith(b"\x89PNG")
    assert "unzip-func leads to csv-s3-reader by csv_path" in image.alt
    assert describe(read_graph(compiled)) == image.alt


@pytest.mark.parametrize("text", ["", "a: 1", "- 1", "kind: Workflow"])
def test_an_error_names_a_file_that_is_not_a_compiled_pipeline(tmp_path, text):
    (tmp_path / "other.yaml").write_text(text)
    with pytest.raises(WorkshopError, match=r"other\.yaml is not a compiled pipeline"):
        read_graph(tmp_path / "other.yaml")
