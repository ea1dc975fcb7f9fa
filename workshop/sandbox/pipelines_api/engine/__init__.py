"""Executes compiled Kubeflow pipelines on this machine.

The engine schedules the tasks of a pipeline itself, because `kfp.local` of kfp 2.16.1 cannot:

- It supports neither `dsl.OneOf` nor `dsl.Collected`.
- It treats every condition on a parameter as false.
- It skips exit handlers after a failure.
- It gives two tasks of one component the same folder.
- It has no cache, no retries and no cancellation.

`kfp.local` handles a single task well. The engine therefore uses it to pass inputs, to fill placeholders and to read
outputs.

Where to look:

- `run`: the event loop. `node`: what all nodes share. `dag`: which task starts when. `executor_node`: the attempts of
  one task. `task`: one attempt.
- `cache`: whether earlier outputs can replace a task. `run_folder`: the layout of a run's folder on disk.
- `expressions`, `inputs`, `placeholders`, `values`: how a task gets its input values.
- `process`, `containers`, `environment`, `package_environments`: how a task is executed.
- `executor_io`, `artifacts`: how inputs and outputs reach a task and S3.
- `contract`: what the engine and its callers exchange. `check`: what cannot run here.
"""

from workshop.sandbox.pipelines_api.engine.check import check
from workshop.sandbox.pipelines_api.engine.contract import DEFAULT_PIPELINE_ROOT, Job, Outcome, Records, Task
from workshop.sandbox.pipelines_api.engine.run import execute

__all__ = ["DEFAULT_PIPELINE_ROOT", "Job", "Outcome", "Records", "Task", "check", "execute"]
