"""Pipelines whose tasks do nothing, so that what they take is what starting them takes."""

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
    """The same with what `dsl.component` adds by itself: `pip install kfp` before every task."""


@dsl.pipeline(name="one")
def one():
    nothing()


@dsl.pipeline(name="chain")
def chain():
    """Ten tasks, each after the one before."""
    before = nothing().set_caching_options(False)
    for _ in range(TASKS - 1):
        before = nothing().set_caching_options(False).after(before)


@dsl.pipeline(name="side-by-side")
def side_by_side():
    """Ten tasks, none of which waits for another."""
    for _ in range(TASKS):
        nothing().set_caching_options(False)


@dsl.pipeline(name="one-after-pip")
def one_after_pip():
    nothing_after_pip().set_caching_options(False)


@dsl.pipeline(name="long")
def long(seconds: float = 3600.0):
    sleep(seconds=seconds).set_caching_options(False)
