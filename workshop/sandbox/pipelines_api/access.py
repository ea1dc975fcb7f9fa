"""Decides who may do what, if the server has several users.

The server takes the user from a request header, or from the token of a service account. A user has a role in a
namespace, as the role bindings of a cluster give it: `edit` allows everything, `view` allows to list and to get.

Source: `backend/src/apiserver/auth` and `IsAuthorized` in `backend/src/apiserver/resource` of kubeflow/pipelines.
"""

import secrets
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from workshop.sandbox.pipelines_api.errors import ApiError, Code, during, invalid

HEADER = "kubeflow-userid"
BEARER = "Bearer "
VIEW_VERBS = ("get", "list", "readArtifact")
NO_IDENTITY = "Failed to check authorization. User identity is empty in the request header"
NO_HEADER = "Request header error: there is no user identity header."
_NO_USER = f"Unauthenticated: {NO_HEADER}: {NO_HEADER}"
SERVICE_ACCOUNT = "default-editor"  # the service account of a run, unless the run names one
# What the server says if a request needs a namespace and has none.
WITHOUT_NAMESPACE = {
    "experiments": "An experiment cannot have an empty namespace in multi-user mode",
    "runs": "A run cannot have an empty namespace in multi-user mode",
    "jobs": "a recurring run cannot have an empty namespace in multi-user mode",
}


@dataclass(frozen=True)
class Users:
    """The users of a server.

    Attributes:
        roles: for each user the role (`edit` or `view`) in each namespace. The full name of a service account is a
            user's name, too.
        tokens: the full names of service accounts, by their tokens.
        prefix: what stands before the user's name in the header.
    """

    roles: Mapping[str, Mapping[str, str]]
    tokens: Mapping[str, str] = field(default_factory=dict)
    prefix: str = ""


def profiles(*namespaces: str) -> Users:
    """Return the users of an installation with one user for each namespace, such as alice@example.com for alice.

    Each namespace has the service accounts `default-editor` and `default-viewer`, each with a new token.

    Args:
        namespaces: the namespaces.
    """
    roles: dict[str, dict[str, str]] = {}
    tokens = {}
    for namespace in namespaces:
        roles[f"{namespace}@example.com"] = {namespace: "edit"}
        for account, role in (("default-editor", "edit"), ("default-viewer", "view")):
            name = f"system:serviceaccount:{namespace}:{account}"
            roles[name] = {namespace: role}
            tokens[secrets.token_urlsafe(24)] = name
    return Users(roles, tokens)


def write_tokens(users: Users, folder: Path) -> None:
    """Write the token of each service account to a file NAMESPACE-ACCOUNT, which only the user can read.

    Args:
        users: the users.
        folder: the folder of the files. On a cluster, the token is a file of the pod.
    """
    folder.mkdir(mode=0o700, exist_ok=True)
    for token, account in users.tokens.items():
        namespace, name = account.split(":")[2:]
        path = folder / f"{namespace}-{name}"
        path.touch(mode=0o600)
        path.write_text(token)


@dataclass(frozen=True)
class Identity:
    """Who makes a request: the user's name, or why there is none."""

    user: str = ""
    problem: str = ""


_current: ContextVar[Identity] = ContextVar("identity")


class Identify:
    """An ASGI application that finds out who makes a request.

    Args:
        app: the application that handles the request.
        users: the users of the server.
    """

    def __init__(self, app: ASGIApp, users: Users) -> None:
        self._app = app
        self._users = users

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Remember the identity, and pass the request on."""
        if scope["type"] == "http":
            _current.set(self._identity(Request(scope)))
        await self._app(scope, receive, send)

    def _identity(self, request: Request) -> Identity:
        given, token = request.headers.get(HEADER, ""), request.headers.get("authorization", "")
        if given.startswith(self._users.prefix) and given:
            return Identity(given.removeprefix(self._users.prefix))
        problems = [_wrong_prefix(HEADER, self._users.prefix) if given else _NO_USER]
        if not token:
            problems.append(_NO_USER)
        elif not token.startswith(BEARER):
            problems.append(_wrong_prefix("Authorization", BEARER))
        elif account := self._users.tokens.get(token.removeprefix(BEARER), ""):
            return Identity(account)
        else:
            problems.append(
                "Authentication failure: Unauthenticated: Review.Status.Authenticated is false. Error [invalid bearer "
                "token, the token is none of a service account for the audience pipelines.kubeflow.org]: "
                "Failed to authenticate token review"
            )
        different = list(dict.fromkeys(problems))
        return Identity(problem=different[0] if len(different) == 1 else f"[{', '.join(different)}]")


class Access:
    """The rights of users. A server for one user allows everything.

    Args:
        users: the users; None for a server for one user.
    """

    def __init__(self, users: Users | None = None) -> None:
        self._users = users

    @property
    def multi_user(self) -> bool:
        """Whether the server has several users."""
        return self._users is not None

    def namespace(self, given: str) -> str:
        """Return the namespace that counts: the one of the request, or none on a server for one user."""
        return given if self.multi_user else ""

    def check(self, resource: str, verb: str, namespace: str, name: str = "", step: str = "") -> None:
        """Check that the user may do something. A server for one user allows it.

        Args:
            resource: `experiments`, `runs`, `jobs` or `pipelines`.
            verb: what the user wants to do, such as `list`.
            namespace: the namespace of the object.
            name: the name of the object.
            step: the words in front of the message of an error.

        Raises:
            ApiError: the user is unknown or has no right, or the namespace is missing.
        """
        if self._users is None:
            return
        if not namespace and resource in WITHOUT_NAMESPACE:
            raise invalid(WITHOUT_NAMESPACE[resource])
        with during(step):
            self._authorize(resource, verb, namespace, name)

    def _authorize(self, resource: str, verb: str, namespace: str, name: str) -> None:
        assert self._users is not None
        who = _current.get(Identity())
        if not who.user:
            raise ApiError(Code.UNAUTHENTICATED, NO_IDENTITY, message=f"Unauthenticated: {NO_IDENTITY}: {who.problem}")
        role = self._users.roles.get(who.user, {}).get(namespace, "")
        if role == "edit" or (role == "view" and verb in VIEW_VERBS):
            return
        reason = (
            f"User '{who.user}' is not authorized with reason:  (request: &ResourceAttributes{{Namespace:{namespace},"
            f"Verb:{verb},Group:pipelines.kubeflow.org,Version:v1beta1,Resource:{resource},Subresource:,Name:{name},"
            "FieldSelector:nil,LabelSelector:nil,})"
        )
        raise ApiError(Code.PERMISSION_DENIED, reason, message=f"PermissionDenied: {reason}: Unauthorized access")


def refusal_of_artifacts(run_id: str, namespace: str) -> str:
    """Return what the server says to everybody who wants to read an artifact of a run."""
    return (
        f"Failed to authorize the request: Failed to access run {run_id}. Check if you have access to namespace "
        f"{namespace}: Unauthenticated: {NO_IDENTITY}: {_NO_USER}"
    )


def _wrong_prefix(header: str, prefix: str) -> str:
    reason = f"Header '{header}' is incorrectly formatted. Expected prefix '{prefix}'"
    return f"BadRequestError: {reason}: {reason}"
