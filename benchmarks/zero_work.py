"""Pipelines with tasks that do nothing, so the time of a task is the time to start it."""

from kfp import dsl

TASKS = 10
IMAGE = "python:3.12"


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def nothing():
    pass


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def sleep(seconds: float):
    import time

    time.sleep(seconds)


@dsl.component(base_image=IMAGE)
def nothing_after_pip():
    """Do nothing after `pip install kfp`, which `dsl.component` adds to every task by default."""


@dsl.pipeline(name="one")
def one():
    nothing()


@dsl.pipeline(name="chain")
def chain():
    """Run ten tasks, each after the one before."""
    before = nothing().set_caching_options(False)
    for _ in range(TASKS - 1):
        before = nothing().set_caching_options(False).after(before)


@dsl.pipeline(name="side-by-side")
def side_by_side():
    """Run ten tasks that do not wait for each other."""
    for _ in range(TASKS):
        nothing().set_caching_options(False)


@dsl.pipeline(name="one-after-pip")
def one_after_pip():
    nothing_after_pip().set_caching_options(False)


@dsl.pipeline(name="long")
def long(seconds: float = 3600.0):
    sleep(seconds=seconds).set_caching_options(False)
