"""KServe with this folder's models; it reads KServe's own options, as --grpc_port."""

import numpy as np
from kserve import InferOutput, InferResponse, Model, ModelServer

import models


def tensor(name, datatype, *row):
    return {"name": name, "datatype": datatype, "shape": [-1, *row]}


class Served(Model):
    def __init__(self, name, function, inputs, outputs, raw=True):
        super().__init__(name)
        self.raw = raw
        self.function, self.inputs, self.outputs = function, inputs, outputs
        self.ready = True

    def get_input_types(self):
        return self.inputs

    def get_output_types(self):
        return self.outputs

    async def predict(self, payload, headers=None, response_headers=None):
        arrays = {i.name: i.as_numpy() for i in payload.inputs}
        if self.function is None:
            results = {"out_" + name: value for name, value in arrays.items()}
        else:
            results = self.function(**arrays)
        datatypes = {o["name"]: o["datatype"] for o in self.outputs}
        outputs = []
        for name, value in results.items():
            value = np.asarray(value)
            o = InferOutput(name=name, shape=list(value.shape), datatype=datatypes[name])
            o.set_data_from_numpy(value, binary_data=self.raw)
            outputs.append(o)
        return InferResponse(model_name=self.name, infer_outputs=outputs, response_id=payload.id)


types = [*models.TYPES, "BYTES"]
ModelServer().start([
    Served("digits", models.digits, [tensor("pixels", "FP32", 64)], [tensor("probs", "FP32", 10), tensor("label", "INT64")]),
    Served("types", None, [tensor(n, n, 2) for n in types], [tensor("out_" + n, n, 2) for n in types]),
    Served("ragged", None, [tensor("x", "FP32", -1), tensor("s", "BYTES", -1)],
           [tensor("out_x", "FP32", -1), tensor("out_s", "BYTES", -1)]),
    Served("large", None, [tensor("x", "UINT8", -1)], [tensor("out_x", "UINT8", -1)]),
    # The same, with contents that are not raw.
    Served("typed", None, [tensor(n, n, 2) for n in types if n != "FP16"],
           [tensor("out_" + n, n, 2) for n in types if n != "FP16"], raw=False),
    Served("odd", models.odd, [tensor("x", "INT32", 1)], [tensor("y", "INT32", 1)]),
])
