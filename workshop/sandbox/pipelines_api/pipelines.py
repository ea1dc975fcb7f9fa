"""The Pipeline and PipelineUpload services."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from posixpath import basename
from time import time as now
from typing import Annotated
from urllib.parse import urlsplit
from uuid import uuid4

from fastapi import APIRouter, Depends, Request
from python_multipart.exceptions import FormParserError
from sqlmodel import Session, col, select
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, PlainTextResponse, Response

from workshop.sandbox.pipelines_api import messages, schemas
from workshop.sandbox.pipelines_api.access import VIEW_VERBS, Access
from workshop.sandbox.pipelines_api.downloads import DownloadError, Downloads
from workshop.sandbox.pipelines_api.errors import (
    ApiError,
    Code,
    during,
    exists,
    internal,
    internally,
    invalid,
    not_found,
)
from workshop.sandbox.pipelines_api.listing import Listable, list_page, options
from workshop.sandbox.pipelines_api.package import NOT_A_PACKAGE, Package, read_file
from workshop.sandbox.pipelines_api.queries import (
    ListQuery,
    body_of,
    check_length,
    find,
    flag,
    namespace_condition,
    parameters,
    same_text,
    too_long,
)
from workshop.sandbox.pipelines_api.tables import Pipeline, PipelineVersion, Store, manifest, store_manifest
from workshop.sandbox.pipelines_api.uploads import pipeline_file

LIST = Listable(
    "Pipeline",
    Pipeline,
    {
        "id": Pipeline.pipeline_id,
        "pipeline_id": Pipeline.pipeline_id,
        "name": Pipeline.name,
        "display_name": Pipeline.display_name,
        "description": Pipeline.description,
        "created_at": Pipeline.created_at,
        "namespace": Pipeline.namespace,
    },
)
VERSION_LIST = Listable(
    "PipelineVersion",
    PipelineVersion,
    {
        "id": PipelineVersion.pipeline_version_id,
        "pipeline_version_id": PipelineVersion.pipeline_version_id,
        "name": PipelineVersion.name,
        "display_name": PipelineVersion.display_name,
        "description": PipelineVersion.description,
        "created_at": PipelineVersion.created_at,
        "status": PipelineVersion.package_url,  # the sandbox keeps no status; no version differs in it
        "pipeline_spec": PipelineVersion.manifest,
    },
)
PipelineBody = Annotated[messages.PipelineBody, Depends(body_of(messages.PipelineBody, schemas.PIPELINE))]
VersionBody = Annotated[
    messages.PipelineVersionBody, Depends(body_of(messages.PipelineVersionBody, schemas.PIPELINE_VERSION))
]
BothBody = Annotated[
    messages.PipelineAndVersionBody, Depends(body_of(messages.PipelineAndVersionBody, schemas.PIPELINE_AND_VERSION))
]
UPLOADING = "Failed to create a pipeline and a pipeline version"
UPLOADING_VERSION = "Failed to create a pipeline version"


@dataclass(frozen=True)
class Names:
    """The texts of a new pipeline or version."""

    name: str
    display_name: str
    description: str = ""

    @classmethod
    def chosen(cls, name: str, display_name: str, file_name: str, description: str) -> "Names":
        """Choose the names as the server does: the name, else the display name, else the name of the file."""
        name = name or display_name or file_name
        return cls(name, display_name or name, description)


class UploadError(Exception):
    """An upload that is refused.

    Args:
        status: the HTTP status.
        step: what the server tried to do, in the server's words.
        reason: why it failed. The real server writes the reason only to its log.
        alone: whether the answer is only the reason, as one line of text.
    """

    def __init__(self, status: int, step: str, reason: str = "", alone: bool = False) -> None:
        super().__init__(reason or step)
        self.status = status
        self.step = step
        self.reason = reason
        self.alone = alone

    def response(self) -> Response:
        """Return the response in the form of the server."""
        if self.alone:
            return PlainTextResponse(f"{self.reason}\n", self.status)
        body = {
            "error_message": self.step,
            "error_details": f"{self.step}: {self.reason}" if self.reason else self.step,
        }
        answer = JSONResponse(body, self.status)
        if self.status == 400:
            answer.headers["content-type"] = "text/plain; charset=utf-8"
        return answer


def latest_version(session: Session, pipeline_id: str) -> PipelineVersion:
    """Return the latest version of a pipeline.

    Raises:
        ApiError: the pipeline does not exist, or it has no version.
    """
    with during("Failed to get the latest pipeline version as pipeline was not found"):
        find(session, Pipeline, pipeline_id)
    of_pipeline = select(PipelineVersion).where(PipelineVersion.pipeline_id == pipeline_id)
    found = session.exec(of_pipeline.order_by(col(PipelineVersion.sequence).desc())).first()
    if found is None:
        raise not_found("PipelineVersion", f"of the pipeline {pipeline_id}")
    return found


def find_version(session: Session, version_id: str) -> PipelineVersion:
    """Return a version. As in the real server, the pipeline that a request names beside it does not count.

    Raises:
        ApiError: the version does not exist.
    """
    with during(f"Failed to get a pipeline version with id {version_id}"):
        found = session.exec(select(PipelineVersion).where(PipelineVersion.pipeline_version_id == version_id)).first()
        if found is None:
            raise not_found("PipelineVersion", version_id)
        return found


def router(store: Store, access: Access) -> APIRouter:
    """Return the routes of both services."""
    routes = APIRouter(prefix="/pipelines")
    downloads = Downloads()

    def allow(session: Session, pipeline_id: str, verb: str, done: str) -> None:
        """Check the right to a pipeline. Everybody may read a shared pipeline, which has no namespace."""
        if access.multi_user:
            with during(f"Failed to {done} due authorization error for pipeline id {pipeline_id}"):
                found = _find(session, pipeline_id)
                if found.namespace or verb not in VIEW_VERBS:
                    access.check(
                        "pipelines", verb, found.namespace, found.name, _no_access(found.namespace, pipeline_id)
                    )

    @routes.get("")
    def list_pipelines(request: Request, query: ListQuery) -> dict:
        chosen = options(LIST, query, _listing("pipelines", query))
        namespace = access.namespace(parameters(request, "namespace")["namespace"])
        if namespace:
            with (
                during(f"Failed to list pipelines in namespace {namespace}. Check error stack"),
                during(
                    "Failed to list pipelines due to authorization error. Check if you have read permission to "
                    f"namespace {namespace}"
                ),
            ):
                access.check("pipelines", "list", namespace, "", _no_access(namespace))
        with store.reading() as session:
            page = list_page(session, LIST, chosen, *namespace_condition(Pipeline, access, namespace))
            return messages.page("pipelines", page, [messages.pipeline(row) for row in page.rows])

    @routes.post("")
    def create_pipeline(body: PipelineBody) -> dict:
        names = Names.chosen(body.name, body.display_name, "", body.description)
        with during("Failed to create a pipeline as pipeline conversion failed"), internally("Failed to convert API"):
            check_length("Pipeline.Name", names.name)
        namespace = access.namespace(body.namespace)
        with during("Failed to create a pipeline due to server error"), store.writing() as session:
            if not names.name:
                raise invalid("name is required")
            with during(
                "Failed to create a pipeline due to authorization error. Check if you have write permissions to "
                f"namespace {namespace}"
            ):
                access.check("pipelines", "create", namespace, names.name, _no_access(namespace))
            with during("Failed to create a pipeline in PipelineStore"):
                return messages.pipeline(_add(session, names, "already exist", namespace))

    @routes.post("/create")
    async def create_pipeline_and_version(body: BothBody) -> dict:
        """Create a pipeline and its first version, which both have the pipeline's names."""
        of = body.pipeline
        with during("Failed to create a pipeline"):
            url = _url(body.pipeline_version)
            names = Names.chosen(of.name, of.display_name, basename(url), of.description)
            namespace = access.namespace(of.namespace)
            access.check("pipelines", "create", namespace, names.name, _no_access(namespace))
            content = await _download(
                downloads,
                url,
                f"invalid pipeline spec URL: {url}",
                "error downloading the pipeline spec from {}",
                "error fetching pipeline spec from {} - request returned {}",
            )
            return await run_in_threadpool(_create_both, store, names, namespace, content, url)

    @routes.api_route("/upload", methods=["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD"])
    async def upload_pipeline(request: Request) -> Response:
        """Create a pipeline and its first version with the same names."""
        return await _answer_upload(
            request, store, "Failed to read pipeline from file", partial(_create_from_file, access)
        )

    @routes.api_route("/upload_version", methods=["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD"])
    async def upload_pipeline_version(request: Request) -> Response:
        """Add a version to a pipeline."""
        return await _answer_upload(request, store, UPLOADING_VERSION, partial(_create_version_from_file, access))

    @routes.get("/names/{name:path}")
    def get_pipeline_by_name(request: Request, name: str) -> dict:
        namespace = parameters(request, "namespace")["namespace"]
        with (
            during(f"Failed to get a pipeline with name {name} and namespace {namespace}. Check error stack."),
            during(f"Failed to get a pipeline named {name} in namespace "),
            store.reading() as session,
        ):
            wanted = [same_text(Pipeline.name, name)]
            if access.namespace(namespace):
                access.check("pipelines", "get", namespace, name, _no_access(namespace))
                wanted.append(col(Pipeline.namespace) == namespace)
            newest = select(Pipeline).where(*wanted).order_by(col(Pipeline.sequence).desc())
            found = session.exec(newest).first()
            if found is None:
                raise not_found("Namespace/Pipeline", f"/{name}")
            return messages.pipeline(found)

    @routes.get("/{pipeline_id}")
    def get_pipeline(pipeline_id: str) -> dict:
        with (
            during(f"Failed to get a pipeline {pipeline_id}. Check error stack"),
            store.reading() as session,
        ):
            allow(session, pipeline_id, "get", "get a pipeline")
            return messages.pipeline(_find(session, pipeline_id))

    @routes.delete("/{pipeline_id}")
    def delete_pipeline(request: Request, pipeline_id: str) -> dict:
        """Delete a pipeline. A pipeline that has versions is deleted only if `cascade` is set. Runs stay."""
        cascade = flag(request, "cascade")
        with during(f"Failed to delete pipeline {pipeline_id}. Check error stack"), store.writing() as session:
            allow(session, pipeline_id, "delete", "delete a pipeline")
            with during(f"Failed to delete pipeline with id {pipeline_id} as it was not found"):
                found = find(session, Pipeline, pipeline_id)
            version = session.exec(select(PipelineVersion).where(PipelineVersion.pipeline_id == pipeline_id)).first()
            if version and not cascade:
                raise invalid(
                    f"Failed to delete pipeline with id {pipeline_id} as it has existing pipeline versions "
                    f"(e.g. {version.pipeline_version_id}). Set cascade=true to delete all versions"
                )
            session.delete(found)
        return {}

    @routes.get("/{pipeline_id}/versions")
    def list_pipeline_versions(pipeline_id: str, query: ListQuery) -> dict:
        chosen = options(VERSION_LIST, query, _listing("pipeline versions", query))
        with during(f"Failed to list pipeline versions for pipeline {pipeline_id}"), store.reading() as session:
            with (
                during(
                    f"Failed to list pipeline versions due to error fetching the namespace for pipeline {pipeline_id}"
                ),
                during(f"Failed to get namespace for pipeline id {pipeline_id}"),
            ):
                _find(session, pipeline_id)
            of_pipeline = col(PipelineVersion.pipeline_id) == pipeline_id
            page = list_page(session, VERSION_LIST, chosen, of_pipeline)
            items = [messages.pipeline_version(row, manifest(session, row.manifest)) for row in page.rows]
            return messages.page("pipeline_versions", page, items)

    @routes.post("/{pipeline_id}/versions")
    async def create_pipeline_version(pipeline_id: str, body: VersionBody) -> dict:
        url = _checked_url(body)
        with during(f"{UPLOADING_VERSION} due to conversion error"), internally("Failed to convert API"):
            check_length("PipelineVersion.Name", body.name or body.display_name)
        with during(f"{UPLOADING_VERSION}. Check error stack"):
            if not (name := body.name or body.display_name):
                raise invalid("name is required")
            content = await _download(
                downloads,
                url,
                f"{UPLOADING_VERSION} due to invalid pipeline spec URI. PipelineSpecURI: {url}. "
                "Please specify a valid URL",
                f"{UPLOADING_VERSION} due error downloading the pipeline spec from {{}}",
                "Failed to fetch pipeline spec with url: {}. Request returned {}",
            )
            names = Names(name, body.display_name or name, body.description)
            return await run_in_threadpool(_create_version, store, pipeline_id, names, content, url)

    @routes.get("/{pipeline_id}/versions/{pipeline_version_id}")
    def get_pipeline_version(pipeline_id: str, pipeline_version_id: str) -> dict:
        with during(f"Failed to get a pipeline version {pipeline_version_id}"), store.reading() as session:
            found = find_version(session, pipeline_version_id)
            return messages.pipeline_version(found, manifest(session, found.manifest))

    @routes.delete("/{pipeline_id}/versions/{pipeline_version_id}")
    def delete_pipeline_version(pipeline_id: str, pipeline_version_id: str) -> dict:
        """Delete a version. The runs of the version stay and can be retried."""
        step = (
            f"Failed to delete a pipeline version id {pipeline_version_id} under pipeline id {pipeline_id}. "
            "Check error stack"
        )
        with during(step), store.writing() as session:
            session.delete(find_version(session, pipeline_version_id))
        return {}

    return routes


def _listing(kind: str, query: object) -> str:
    text = ", ".join(
        f"{name}: {getattr(query, field)}"
        for name, field in (
            ("pageToken", "page_token"),
            ("pageSize", "page_size"),
            ("sortBy", "sort_by"),
            ("filter", "filter"),
        )
    )
    return f"Failed to list {kind} due invalid list options: {text}"


def _no_access(namespace: str, pipeline_id: str = "") -> str:
    return f"Failed to access pipeline {pipeline_id}. Check if you have access to namespace {namespace}"


def _find(session: Session, pipeline_id: str) -> Pipeline:
    with during(f"Failed to get a pipeline with id {pipeline_id}"):
        return find(session, Pipeline, pipeline_id)


def _add(session: Session, names: Names, words: str, namespace: str) -> Pipeline:
    same = (Pipeline.namespace == namespace, same_text(Pipeline.name, names.name))
    if session.exec(select(Pipeline).where(*same)).first():
        raise exists(f"Failed to create a new pipeline. The name {names.name} {words}. Please specify a new name")
    if problem := too_long([("DisplayName", names.display_name), ("Description", names.description)]):
        raise internal("Failed to add pipeline to pipeline table", problem)
    created = Pipeline(
        pipeline_id=str(uuid4()),
        namespace=namespace,
        name=names.name,
        display_name=names.display_name,
        description=names.description,
        created_at=int(now()),
    )
    session.add(created)
    session.flush()
    return created


def _new_version(
    session: Session, pipeline_id: str, names: Names, file: bytes, url: str = ""
) -> tuple[PipelineVersion, Package]:
    """Add a version to the pipeline with an id."""
    with internally(f"{UPLOADING_VERSION} due to error fetching the pipeline"):
        pipeline = _find(session, pipeline_id)
    with internally(f"{UPLOADING_VERSION} due to template creation error"):
        package = read_file(file, names.name)
    with during("Failed to create pipeline version in PipelineStore"):
        return _add_version(session, pipeline, names, package, url), package


def _add_version(
    session: Session, pipeline: Pipeline, names: Names, package: Package, url: str = ""
) -> PipelineVersion:
    same = (PipelineVersion.pipeline_id == pipeline.pipeline_id, same_text(PipelineVersion.name, names.name))
    if session.exec(select(PipelineVersion).where(*same)).first():
        raise exists(
            f"Failed to create a new pipeline version. The name {names.name} already exist. Specify a new name"
        )
    if problem := too_long([("DisplayName", names.display_name), ("Description", names.description)]):
        raise internal("Failed to add version to pipeline version table", problem)
    created = PipelineVersion(
        pipeline_version_id=str(uuid4()),
        pipeline_id=pipeline.pipeline_id,
        name=names.name,
        display_name=names.display_name,
        description=names.description,
        package_url=url,
        manifest=store_manifest(session, package.document),
        created_at=int(now()),
    )
    session.add(created)
    session.flush()
    return created


def _create_both(store: Store, names: Names, namespace: str, content: bytes, url: str) -> dict:
    package = _packed(content, url)
    with during(UPLOADING), store.writing() as session:
        with internally("Failed to convert API"):
            check_length("Pipeline.Name", names.name)
            check_length("PipelineVersion.Name", names.name)
        created = _add(session, names, "already exists", namespace)
        _add_version(session, created, names, package, url)
        return messages.pipeline(created)


def _create_version(store: Store, pipeline_id: str, names: Names, content: bytes, url: str) -> dict:
    with during(f"{UPLOADING_VERSION} due error reading the pipeline spec"):
        file = pipeline_file(content, basename(url))
    with store.writing() as session:
        created, package = _new_version(session, pipeline_id, names, file, url)
    return messages.pipeline_version(created, package.document)


async def _answer_upload(
    request: Request, store: Store, step: str, create: Callable[[Store, bytes, str, Request], dict]
) -> Response:
    try:
        content, filename = await _uploaded(request, step)
        return JSONResponse(await run_in_threadpool(create, store, content, filename, request))
    except UploadError as error:
        return error.response()


def _create_from_file(access: Access, store: Store, content: bytes, filename: str, request: Request) -> dict:
    query = request.query_params
    with _refused(400, "Failed to read a pipeline spec file"):
        file = pipeline_file(content, filename)
    namespace = access.namespace(query.get("namespace", ""))
    if namespace:
        with _refused(400, "Failed to create a pipeline"):
            access.check("pipelines", "create", namespace, "", _no_access(namespace))
    given = [query.get(name, "") for name in ("name", "display_name", "description")]
    names = Names.chosen(given[0], given[1], filename, given[2])
    _check_upload("Pipeline.Name", names.name)
    with _refused(500, UPLOADING), store.writing() as session:
        package = read_file(file, filename)
        check_length("PipelineVersion.Name", names.name)
        created = _add(session, names, "already exists", namespace)
        _add_version(session, created, names, package)
        return messages.pipeline(created)


def _create_version_from_file(access: Access, store: Store, content: bytes, filename: str, request: Request) -> dict:
    query = request.query_params
    with _refused(400, UPLOADING_VERSION):
        file = pipeline_file(content, filename)
        pipeline_id = query.get("pipelineid", "")
        if not pipeline_id:
            raise invalid("the query parameter pipelineid is missing; it must name the pipeline of the new version")
    given = [query.get(name, "") for name in ("name", "display_name", "description")]
    names = Names.chosen(given[0], given[1], filename, given[2])
    _check_upload("PipelineVersion.Name", names.name)
    with _refused(400, UPLOADING_VERSION), store.reading() as session:
        namespace = _find(session, pipeline_id).namespace
        if namespace:
            access.check("pipelines", "create", namespace, "", _no_access(namespace, pipeline_id))
    with _refused(500, UPLOADING_VERSION), store.writing() as session:
        created, package = _new_version(session, pipeline_id, names, file)
        return messages.pipeline_version(created, package.document)


@contextmanager
def _refused(status: int, step: str) -> Iterator[None]:
    """Turn an error that is raised inside into a refused upload. A name that is taken has the status 409."""
    try:
        yield
    except ApiError as error:
        if error.by_sandbox:
            status = error.status
        raise UploadError(409 if error.code == Code.ALREADY_EXISTS else status, step, error.message) from None


def _check_upload(field: str, name: str) -> None:
    try:
        check_length(field, name)
    except ApiError as error:
        raise UploadError(400, "", error.message, alone=True) from None


async def _uploaded(request: Request, step: str) -> tuple[bytes, str]:
    """Return the content and the name of the file in a multipart request."""
    if request.method not in ("POST", "PUT", "PATCH"):
        raise UploadError(400, step, "an upload must be a POST request")
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise UploadError(400, step, "an upload must be multipart/form-data, with the file in the field uploadfile")
    try:
        async with request.form(max_files=1, max_fields=10) as form:
            file = form.get("uploadfile")
            if not isinstance(file, UploadFile):
                raise UploadError(400, step, f"the field uploadfile with the pipeline is missing. {NOT_A_PACKAGE}")
            return await file.read(), basename(file.filename or "")
    except (HTTPException, FormParserError) as error:
        raise UploadError(400, step, f"the form cannot be read: {getattr(error, 'detail', error)}") from None


def _url(body: messages.PipelineVersionBody) -> str:
    return body.package_url.pipeline_url if body.package_url else ""


def _checked_url(body: messages.PipelineVersionBody) -> str:
    if body.package_url is None:
        raise invalid(f"{UPLOADING_VERSION}. Package URL is nil")
    if not (url := body.package_url.pipeline_url):
        raise invalid(f"{UPLOADING_VERSION}. Package URL is empty")
    if not body.pipeline_id:
        raise invalid(f"{UPLOADING_VERSION}. Parent pipeline id is empty")
    return url


async def _download(downloads: Downloads, url: str, if_invalid: str, if_unreachable: str, if_refused: str) -> bytes:
    """Download the file of a pipeline.

    Args:
        downloads: downloads the file.
        url: its address.
        if_invalid: the message about a text that is no address.
        if_unreachable: the step that failed if the server of the address does not answer, with a place for the address.
        if_refused: the message about another status than 200, with places for the address and the status.
    """
    if not _is_address(url):
        raise invalid(if_invalid)
    step = if_unreachable.format(url)
    scheme = urlsplit(url).scheme.lower()
    if scheme not in ("http", "https"):
        raise internal(step, f'Get "{url}": unsupported protocol scheme "{scheme}"')
    try:
        return await downloads.fetch(url)
    except DownloadError as error:
        if error.status:
            raise invalid(if_refused.format(url, error.status)) from None
        refused = "Connection refused" in str(error)
        cause = f"dial tcp {urlsplit(url).netloc}: connect: connection refused" if refused else str(error)
        raise internal(step, f'Get "{url}": {cause}') from None


def _is_address(url: str) -> bool:
    try:
        return url.startswith("/") or bool(urlsplit(url).scheme)
    except ValueError:
        return False


def _packed(content: bytes, url: str) -> Package:
    file = pipeline_file(content, basename(url))
    with internally("Failed to create a pipeline version due to template creation error"):
        return read_file(file, url)
