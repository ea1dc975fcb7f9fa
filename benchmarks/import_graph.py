"""Prints the import graph of this project or of another checkout: modules, imports, and circles of imports.

    python -m benchmarks.import_graph                   the summary
    python -m benchmarks.import_graph --edges           every import, too
    python -m benchmarks.import_graph --dot             the graph for Graphviz: pipe it into `dot -Tsvg`
    python -m benchmarks.import_graph --folder FOLDER   the checkout in FOLDER

The graph contains every import: also imports in functions, and imports for type checkers only.
"""

import argparse
import sys
from pathlib import Path

import grimp
import networkx

PACKAGES = ("workshop", "pipelines")


def build(folder: Path) -> networkx.DiGraph:
    """Return the import graph of a checkout.

    Args:
        folder: a checkout of the project. The modules of the project are read but not imported.

    Returns:
        One node per module, and one edge from each module to each module that it imports.

    Raises:
        FileNotFoundError: a package of the project is missing in the folder.
    """
    for package in PACKAGES:
        if not (folder / package / "__init__.py").exists():
            raise FileNotFoundError(f"{folder} is no checkout of the project: {package}/__init__.py is missing")
    sys.path.insert(0, str(folder))
    try:
        found = grimp.build_graph(*PACKAGES, cache_dir=None)
    finally:
        sys.path.remove(str(folder))
    graph = networkx.DiGraph()
    graph.add_nodes_from(sorted(found.modules))
    for module in sorted(found.modules):
        graph.add_edges_from((module, imported) for imported in sorted(found.find_modules_directly_imported_by(module)))
    return graph


def circles(graph: networkx.DiGraph) -> list[list[str]]:
    """Return the circles of imports: each is a sorted list of modules that all reach one another."""
    components = networkx.strongly_connected_components(graph)
    return sorted(sorted(one) for one in components if len(one) > 1)


def as_dot(graph: networkx.DiGraph) -> str:
    """Return the graph in the language of Graphviz. The modules of a circle are red."""
    in_circle = {module for circle in circles(graph) for module in circle}
    lines = ["digraph imports {", "  rankdir=LR; node [shape=box];"]
    lines += [f'  "{module}"{" [color=red]" if module in in_circle else ""};' for module in graph]
    lines += [f'  "{importer}" -> "{imported}";' for importer, imported in graph.edges]
    return "\n".join([*lines, "}"])


def main(arguments: list[str] | None = None) -> int:
    """Print the graph. Return 1 if the graph contains a circle, else 0."""
    parser = argparse.ArgumentParser(description="Print the import graph of the project.")
    parser.add_argument("--folder", type=Path, default=Path(__file__).parents[1], help="another checkout")
    parser.add_argument("--edges", action="store_true", help="print every import")
    parser.add_argument("--dot", action="store_true", help="print the graph for Graphviz")
    options = parser.parse_args(arguments)
    try:
        graph = build(options.folder.resolve())
    except FileNotFoundError as error:
        parser.error(str(error))
    found = circles(graph)
    if options.dot:
        print(as_dot(graph))
        return int(bool(found))
    if options.edges:
        for importer, imported in graph.edges:
            print(f"{importer} -> {imported}")
    print(f"modules: {graph.number_of_nodes()}, imports: {graph.number_of_edges()}, circles: {len(found)}")
    for circle in found:
        print(f"circle of {len(circle)}: {', '.join(circle)}")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
