"""Draws a compiled pipeline: its tasks, their order, and the values that pass from task to task."""

import io
import math
from pathlib import Path
from typing import Any

import networkx as nx
import yaml

from workshop.errors import WorkshopError

COLOURS = {"task": "#d6e6fb", "artifact": "#fdebcf"}
SHAPES = {"task": "round,pad=0.5", "artifact": "round4,pad=0.5"}
COLUMN_INCHES, ROW_INCHES, LINE_POINTS = 2.9, 1.3, 12


def draw_pipeline(path: str | Path) -> Any:
    """Draw a compiled pipeline from top to bottom: its tasks, and the artifacts that they write.

    The box of a task names the inputs of the pipeline that the task takes. An arrow names the values that one task
    passes to another.

    Args:
        path: the YAML that `kfp dsl compile` wrote.

    Returns:
        An `IPython.display.Image` (PNG). The alternative text of the picture describes the graph.

    Raises:
        WorkshopError: the file is not a compiled pipeline.
    """
    from IPython.display import Image

    graph = read_graph(path)
    return Image(data=_png(graph), alt=describe(graph), width=int(_size(graph)[0] * 90))


def read_graph(path: str | Path) -> nx.DiGraph:
    """Read the graph of a compiled pipeline.

    Args:
        path: the YAML that `kfp dsl compile` wrote.

    Returns:
        Nodes with `kind` ("task" or "artifact") and `label`. A task also has `inputs`, the names of the pipeline's
        inputs that it takes. Edges with `label`, the names of the values that pass.

    Raises:
        WorkshopError: the file is not a compiled pipeline.
    """
    document: Any = next(iter(yaml.safe_load_all(Path(path).read_text())), None)
    try:
        tasks = document["root"]["dag"]["tasks"]
        name = document["pipelineInfo"]["name"]
    except (KeyError, TypeError):
        raise WorkshopError(
            f"{path} is not a compiled pipeline: it has no root.dag.tasks; see kfp dsl compile"
        ) from None
    graph = nx.DiGraph(name=name)
    for task_name, task in tasks.items():
        sources = task.get("inputs", {}).get("parameters", {}).values()
        inputs = [source["componentInputParameter"] for source in sources if "componentInputParameter" in source]
        graph.add_node(task_name, kind="task", label=task["taskInfo"]["name"], inputs=inputs)
        component = document["components"][task["componentRef"]["name"]]
        for output, definition in component.get("outputDefinitions", {}).get("artifacts", {}).items():
            kind = definition["artifactType"]["schemaTitle"].removeprefix("system.")
            graph.add_node((task_name, output), kind="artifact", label=f"{output}\n({kind})")
            graph.add_edge(task_name, (task_name, output), label="")
    for task_name, task in tasks.items():
        _add_inputs(graph, task_name, task)
    return graph


def describe(graph: nx.DiGraph) -> str:
    """Describe the graph in words."""
    nodes = graph.nodes
    takes = [f"{data['label']} takes {', '.join(data['inputs'])}" for _, data in nodes(data=True) if data.get("inputs")]
    passes = [
        f"{nodes[start]['label']} leads to {nodes[end]['label']}" + (f" by {data['label']}" if data["label"] else "")
        for start, end, data in graph.edges(data=True)
    ]
    return f"Graph of the pipeline {graph.graph['name']}: {'; '.join([*takes, *passes])}.".replace("\n", " ")


def _add_inputs(graph: nx.DiGraph, task_name: str, task: dict[str, Any]) -> None:
    for name, source in task.get("inputs", {}).get("parameters", {}).items():
        if "taskOutputParameter" in source:
            _connect(graph, source["taskOutputParameter"]["producerTask"], task_name, name)
    for source in task.get("inputs", {}).get("artifacts", {}).values():
        if "taskOutputArtifact" in source:
            produced = source["taskOutputArtifact"]
            _connect(graph, (produced["producerTask"], produced["outputArtifactKey"]), task_name, "")
    for earlier in task.get("dependentTasks", []):
        if not nx.has_path(graph, earlier, task_name):
            _connect(graph, earlier, task_name, "")


def _connect(graph: nx.DiGraph, start: Any, end: Any, label: str) -> None:
    labels = [*graph.edges.get((start, end), {}).get("label", "").split("\n"), label]
    graph.add_edge(start, end, label="\n".join(dict.fromkeys(filter(None, labels))))


def _size(graph: nx.DiGraph) -> tuple[float, float]:
    """Return width and height in inches."""
    layers = list(nx.topological_generations(graph))
    return COLUMN_INCHES * max(map(len, layers)) + 1.5, ROW_INCHES * len(layers)


def _png(graph: nx.DiGraph) -> bytes:
    from matplotlib.figure import Figure

    figure = Figure(figsize=_size(graph), dpi=160)
    axes = figure.subplots()
    places = {}
    for row, layer in enumerate(nx.topological_generations(graph)):
        for column, node in enumerate(layer):
            places[node] = ((column - (len(layer) - 1) / 2) * COLUMN_INCHES, -row * ROW_INCHES)
    for node, data in graph.nodes(data=True):
        style = {"boxstyle": SHAPES[data["kind"]], "facecolor": COLOURS[data["kind"]], "edgecolor": "#555555"}
        axes.text(*places[node], _text(data), ha="center", va="center", fontsize=9, bbox=style, zorder=3)
    for start, end, data in graph.edges(data=True):
        margins = [LINE_POINTS * (_text(graph.nodes[node]).count("\n") + 1) / 2 + 7 for node in (start, end)]
        _draw_edge(axes, places[start], places[end], margins, data["label"])
    width, height = _size(graph)
    axes.set_xlim(-width / 2, width / 2)
    axes.set_ylim(-height + ROW_INCHES / 2, ROW_INCHES / 2)
    axes.axis("off")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", bbox_inches="tight", pad_inches=0.1)
    return buffer.getvalue()


def _text(data: dict[str, Any]) -> str:
    """Return the text of a node's box, with two inputs of a task on each line."""
    inputs = data.get("inputs", [])
    lines = [", ".join(inputs[place : place + 2]) for place in range(0, len(inputs), 2)]
    lines[:1] = [f"takes {line}" for line in lines[:1]]
    return "\n".join([data["label"], *lines])


def _draw_edge(
    axes: Any, start: tuple[float, float], end: tuple[float, float], margins: list[float], label: str
) -> None:
    down = abs(start[1] - end[1])
    slant = math.dist(start, end) / down  # a slanting arrow crosses the edge of a box further out
    bend = 0.0 if down < 1.5 * ROW_INCHES else -0.5  # past the row between
    arrow = {
        "arrowstyle": "-|>",
        "color": "#555555",
        "connectionstyle": f"arc3,rad={bend}",
        "shrinkA": margins[0] * slant,
        "shrinkB": margins[1] * slant,
    }
    axes.annotate("", xy=end, xytext=start, arrowprops=arrow, zorder=2)
    # The middle of a curve with the bend r is r/2 of the length away from the straight line.
    middle = ((start[0] + end[0]) / 2 - bend * down / 2, (start[1] + end[1]) / 2)
    paper = {"facecolor": "white", "edgecolor": "none", "pad": 1}
    axes.text(*middle, label, ha="center", va="center", fontsize=8, color="#333333", bbox=paper, zorder=2.5)
