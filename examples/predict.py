"""Predict with an ONNX file of the model store: python predict.py MODEL.onnx REQUEST.json.

The request has a list per input of the file, one value or array per row.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime

TYPES = {
    "tensor(float)": "float32",
    "tensor(uint8)": "uint8",
    "tensor(int64)": "int64",
    "tensor(string)": "object",
}

model, request = sys.argv[1:]
session = onnxruntime.InferenceSession(model)
rows = json.loads(Path(request).read_text())
inputs = {}
for entry in session.get_inputs():
    values = np.array(rows[entry.name], TYPES[entry.type])
    inputs[entry.name] = values.reshape(len(values), *entry.shape[1:])
labels = json.loads(session.get_modelmeta().custom_metadata_map.get("labels", "[]"))
(outputs,) = session.run(None, inputs)
for output in outputs:
    names = labels or range(len(output))  # a regression may have no names
    print(", ".join(f"{name}: {value:.2f}" for name, value in zip(names, output, strict=True)))
