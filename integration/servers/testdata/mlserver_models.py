"""This folder's models for MLServer."""

import numpy as np
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceResponse, ResponseOutput

import models


class Model(MLModel):
    """One model for all names: model-settings.json says which function it is."""

    async def load(self):
        return self.name != "unready"

    async def predict(self, payload):
        function = self.settings.parameters.extra["function"]
        inputs = {i.name: i for i in payload.inputs}
        if function == "echo":
            outputs = [
                ResponseOutput(name="out_" + i.name, datatype=i.datatype, shape=i.shape, data=i.data)
                for i in payload.inputs
            ]
        else:
            arrays = {name: NumpyCodec.decode_input(i) for name, i in inputs.items()}
            outputs = [
                NumpyCodec.encode_output(name, np.asarray(value))
                for name, value in getattr(models, function)(**arrays).items()
            ]
        return InferenceResponse(model_name=self.name, id=payload.id, outputs=outputs)
