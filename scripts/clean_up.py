#!/usr/bin/env python3
"""Deletes the resources that the other scripts made, and checks that nothing billed is left."""

import argparse
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

from project_python import ROOT, use_project_python

use_project_python("boto3")

from aws_account import Account, Item, explain
from botocore.exceptions import BotoCoreError, ClientError
from steps import MISSING, WRONG_USAGE, ScriptError, Step, call, note, run, say, show

from workshop import settings
from workshop.errors import WorkshopError

ABOUT = """\
Shows what the other scripts made on AWS, with the price of each thing per month, and changes nothing. With --yes, it
deletes everything shown, asks AWS again, and fails if anything billed is left. After an interruption, run it again.

It deletes: pod identity associations, the cluster CLUSTER_NAME with its nodes, its disks, load balancers, logs and
CloudFormation stacks, the repositories COMPONENT_REPOSITORY and COMPONENT_REPOSITORY-notebook with their images, the
bucket WORKSHOP_BUCKET with everything in it, and the roles. THE DATA IN THE BUCKET AND ON THE DISKS IS LOST.

It touches only the project's resources. A cluster, a repository and a bucket must carry the tag
project=first-kubeflow-pipeline, which the scripts put there. A load balancer must carry the cluster's name. A disk must
carry the cluster's name, or, when it is attached to nothing, the tag. A bucket without the tag, such as your own or one
that a lesson made, is deleted only when you name it.
"""
ENDING = """\
settings, from the environment or settings.env:
  CLUSTER_NAME (kubeflow-demo), COMPONENT_REPOSITORY (python-components), WORKSHOP_BUCKET, AWS_DEFAULT_REGION

exit status: 0 done or shown, 1 failed or something billed is left, 2 wrong usage, 3 a tool or credentials are missing
"""
# The script deletes a resource before the resources that it uses.
BEFORE_NETWORK = ("load balancer",)
AFTER_NETWORK = ("stack", "NAT gateway", "address", "volume", "logs", "repository", "bucket", "role", "OIDC provider")
CLUSTERS = ("cluster", "eksctl cluster")


def main() -> None:
    arguments = parse_arguments()
    try:
        chosen = settings.read()
    except WorkshopError as error:
        raise ScriptError(str(error), WRONG_USAGE) from None
    if arguments.bucket and arguments.bucket != chosen.workshop_bucket:
        named = chosen.workshop_bucket or "empty"
        raise ScriptError(
            f"--bucket is {arguments.bucket}, but WORKSHOP_BUCKET is {named}: they must be the same", WRONG_USAGE
        )
    if arguments.local:
        clean_up_this_machine(chosen.cluster_name, arguments)
        return
    os.environ.update(chosen.environment())
    try:
        clean_up_aws(Account(chosen, arguments.bucket or ""), arguments)
    except (BotoCoreError, ClientError) as error:
        raise explain(error) from None


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=ABOUT, epilog=ENDING, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--yes", action="store_true", help="delete the listed resources")
    parser.add_argument(
        "--bucket",
        metavar="NAME",
        type=bucket_name,
        help="also delete the bucket WORKSHOP_BUCKET when it has no tag; NAME repeats its name",
    )
    parser.add_argument(
        "--local", action="store_true", help="delete only the cluster CLUSTER_NAME that kind made on this machine"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print the commands that would delete, ready to be pasted; run none"
    )
    return parser.parse_args()


def bucket_name(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("needs the bucket's name")
    return text


def clean_up_this_machine(cluster: str, arguments: argparse.Namespace) -> None:
    """Delete the cluster that kind made."""
    command = ("kind", "delete", "cluster", "--name", cluster)
    step = Step(command, lambda: run_command(command))
    if shutil.which("kind"):
        listed = subprocess.run(["kind", "get", "clusters"], capture_output=True, text=True).stdout.split()
        if cluster not in listed:
            (note if arguments.dry_run else say)(f"there is no cluster {cluster} on this machine; nothing to do")
            return
    elif arguments.dry_run:
        note("kind is not installed; this is the command for a machine that has it")
    else:
        raise ScriptError(
            "kind is not installed. macOS: brew install kind; Linux: see https://kind.sigs.k8s.io/docs/user/quick-start/",
            MISSING,
        )
    if arguments.dry_run:
        show([step])
    elif arguments.yes:
        run([step])
    else:
        say(f"the cluster {cluster} on this machine, with everything in it. It uses memory and costs no money.")
        say("nothing was changed; to delete it: scripts/clean_up.py --local --yes")


def run_command(command: tuple[str, ...]) -> None:
    status = subprocess.run(command).returncode
    if status:
        raise ScriptError(f"{' '.join(command)} failed with status {status}: see above")


def clean_up_aws(account: Account, arguments: argparse.Namespace) -> None:
    where = f"in account {account.number}, region {account.region}"
    found = account.find()
    if not found:
        text = f"nothing of this project is left {where}; nothing to do"
        (note if arguments.dry_run else say)(text)
    elif arguments.dry_run:
        show(deletion(account, found, is_dry_run=True))
    elif arguments.yes:
        show_prices(found)
        if "eksctl cluster" in [item.kind for item in found] and not shutil.which("eksctl"):
            raise ScriptError(
                "eksctl is not installed. macOS: brew install eksctl; "
                "Linux: see https://docs.aws.amazon.com/eks/latest/eksctl/installation.html",
                MISSING,
            )
        run(deletion(account, found, is_dry_run=False))
        check_nothing_billed(account.find())
        say(f"AWS was asked again: nothing that is billed is left {where}")
    else:
        show_prices(found)
        named = f" --bucket {arguments.bucket}" if arguments.bucket else ""
        say(f"nothing was changed; to delete all this: scripts/clean_up.py --yes{named}")


def deletion(account: Account, found: list[Item], *, is_dry_run: bool) -> Iterator[Step]:
    """Yield every step that deletes a found resource, in an order that AWS accepts.

    In a dry run the cluster still exists, so AWS cannot list the resources that stay after its deletion.
    """
    yield from steps_of(found, "association", "node group", *CLUSTERS)
    if not is_dry_run and any(item.kind in CLUSTERS for item in found):
        # The disks of the nodes are attached to nothing now.
        found = [item for item in found if item.kind != "volume"] + account.find_volumes()
    yield from steps_of(found, *BEFORE_NETWORK)
    if not is_dry_run and any(item.kind == "stack" for item in found):
        yield from account.free_network()
    yield from steps_of(found, *AFTER_NETWORK)


def steps_of(found: list[Item], *kinds: str) -> Iterator[Step]:
    for kind in kinds:
        for item in found:
            if item.kind == kind:
                yield from item.steps()


def show_prices(found: list[Item]) -> None:
    """Print every item with its price per month, and the sum."""
    prices = json.loads((ROOT / "deploy" / "prices.json").read_text(encoding="utf-8"))
    total, unknown = 0.0, False
    say("USD/month")
    for item in found:
        cost = price_per_month(prices, item)
        total += cost or 0
        unknown = unknown or cost is None
        say(f"{amount(item, cost):>10}  {item.what}")
    more = " and more: ? is a price that changes, or that deploy/prices.json does not have" if unknown else ""
    say(f"{total:10.2f}  in all{more}")
    say(
        f"prices: {prices['region']}, read on {prices['read_on']}; "
        "traffic, requests and public addresses of nodes come on top"
    )


def amount(item: Item, cost: float | None) -> str:
    if cost is None:
        return "?"
    return "<0.01" if item.price and cost < 0.005 else f"{cost:.2f}"


def price_per_month(prices: dict[str, Any], item: Item) -> float | None:
    """Return the price of an item in USD a month, or None when the price is not known."""
    if not item.price:
        return 0.0
    price = prices["items"].get(item.price)
    if price is None or price["usd"] is None:
        return None
    return price["usd"] * (prices["hours_per_month"] if price["per"] == "hour" else 1) * item.quantity


def check_nothing_billed(found: list[Item]) -> None:
    if not found:
        return
    note("this is left:\n" + "\n".join(f"{item.kind.removeprefix('eksctl ')}\t{item.name}" for item in found))
    if any(item.price for item in found):
        raise ScriptError("AWS still bills some of it. Run this again in a few minutes")


if __name__ == "__main__":
    call(main)
