"""The part of Flyte's control plane that starts the tasks which another task awaits, for the tests.

`executor.py COMMAND…` prints the port on which it serves the SDK's own services. For each task it
runs `COMMAND ARG…`, where the arguments are those of the task's container, four at a time, and
reports the phase by what the task has left below its output path. The environment names the bucket.
"""

import collections
import concurrent.futures
import io
import os
import socketserver
import subprocess
import sys
import threading
import traceback
import wsgiref.simple_server

import obstore
import obstore.store
from flyteidl2.common import phase_pb2
from flyteidl2.workflow import queue_service_pb2, state_service_pb2
from flyteidl2.workflow.queue_service_connect import QueueServiceSync, QueueServiceWSGIApplication
from flyteidl2.workflow.state_service_connect import StateServiceSync, StateServiceWSGIApplication

tasks = concurrent.futures.ThreadPoolExecutor(4)
updates: dict[str, list] = collections.defaultdict(list)  # by the name of the parent
changed = threading.Condition()


def there(uri: str) -> bool:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    var = {name: os.environ["FLYTE_AWS_" + name.upper()] for name in ("endpoint", "access_key_id", "secret_access_key")}
    store = obstore.store.S3Store(bucket, **var, region=os.environ["AWS_REGION"], client_options={"allow_http": True})
    try:
        obstore.head(store, key)
    except FileNotFoundError:
        return False
    return True


def run(r: queue_service_pb2.EnqueueActionRequest) -> None:
    base = f"{r.run_output_base}/{r.action_id.name}"
    out = base + "/1"
    values = {
        "{{.input}}": r.input_uri,
        "{{.outputPrefix}}": out,
        "{{.rawOutputDataPrefix}}": base + "/raw",
        "{{.checkpointOutputPrefix}}": out + "/checkpoint",
        "{{.prevCheckpointPrefix}}": base + "/previous",
        "{{.runName}}": r.action_id.run.name,
        "{{.actionName}}": r.action_id.name,
    }
    args = [values.get(arg, arg) for arg in r.task.spec.task_template.container.args]
    assert args[0] == "a0"
    env = {**os.environ, "_U_RUN_BASE": r.run_output_base, "ACTION_NAME": r.action_id.name}
    command = [*sys.argv[1:], *args[1:]]
    for _ in range(3):  # a0 aborts in one of thirty exits, when its work is done; Flyte tries again, too
        done = subprocess.run(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        sys.stderr.buffer.write(done.stderr)
        if done.returncode != 134:
            break
    phase = phase_pb2.ACTION_PHASE_SUCCEEDED
    if done.returncode != 0 or there(out + "/error.pb") or not there(out + "/outputs.pb"):
        phase = phase_pb2.ACTION_PHASE_FAILED
    update(r, phase, out)


def update(r: queue_service_pb2.EnqueueActionRequest, phase: int, out: str) -> None:
    state = state_service_pb2.ActionUpdate(action_id=r.action_id, phase=phase, output_uri=out)
    with changed:
        updates[r.parent_action_name].append(state_service_pb2.WatchResponse(action_update=state))
        changed.notify_all()


def failed(done: concurrent.futures.Future) -> None:
    if done.exception():
        traceback.print_exception(done.exception())


class Queue(QueueServiceSync):
    def enqueue_action(self, request, ctx):
        if request.HasField("trace"):
            update(request, phase_pb2.ACTION_PHASE_SUCCEEDED, request.trace.outputs.output_uri)
        else:
            tasks.submit(run, request).add_done_callback(failed)
        return queue_service_pb2.EnqueueActionResponse()


class State(StateServiceSync):
    def watch(self, request, ctx):
        yield state_service_pb2.WatchResponse(control_message=state_service_pb2.ControlMessage(sentinel=True))
        of_parent, sent = updates[request.parent_action_id.name], 0
        while True:
            with changed:
                changed.wait_for(lambda: len(of_parent) > sent)
            yield of_parent[sent]
            sent += 1


services = {app.path: app for app in (QueueServiceWSGIApplication(Queue()), StateServiceWSGIApplication(State()))}


def body(environ) -> bytes:
    """The body of a request. The server of Python's library leaves its end to us."""
    stream = environ["wsgi.input"]
    if environ.get("HTTP_TRANSFER_ENCODING") != "chunked":
        return stream.read(int(environ["CONTENT_LENGTH"]))
    chunks = []
    while size := int(stream.readline(), 16):
        chunks.append(stream.read(size))
        stream.readline()
    return b"".join(chunks)


def serve(environ, start_response):
    environ["wsgi.input"] = io.BytesIO(body(environ))
    return services[environ["PATH_INFO"].rpartition("/")[0]](environ, start_response)


class Server(socketserver.ThreadingMixIn, wsgiref.simple_server.WSGIServer):
    daemon_threads = True


class Handler(wsgiref.simple_server.WSGIRequestHandler):
    def log_message(self, *args):
        pass


with wsgiref.simple_server.make_server("127.0.0.1", 0, serve, Server, Handler) as server:
    print(server.server_port, flush=True)
    server.serve_forever()
