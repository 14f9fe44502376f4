"""NVIDIA's client against the sidecar: clients.py ENDPOINT FOLDER_WITH_DIGITS. Prints a line for each case; any
failure ends it with 1."""

import asyncio
import json
import os
import queue
import sys
import threading

import grpc
import numpy as np
import tritonclient.grpc as client
import tritonclient.grpc.aio as aio
import tritonclient.utils.shared_memory as shm
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from google.protobuf.descriptor_pool import DescriptorPool
from tritonclient.utils import InferenceServerException

url, digits = sys.argv[1], sys.argv[2]
with open(digits) as f:
    records = [json.loads(line) for line in f]
pixels = np.array([r["pixels"] for r in records], np.float32)
reference = np.array([r["probs"] for r in records])


def inputs(rows, name="pixels"):
    i = client.InferInput(name, list(rows.shape), "FP32")
    i.set_data_from_numpy(rows)
    return [i]


def check(result, rows):
    assert np.allclose(result.as_numpy("probs"), reference[rows], atol=1e-5), "probs"
    assert (result.as_numpy("label") == reference[rows].argmax(axis=1)).all(), "label"


def refused(code, call, *args, **kwargs):
    try:
        call(*args, **kwargs)
    except InferenceServerException as e:
        assert e.status() == "StatusCode." + code, e
        return e.message()
    raise AssertionError("no error of " + code)


def done(what):
    print("ok", what, flush=True)


c = client.InferenceServerClient(url, keepalive_options=client.KeepAliveOptions(keepalive_time_ms=30000))

assert c.is_server_live() and c.is_server_ready() and c.is_model_ready("digits") and c.is_model_ready("digits", "1")
metadata = c.get_server_metadata()
assert metadata.name == "tensorferry" and "statistics" in metadata.extensions, metadata
model = c.get_model_metadata("digits")
assert [i.name for i in model.inputs] == ["pixels"] and list(model.inputs[0].shape) == [-1, 64], model
config = c.get_model_config("digits").config
assert config.max_batch_size > 1 and config.input[0].dims == [64] and config.output[1].name == "label", config
done("metadata")

for compression in (None, "gzip"):
    for batch in (1, 7, 64):
        for at in range(0, len(records), batch):
            rows = slice(at, at + batch)
            check(c.infer("digits", inputs(pixels[rows]), request_id=str(at), compression_algorithm=compression), rows)
result = c.infer("digits", inputs(pixels[:2]), outputs=[client.InferRequestedOutput("label")], model_version="1", timeout=10**6)
assert result.as_numpy("probs") is None and result.as_numpy("label").shape == (2,)
done("infer")

answers = queue.Queue()
for at in range(len(records)):
    c.async_infer("digits", inputs(pixels[at : at + 1]), lambda result, error, at=at: answers.put((at, result, error)))
for _ in records:
    at, result, error = answers.get(timeout=60)
    assert error is None, error
    check(result, slice(at, at + 1))
done("async_infer")


async def asynchronous():
    async with aio.InferenceServerClient(url) as a:
        assert await a.is_server_ready()
        results = await asyncio.gather(*(a.infer("digits", inputs(pixels[at : at + 1])) for at in range(len(records))))
        for at, result in enumerate(results):
            check(result, slice(at, at + 1))

        async def requests():
            for at in range(100):
                yield {"model_name": "digits", "inputs": inputs(pixels[at : at + 1]), "request_id": str(at)}

        at = 0
        async for result, error in a.stream_infer(requests()):
            assert error is None, error
            assert result.get_response().id == str(at)
            check(result, slice(at, at + 1))
            at += 1
        assert at == 100, at


asyncio.run(asynchronous())
done("asyncio")

c.start_stream(lambda result, error: answers.put((result, error)))
for at in range(100):
    c.async_stream_infer("nosuch" if at == 50 else "digits", inputs(pixels[at : at + 1]), request_id=str(at))
for at in range(100):
    result, error = answers.get(timeout=60)
    if at == 50:
        assert error is not None and "nosuch" in error.message(), error
        continue
    assert error is None, error
    assert result.get_response().id == str(at), result.get_response().id
    check(result, slice(at, at + 1))
c.async_stream_infer("digits", inputs(pixels[:1]), request_id="last", enable_empty_final_response=True)
result, error = answers.get(timeout=60)
assert error is None and result.get_response().parameters["triton_final_response"].bool_param, result
c.stop_stream()
done("stream")

key = "/tensorferry-clients-%d" % os.getpid()
handle = shm.create_shared_memory_region("digits", key, 1 << 20)
try:
    c.register_system_shared_memory("digits", key, 1 << 20)
    assert c.get_system_shared_memory_status().regions["digits"].byte_size == 1 << 20
    shm.set_shared_memory_region(handle, [pixels])
    for at in range(0, len(records), 50):
        shared = client.InferInput("pixels", [50, 64], "FP32")
        shared.set_shared_memory("digits", 50 * 256, offset=at * 256)
        probs, label = client.InferRequestedOutput("probs"), client.InferRequestedOutput("label")
        probs.set_shared_memory("digits", 50 * 40, offset=512 << 10)
        result = c.infer("digits", [shared], outputs=[probs, label])
        got = shm.get_contents_as_numpy(handle, np.float32, [50, 10], offset=512 << 10)
        assert np.allclose(got, reference[at : at + 50], atol=1e-5)
        assert (result.as_numpy("label") == reference[at : at + 50].argmax(axis=1)).all()
    refused("ALREADY_EXISTS", c.register_system_shared_memory, "digits", key, 1 << 20)
    refused("INVALID_ARGUMENT", c.register_system_shared_memory, "other", key, 2 << 20)
    refused("INVALID_ARGUMENT", c.register_system_shared_memory, "other", "/../../etc/passwd", 8)
    c.unregister_system_shared_memory()
    refused("NOT_FOUND", c.infer, "digits", [shared])
finally:
    shm.destroy_shared_memory_region(handle)
done("shared memory")

refused("INVALID_ARGUMENT", c.infer, "digits", inputs(pixels[:1], name="z"))
refused("INVALID_ARGUMENT", c.infer, "digits", inputs(pixels[:1, :3]))
refused("NOT_FOUND", c.infer, "nosuch", inputs(pixels[:1]))
refused("NOT_FOUND", c.infer, "digits", inputs(pixels[:1]), model_version="7")
refused("NOT_FOUND", c.get_model_metadata, "digits", "7")
assert not c.is_model_ready("nosuch") and not c.is_model_ready("digits", "7")
refused("UNIMPLEMENTED", c.infer, "digits", inputs(pixels[:1]), sequence_id=5, sequence_start=True)
refused("UNIMPLEMENTED", c.infer, "digits", inputs(pixels[:1]), outputs=[client.InferRequestedOutput("probs", class_count=3)])
refused("INVALID_ARGUMENT", c.register_cuda_shared_memory, "r", b"0" * 64, 0, 8)
refused("NOT_FOUND", c.get_cuda_shared_memory_status, "r")
refused("UNIMPLEMENTED", c.update_trace_settings, settings={"trace_rate": "1"})
refused("UNIMPLEMENTED", c.update_log_settings, {"log_info": False})
done("refusals")

c.unregister_system_shared_memory()
c.unregister_cuda_shared_memory()
assert not c.get_cuda_shared_memory_status().regions
assert list(c.get_trace_settings("digits").settings["trace_level"].value) == ["OFF"]
assert c.get_log_settings().settings["log_errors"].bool_param
for algorithm in ("gzip", "deflate"):
    check(c.infer("digits", inputs(pixels[:5]), compression_algorithm=algorithm), slice(0, 5))
done("what examples ask first")

statistics = c.get_inference_statistics("digits").model_stats[0]
assert statistics.inference_stats.success.count >= len(records) and statistics.inference_count > statistics.execution_count > 0, statistics
assert statistics.inference_stats.fail.count > 0 and len(statistics.batch_stats) > 1, statistics
assert [m.name for m in c.get_model_repository_index().models] == ["digits"]
c.load_model("digits")
assert c.is_model_ready("digits")
stop = threading.Event()
failures = []


def load():
    while not stop.is_set():
        try:
            check(c.infer("digits", inputs(pixels[:5])), slice(0, 5))
        except Exception as e:
            failures.append(e)
            return


callers = [threading.Thread(target=load) for _ in range(3)]
for t in callers:
    t.start()
for _ in range(5):
    c.load_model("digits")
stop.set()
for t in callers:
    t.join()
assert not failures, failures
c.unload_model("digits")
assert not c.is_model_ready("digits")
refused("NOT_FOUND", c.infer, "digits", inputs(pixels[:1]))
c.load_model("digits")
check(c.infer("digits", inputs(pixels[:5])), slice(0, 5))
done("repository")

channel = grpc.insecure_channel(url)
health = health_pb2_grpc.HealthStub(channel)
for service in ("", "inference.GRPCInferenceService"):
    assert health.Check(health_pb2.HealthCheckRequest(service=service)).status == health_pb2.HealthCheckResponse.SERVING, service
try:
    health.Check(health_pb2.HealthCheckRequest(service="nosuch"))
    raise AssertionError("health of an unknown service")
except grpc.RpcError as e:
    assert e.code() == grpc.StatusCode.NOT_FOUND, e
reflection = ProtoReflectionDescriptorDatabase(channel)
assert {"inference.GRPCInferenceService", "grpc.health.v1.Health"} <= set(reflection.get_services()), reflection.get_services()
service = DescriptorPool(reflection).FindServiceByName("inference.GRPCInferenceService")
assert service.FindMethodByName("ModelInfer").input_type.full_name == "inference.ModelInferRequest"
done("health and reflection")
