"""Executes compiled Kubeflow pipelines on this machine.

Why the sandbox walks the graph itself: in kfp 2.16.1, `kfp.local` knows neither `dsl.OneOf` nor `dsl.Collected`, takes
every condition on a parameter for false, skips exit handlers when something failed, gives two tasks of one component
the same folder, and has no cache, no retries and no way to cancel. What it does well is a single task: how
its inputs are handed over, its placeholders filled in, and its outputs read. That is what this package calls it for.

`run` holds the event loop, `dag` says which task begins when, `leaf` what becomes of a task's attempts, and `task` what
happens in one of them. Each of the others knows one thing: conditions, inputs, placeholders, processes, containers,
layers of packages, artifacts in S3.
"""

from workshop.sandbox.pipelines_api.engine.check import check
from workshop.sandbox.pipelines_api.engine.contract import DEFAULT_PIPELINE_ROOT, Job, Outcome, Records, Task
from workshop.sandbox.pipelines_api.engine.run import execute

__all__ = ["DEFAULT_PIPELINE_ROOT", "Job", "Outcome", "Records", "Task", "check", "execute"]
