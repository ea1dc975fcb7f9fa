"""The Pipeline and PipelineUpload services."""

from time import time as now
from uuid import uuid4

from fastapi import APIRouter, Request
from sqlmodel import Session, col, func, select
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile

from workshop.sandbox.pipelines_api import messages
from workshop.sandbox.pipelines_api.downloads import DownloadError, Downloads
from workshop.sandbox.pipelines_api.errors import exists, invalid, not_found
from workshop.sandbox.pipelines_api.listing import list_page
from workshop.sandbox.pipelines_api.package import NOT_A_PACKAGE, Package, read_file
from workshop.sandbox.pipelines_api.queries import ListQuery, checked_name, find
from workshop.sandbox.pipelines_api.tables import Pipeline, PipelineVersion, Store, manifest, store_manifest

FIELDS = {
    "id": Pipeline.pipeline_id,
    "pipeline_id": Pipeline.pipeline_id,
    "name": Pipeline.name,
    "display_name": Pipeline.display_name,
    "description": Pipeline.description,
    "created_at": Pipeline.created_at,
}
VERSION_FIELDS = {
    "id": PipelineVersion.pipeline_version_id,
    "pipeline_version_id": PipelineVersion.pipeline_version_id,
    "name": PipelineVersion.name,
    "display_name": PipelineVersion.display_name,
    "description": PipelineVersion.description,
    "created_at": PipelineVersion.created_at,
}


def find_version(session: Session, pipeline_id: str, version_id: str) -> PipelineVersion:
    """Return a version of a pipeline; the latest version if `version_id` is empty.

    Raises:
        ApiError: the pipeline does not exist, or it does not have the version or any version.
    """
    if pipeline_id:
        find(session, Pipeline, pipeline_id)
    wanted = select(PipelineVersion)
    if version_id:
        wanted = wanted.where(PipelineVersion.pipeline_version_id == version_id)
    if pipeline_id:
        wanted = wanted.where(PipelineVersion.pipeline_id == pipeline_id)
    found = session.exec(wanted.order_by(col(PipelineVersion.sequence).desc())).first()
    if found is None:
        raise not_found("PipelineVersion", version_id or f"of the pipeline {pipeline_id}")
    return found


def router(store: Store) -> APIRouter:
    """Return the routes of both services."""
    routes = APIRouter(prefix="/pipelines")
    downloads = Downloads()

    @routes.get("")
    def list_pipelines(query: ListQuery) -> dict:
        with store.reading() as session:
            page = list_page(session, Pipeline, FIELDS, query)
            return messages.page("pipelines", page, [messages.pipeline(row) for row in page.rows])

    @routes.post("")
    def create_pipeline(body: messages.PipelineBody) -> dict:
        with store.writing() as session:
            return messages.pipeline(_add(session, body))

    @routes.post("/create")
    async def create_pipeline_and_version(body: messages.PipelineAndVersionBody) -> dict:
        if body.pipeline is None or body.pipeline_version is None:
            raise invalid("both pipeline and pipeline_version are needed")
        package, url = await _download(downloads, body.pipeline_version)
        return await run_in_threadpool(_create_both, store, body.pipeline, body.pipeline_version, package, url)

    @routes.post("/upload")
    async def upload_pipeline(request: Request, name: str = "", display_name: str = "", description: str = "") -> dict:
        """Create a pipeline and its first version with the same name."""
        content, filename = await _uploaded(request)
        return await run_in_threadpool(_create_from_file, store, content, filename, (name, display_name, description))

    @routes.post("/upload_version")
    async def upload_pipeline_version(
        request: Request, name: str = "", display_name: str = "", pipelineid: str = "", description: str = ""
    ) -> dict:
        """Add a version to a pipeline."""
        content, filename = await _uploaded(request)
        texts = (name, display_name, description)
        return await run_in_threadpool(_create_version_from_file, store, content, filename, pipelineid, texts)

    @routes.get("/names/{name:path}")
    def get_pipeline_by_name(name: str) -> dict:
        with store.reading() as session:
            found = session.exec(select(Pipeline).where(Pipeline.name == name)).first()
            if found is None:
                raise not_found("Pipeline", name)
            return messages.pipeline(found)

    @routes.get("/{pipeline_id}")
    def get_pipeline(pipeline_id: str) -> dict:
        with store.reading() as session:
            return messages.pipeline(find(session, Pipeline, pipeline_id))

    @routes.delete("/{pipeline_id}")
    def delete_pipeline(pipeline_id: str, cascade: bool = False) -> dict:
        """Delete a pipeline. A pipeline that has versions is deleted only if `cascade` is set. Runs stay."""
        with store.writing() as session:
            found = find(session, Pipeline, pipeline_id)
            count = select(func.count()).select_from(PipelineVersion).where(PipelineVersion.pipeline_id == pipeline_id)
            if (versions := session.exec(count).one()) and not cascade:
                raise invalid(
                    f"Failed to delete pipeline with id {pipeline_id} as it has existing pipeline versions "
                    f"({versions}). Set cascade=true to delete all versions"
                )
            session.delete(found)
        return {}

    @routes.get("/{pipeline_id}/versions")
    def list_pipeline_versions(pipeline_id: str, query: ListQuery) -> dict:
        with store.reading() as session:
            find(session, Pipeline, pipeline_id)
            of_pipeline = col(PipelineVersion.pipeline_id) == pipeline_id
            page = list_page(session, PipelineVersion, VERSION_FIELDS, query, of_pipeline)
            items = [messages.pipeline_version(row, manifest(session, row.manifest)) for row in page.rows]
            return messages.page("pipeline_versions", page, items)

    @routes.post("/{pipeline_id}/versions")
    async def create_pipeline_version(pipeline_id: str, body: messages.PipelineVersionBody) -> dict:
        package, url = await _download(downloads, body)
        return await run_in_threadpool(_create_version, store, pipeline_id, body, package, url)

    @routes.get("/{pipeline_id}/versions/{pipeline_version_id}")
    def get_pipeline_version(pipeline_id: str, pipeline_version_id: str) -> dict:
        with store.reading() as session:
            found = find_version(session, pipeline_id, pipeline_version_id)
            return messages.pipeline_version(found, manifest(session, found.manifest))

    @routes.delete("/{pipeline_id}/versions/{pipeline_version_id}")
    def delete_pipeline_version(pipeline_id: str, pipeline_version_id: str) -> dict:
        """Delete a version. The runs of the version stay and can be retried."""
        with store.writing() as session:
            session.delete(find_version(session, pipeline_id, pipeline_version_id))
        return {}

    return routes


def _add(session: Session, body: messages.PipelineBody) -> Pipeline:
    name = checked_name(body.name or body.display_name, "pipeline's name cannot be empty")
    if session.exec(select(Pipeline).where(Pipeline.name == name)).first():
        raise exists(
            f"Failed to create a new pipeline. The name {name} already exists. Please specify a new name, "
            "or upload a new version of that pipeline"
        )
    created = Pipeline(
        pipeline_id=str(uuid4()),
        name=name,
        display_name=checked_name(body.display_name or name, ""),
        description=body.description or "",
        created_at=int(now()),
    )
    session.add(created)
    session.flush()
    return created


def _add_version(
    session: Session, pipeline: Pipeline, body: messages.PipelineVersionBody, package: Package, url: str = ""
) -> PipelineVersion:
    name = checked_name(body.name or body.display_name or pipeline.name, "")
    same = (PipelineVersion.pipeline_id == pipeline.pipeline_id, PipelineVersion.name == name)
    if session.exec(select(PipelineVersion).where(*same)).first():
        raise exists(
            f"Failed to create a new pipeline version. The name {name} already exists in the pipeline "
            f"{pipeline.name}. Please specify a new name"
        )
    created = PipelineVersion(
        pipeline_version_id=str(uuid4()),
        pipeline_id=pipeline.pipeline_id,
        name=name,
        display_name=checked_name(body.display_name or name, ""),
        description=body.description or "",
        code_source_url=body.code_source_url or "",
        package_url=url,
        manifest=store_manifest(session, package.document),
        created_at=int(now()),
    )
    session.add(created)
    session.flush()
    return created


def _create_both(
    store: Store, body: messages.PipelineBody, version: messages.PipelineVersionBody, package: Package, url: str
) -> dict:
    body.name = body.name or version.name or package.name
    version.name = version.name or body.name
    with store.writing() as session:
        created = _add(session, body)
        _add_version(session, created, version, package, url)
    return messages.pipeline(created)


def _create_version(
    store: Store, pipeline_id: str, body: messages.PipelineVersionBody, package: Package, url: str
) -> dict:
    with store.writing() as session:
        created = _add_version(session, find(session, Pipeline, pipeline_id), body, package, url)
    return messages.pipeline_version(created, package.document)


def _create_from_file(store: Store, content: bytes, filename: str, texts: tuple[str, str, str]) -> dict:
    name, display_name, description = texts
    package = read_file(content, filename)
    name = name or display_name or package.name
    body = messages.PipelineVersionBody(name=name, display_name=display_name or name, description=description)
    with store.writing() as session:
        created = _add(
            session, messages.PipelineBody(**body.model_dump(include={"name", "display_name", "description"}))
        )
        _add_version(session, created, body, package)
    return messages.pipeline(created)


def _create_version_from_file(
    store: Store, content: bytes, filename: str, pipeline_id: str, texts: tuple[str, str, str]
) -> dict:
    if not pipeline_id:
        raise invalid("the query parameter pipelineid is missing; it must name the pipeline of the new version")
    package = read_file(content, filename)
    name, display_name, description = texts
    name = name or display_name or filename
    body = messages.PipelineVersionBody(name=name, display_name=display_name, description=description)
    with store.writing() as session:
        created = _add_version(session, find(session, Pipeline, pipeline_id), body, package)
    return messages.pipeline_version(created, package.document)


async def _uploaded(request: Request) -> tuple[bytes, str]:
    """Return the content and the name of the file in a multipart request."""
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise invalid("an upload must be multipart/form-data, with the file in the field uploadfile")
    async with request.form(max_files=1, max_fields=10) as form:
        file = form.get("uploadfile")
        if not isinstance(file, UploadFile):
            raise invalid(f"the field uploadfile with the pipeline is missing. {NOT_A_PACKAGE}")
        return await file.read(), file.filename or "the file"


async def _download(downloads: Downloads, body: messages.PipelineVersionBody) -> tuple[Package, str]:
    """Download the package from the `package_url` of a version."""
    url = (body.package_url and body.package_url.pipeline_url) or ""
    if not url.startswith(("http://", "https://")):
        raise invalid(f"package_url.pipeline_url must be an http or https address of a compiled pipeline, not {url!r}")
    try:
        content = await downloads.fetch(url)
    except DownloadError as error:
        raise invalid(f"the pipeline cannot be downloaded from {url}: {error}") from None
    return await run_in_threadpool(read_file, content, url), url
