"""NVIDIA Triton with this folder's models: triton_run.py GRPC_ADDRESS GRPC_PORT HTTP_PORT"""

import sys

import numpy as np
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, QueuePolicy, Tensor, TimeoutAction
from pytriton.triton import Triton, TritonConfig, TritonSecurityConfig

import models

address, grpc_port, http_port = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])


def tensors(specs):
    return [Tensor(name=n, dtype=t, shape=s) for n, t, s in specs]


def bind(triton, name, infer, inputs, outputs, max_batch=64, batching=True, policy=None):
    if batching:
        config = ModelConfig(
            max_batch_size=max_batch,
            batcher=DynamicBatcher(max_queue_delay_microseconds=500, default_queue_policy=policy),
        )
    else:
        config = ModelConfig(batching=False)
    triton.bind(model_name=name, infer_func=infer, inputs=tensors(inputs), outputs=tensors(outputs), config=config,
                strict=False)


@batch
def echo(**inputs):
    return {"out_" + name: value for name, value in inputs.items()}


@batch
def digits(pixels):
    # Triton has no output without a dimension beside the batch.
    answer = models.digits(pixels)
    return {"probs": answer["probs"], "label": answer["label"].reshape(-1, 1)}


def single(requests):
    return [{"y": r["x"] * np.float32(2)} for r in requests]


all_types = {**models.TYPES, "BYTES": bytes}
odd = batch(models.odd)

config = TritonConfig(
    grpc_address=address, grpc_port=grpc_port, http_address="127.0.0.1", http_port=http_port,
    allow_metrics=False, exit_timeout_secs=5, log_verbose=0,
)
with Triton(config=config, security_config=TritonSecurityConfig(restricted_endpoints=[])) as triton:
    bind(triton, "digits", digits, [("pixels", np.float32, (64,))],
         [("probs", np.float32, (10,)), ("label", np.int64, (1,))])
    bind(triton, "types", echo, [(n, t, (2,)) for n, t in all_types.items()],
         [("out_" + n, t, (2,)) for n, t in all_types.items()])
    bind(triton, "ragged", echo, [("x", np.float32, (-1,)), ("s", bytes, (-1,))],
         [("out_x", np.float32, (-1,)), ("out_s", bytes, (-1,))])
    bind(triton, "single", single, [("x", np.float32, (-1,))], [("y", np.float32, (-1,))], batching=False)
    bind(triton, "large", echo, [("x", np.uint8, (-1,))], [("out_x", np.uint8, (-1,))], max_batch=4)
    bind(triton, "odd", odd, [("x", np.int32, (1,))], [("y", np.int32, (1,))], max_batch=8)
    bind(triton, "tiny", odd, [("x", np.int32, (1,))], [("y", np.int32, (1,))], max_batch=1,
         policy=QueuePolicy(max_queue_size=2))
    bind(triton, "hasty", odd, [("x", np.int32, (1,))], [("y", np.int32, (1,))], max_batch=1,
         policy=QueuePolicy(timeout_action=TimeoutAction.REJECT, default_timeout_microseconds=50_000,
                            allow_timeout_override=True))
    triton.serve()
