"""Small pipelines for tests of the API. `every_kind.py` has larger ones."""

from kfp import dsl

OPTIONS = {"base_image": "python:3.12", "install_kfp_package": False}


@dsl.component(**OPTIONS)
def say(text: str) -> str:
    print("said", text)
    return text


@dsl.component(**OPTIONS)
def fail(text: str) -> str:
    print("about to fail")
    raise ValueError(text)


@dsl.component(**OPTIONS)
def sleep(seconds: float):
    import subprocess
    import time

    print("asleep", flush=True)
    # A child process, like the ones that some libraries start.
    subprocess.Popen(["sleep", str(seconds)])
    time.sleep(seconds)


@dsl.component(**OPTIONS)
def fail_until(path: str) -> str:
    """Fail while a file is missing."""
    return open(path).read()


@dsl.pipeline(name="echo")
def echo(text: str = "hello") -> str:
    return say(text=text).output


@dsl.pipeline(name="slow")
def slow(seconds: float = 60.0):
    sleep(seconds=seconds).set_caching_options(False)


@dsl.pipeline(name="failing")
def failing(text: str = "a reason"):
    said = say(text="before")
    said.set_caching_options(False)
    fail(text=text).after(said)


@dsl.pipeline(name="mended")
def mended(path: str) -> str:
    first = say(text="first")
    first.set_caching_options(False)
    second = fail_until(path=path).after(first)
    second.set_caching_options(False)
    return second.output


@dsl.pipeline(name="typed")
def typed(word: str, count: int, share: float, flag: bool, items: list, settings: dict, extra: str = "x"):
    say(text=word)
