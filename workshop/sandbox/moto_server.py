"""The process of the emulated AWS account: `python -m workshop.sandbox.moto_server -H HOST -p PORT`.

moto loads a service when a client first asks for it. EC2 and CloudFormation take seconds, so this process loads both
in the background once it has been up for a while.
"""

import threading
import time

import moto.server
from moto.backends import get_backend

# The first lessons ask only STS, IAM, EKS and ECR. Lesson 09 also asks EC2 and CloudFormation.
LOAD_AFTER_SECONDS = 10
ACCOUNT, REGION = "123456789012", "us-east-1"


def main() -> None:
    """Serve until a signal ends the process. The arguments are those of `moto_server`."""
    threading.Thread(target=_load_slow_services, daemon=True).start()
    moto.server.main()


def _load_slow_services() -> None:
    time.sleep(LOAD_AFTER_SECONDS)
    get_backend("ec2")[ACCOUNT][REGION]
    get_backend("cloudformation")[ACCOUNT][REGION]


if __name__ == "__main__":
    main()
