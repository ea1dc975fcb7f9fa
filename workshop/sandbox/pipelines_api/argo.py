"""Recognizes pipelines of version 1, which kfp 1.x compiles to Argo Workflows.

The real server stores and starts such pipelines. The sandbox stores them too, but it cannot execute them.
"""

from collections.abc import Mapping
from typing import Any

WHY_NOT = (
    "the pipeline is an Argo Workflow (version 1, compiled by kfp 1.x), and the sandbox executes only pipelines of "
    "version 2. Compile it again with kfp 2.x: kfp dsl compile --py FILE.py --output FILE.yaml"
)


def is_workflow(document: Any) -> bool:
    """Return whether a document is an Argo Workflow."""
    return (
        isinstance(document, Mapping)
        and str(document.get("apiVersion", "")).startswith("argoproj.io")
        and document.get("kind") == "Workflow"
    )
