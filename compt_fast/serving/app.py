"""The interface: what each path takes and answers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from importlib.resources import files
from time import perf_counter
from typing import Annotated, Any

import prometheus_client
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from fastapi.security import HTTPBearer
from starlette.exceptions import HTTPException as AnyHTTPException

import compt_fast
from compt_fast.prediction.prompts import TaskPrompt
from compt_fast.serving.batcher import Batcher, QueueFull, Stopping, Unavailable
from compt_fast.serving.gate import Access, Gate
from compt_fast.serving.limits import Limits
from compt_fast.serving.schemas import Artifact, OneAnswer, Predict, Predicted, Problem, ServedTask, State, Tasks
from compt_fast.serving.served import Served, UnknownTask
from compt_fast.serving.service import Answers, ClientGone, Service
from compt_fast.tasks.text import label_texts
from compt_fast.utils.errors import InputError

CLIENT_GONE = 499  # nobody reads it; it stands in the metrics
_STOPPING = "the server is being stopped"
_AGAIN = {"Retry-After": "1"}  # seconds; of every 503
_FAILURES = {
    400: "No JSON, or no UTF-8",
    401: "Without the token",
    403: "Nobody may do this",
    404: "No such task",
    408: "The body did not come in time",
    413: "The body is too large",
    421: "Asked under another name than the machine's own",
    422: "Wrong rows, prompts or fields; the message says which",
    429: "Too many rows wait; `Retry-After` says when to try again",
    503: "The server is being stopped, or answers as many requests as it can; `Retry-After` says when to try again",
    504: "No answer within the time",
}
_PAGE_POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'"

router = APIRouter()


async def _service(request: Request) -> Service:  # no thread is needed for it
    service: Service = request.app.state.service
    return service


Serving = Annotated[Service, Depends(_service)]


def _fails(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The descriptions of a path's failures, those of the gate among them."""
    return {each: {"model": Problem, "description": _FAILURES[each]} for each in (401, 408, 413, 421, 503, *statuses)}


@router.post("/v1/predict", responses=_fails(400, 422, 429, 504))
async def predict(asked: Predict, request: Request, service: Serving) -> Predicted:
    """Answer rows of any tasks, in their order: all of them, or none where one is wrong."""
    began = perf_counter()
    answers = [OneAnswer(**_without_error(answer)) for answer in await service.predict(asked, request)]
    return Predicted(answers=answers, milliseconds=round(1000 * (perf_counter() - began), 3))


def _without_error(answer: Any) -> dict[str, Any]:
    return {key: value for key, value in asdict(answer).items() if key in OneAnswer.model_fields}


@router.get("/v1/tasks", responses=_fails())
async def tasks(service: Serving) -> Tasks:
    """The tasks that are served."""
    predictor = service.served.predictor
    return Tasks(trunk=predictor.trunk.name, tasks=[described(one) for one in predictor.prompts.values()])


@router.put("/v1/tasks/{name}", responses={201: {"model": ServedTask}, **_fails(400, 403, 422)})
def put_task(name: str, asked: Artifact, response: Response, service: Serving) -> ServedTask:
    """Serve a task, or the same task with another prompt, from the next request on. Needs the admin token."""
    prompt, new = service.served.add(name, asked.path, asked.run)
    response.status_code = 201 if new else 200
    return described(prompt)


@router.delete("/v1/tasks/{name}", status_code=204, responses=_fails(403, 404))
def delete_task(name: str, service: Serving) -> None:
    """Serve a task no more; requests that were accepted before are answered. Needs the admin token."""
    service.served.remove(name)


@router.get("/healthz", responses=_fails())
async def healthz(service: Serving) -> State:
    """Whether the server works: 503 where it has to be started anew."""
    if not service.batcher.alive:
        raise HTTPException(503, "the trunk answers no more; the log of the server has more", _AGAIN)
    return State(status="ok")


@router.get("/readyz", responses=_fails())
async def readyz(service: Serving) -> State:
    """Whether requests are accepted."""
    if service.batcher.stopping:
        raise HTTPException(503, _STOPPING, _AGAIN)
    return State(status="ready")


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}, **_fails()})
async def metrics(service: Serving) -> Response:
    """Counters in the text format of Prometheus."""
    return Response(service.metrics.text(), media_type=prometheus_client.CONTENT_TYPE_LATEST)


@router.get("/", response_class=HTMLResponse, include_in_schema=False)
async def page() -> HTMLResponse:
    """The page on which a person tries a task."""
    text = (files("compt_fast.serving") / "page.html").read_text(encoding="utf-8")
    return HTMLResponse(text, headers={"Content-Security-Policy": _PAGE_POLICY})


def described(one: TaskPrompt) -> ServedTask:
    """What the interface says of a task."""
    assert one.text.label_mode is not None
    return ServedTask(
        name=one.task.name,
        columns=[column for column, _ in one.task.fields],
        labels=label_texts(one.task, "natural"),
        written=label_texts(one.task, one.text.label_mode),
        prompt_length=one.prompts.shape.target_length,
        where=one.where,
    )


def make_app(served: Served, limits: Limits, access: Access, answers: Answers = Batcher) -> FastAPI:
    """The application. Its `state.service` is its `Service`, whose threads end with the application's lifespan."""
    service = Service(served, limits, answers)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        service.close()

    app = FastAPI(
        title="compt_fast",
        version=compt_fast.__version__,
        summary="Answers of one frozen trunk with the trained prompts of many tasks",
        lifespan=lifespan,
        redoc_url=None,
        dependencies=[Depends(HTTPBearer(auto_error=False))],  # describes the token, for which the gate asks
    )
    app.state.service = service
    app.include_router(router)
    app.add_middleware(Gate, access=access, limits=limits, metrics=service.metrics)
    _add_failures(app)
    return app


def _problem(status: int, said: object, headers: Any = None) -> JSONResponse:
    # Names that a client sent may hold halves of surrogate pairs, which no UTF-8 can say.
    text = str(said).encode("utf-8", "backslashreplace").decode("utf-8")
    return JSONResponse({"error": text}, status, headers)


def _add_failures(app: FastAPI) -> None:
    """Make every error an answer of one form."""
    own: dict[type[Exception], tuple[int, str | None]] = {
        InputError: (422, None),
        UnknownTask: (404, None),
        Stopping: (503, _STOPPING),
        Unavailable: (503, "no replica of the trunk runs"),
        ClientGone: (CLIENT_GONE, "nobody waits for the answer"),
        TimeoutError: (504, "no answer within the server's --timeout"),
        Exception: (500, "an error of the server; its log has more"),
    }

    async def failed(request: Request, error: Exception) -> JSONResponse:
        kind = next(kind for kind in type(error).mro() if kind in own)
        status, said = own[kind]
        return _problem(status, said or error, _AGAIN if status == 503 else None)

    async def refused(request: Request, error: Any) -> JSONResponse:
        return _problem(error.status_code, error.detail, error.headers)

    async def full(request: Request, error: Any) -> JSONResponse:
        return _problem(429, error, {"Retry-After": str(error.seconds)})

    async def invalid(request: Request, error: Any) -> JSONResponse:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"][1:]))
        if first["type"] == "json_invalid":
            return _problem(400, f"the body is no JSON: {first['ctx']['error']} at character {place}")
        return _problem(422, f"{place or 'the body'}: {first['msg']}")

    for kind in own:
        app.add_exception_handler(kind, failed)
    app.add_exception_handler(AnyHTTPException, refused)
    app.add_exception_handler(QueueFull, full)
    app.add_exception_handler(RequestValidationError, invalid)
