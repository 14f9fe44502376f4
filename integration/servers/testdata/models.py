"""What the models of all the servers compute, on numpy arrays with a row for each record."""

import os
import time

import numpy as np

TYPES = {
    "BOOL": np.bool_,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
}

_session = None


def digits(pixels):
    global _session
    if _session is None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        _session = onnxruntime.InferenceSession(os.environ["DIGITS"], options, providers=["CPUExecutionProvider"])
    probs, label = _session.run(["probs", "label"], {"pixels": np.ascontiguousarray(pixels, np.float32)})
    return {"probs": probs, "label": label}


FAIL, SHORT, EXIT = 666, 667, 668


def odd(x):
    """Doubles, and does what some values ask for: 666 raises, 667 loses a row, 668 ends the
    process, 1000 and more takes so many milliseconds less 1000. What it has begun to compute
    it writes to the file $EXECUTED."""
    values = x.reshape(-1).tolist()
    if "EXECUTED" in os.environ:
        with open(os.environ["EXECUTED"], "a") as f:
            f.write("".join("%d\n" % v for v in values))
    for v in values:
        if v == FAIL:
            raise ValueError("the model does not like %d" % v)
        if v == EXIT:
            os._exit(3)
        if v >= 1000:
            time.sleep((v - 1000) / 1000)
    y = x * np.int32(2)
    if SHORT in values:
        y = y[:-1]
    return {"y": y}
