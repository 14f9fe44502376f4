"""Writes the folder of an MLServer with this folder's models and runs it there: mlserver_run.py FOLDER GRPC_PORT HTTP_PORT"""

import json
import os
import sys

import models

folder, grpc_port, http_port = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])


def tensor(name, datatype, *row):
    return {"name": name, "datatype": datatype, "shape": [-1, *row]}


def model(name, function, inputs, outputs):
    path = os.path.join(folder, name)
    os.makedirs(path, exist_ok=True)
    with open(os.path.join(path, "model-settings.json"), "w") as f:
        json.dump({"name": name, "implementation": "mlserver_models.Model", "parameters": {"extra": {"function": function}},
                   "inputs": inputs, "outputs": outputs}, f)


os.makedirs(folder, exist_ok=True)
with open(os.path.join(folder, "settings.json"), "w") as f:
    json.dump({"host": "127.0.0.1", "grpc_port": grpc_port, "http_port": http_port, "metrics_endpoint": None,
               "parallel_workers": 0, "grpc_max_message_length": 64 << 20, "debug": False}, f)
model("digits", "digits", [tensor("pixels", "FP32", 64)], [tensor("probs", "FP32", 10), tensor("label", "INT64")])
types = [*models.TYPES, "BYTES"]
model("types", "echo", [tensor(n, n, 2) for n in types], [tensor("out_" + n, n, 2) for n in types])
model("ragged", "echo", [tensor("x", "FP32", -1), tensor("s", "BYTES", -1)],
      [tensor("out_x", "FP32", -1), tensor("out_s", "BYTES", -1)])
model("large", "echo", [tensor("x", "UINT8", -1)], [tensor("out_x", "UINT8", -1)])
model("odd", "odd", [tensor("x", "INT32", 1)], [tensor("y", "INT32", 1)])
model("untold", "digits", [], [])
if "UNREADY" in os.environ:  # it would keep the server from saying that it is ready
    model("unready", "odd", [tensor("x", "INT32", 1)], [tensor("y", "INT32", 1)])
os.execvp("mlserver", ["mlserver", "start", folder])
