"""The code in the lessons is the code of the package `pipelines`, word for word."""

import inspect

import nbformat
import pytest
import yaml
from kfp import compiler

from pipelines import components, unzip_and_read
from workshop import toc


def code_cells(number):
    notebook = nbformat.read(toc.select([number])[0].path, as_version=4)
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]


@pytest.mark.parametrize("function", [components.unzip_func, components.csv_s3_reader], ids=lambda f: f.__name__)
def test_the_component_functions_of_lesson_04_are_those_of_the_package(function):
    assert inspect.getsource(function).strip() in code_cells("04")


def test_the_file_that_lesson_05_writes_is_the_module():
    written = [
        source.removeprefix("%%writefile test_pipeline.py\n") for source in code_cells("05") if "%%writefile" in source
    ]
    assert written == [inspect.getsource(unzip_and_read).strip()]


def test_the_names_that_readers_arrive_with_are_kept():
    assert list(inspect.signature(components.unzip_func).parameters)[:3] == ["bucket_name", "zip_key", "output_prefix"]
    assert list(inspect.signature(components.csv_s3_reader).parameters)[:3] == ["bucket_name", "csv_path", "csv_name"]
    assert unzip_and_read.unzip_and_read_pipeline.name == "unzip-and-read"


def test_the_pipeline_passes_the_prefix_that_unzip_returns_and_caches_nothing(tmp_path):
    compiler.Compiler().compile(unzip_and_read.unzip_and_read_pipeline, str(tmp_path / "p.yaml"))
    compiled = yaml.safe_load((tmp_path / "p.yaml").read_text())
    tasks = compiled["root"]["dag"]["tasks"]
    source = tasks["csv-s3-reader"]["inputs"]["parameters"]["csv_path"]["taskOutputParameter"]
    assert source == {"producerTask": "unzip-func", "outputParameterKey": "Output"}
    assert [task["cachingOptions"] for task in tasks.values()] == [{}, {}]
    commands = [executor["container"]["command"] for executor in compiled["deploymentSpec"]["executors"].values()]
    assert len(commands) == 2
    assert not [part for command in commands for part in command if "pip install" in part]
