"""Predicts one order with the ONNX file: python predict.py MODEL COUNTRY PRODUCT AMOUNT ITEMS."""

import json
import sys

import numpy as np
import onnxruntime

path, country, product, amount, items = sys.argv[1:]
session = onnxruntime.InferenceSession(path)
order = {
    "country": np.array([[country]], object),
    "product": np.array([[product]], object),
    "amount": np.array([[amount]], np.float32),
    "items": np.array([[items]], np.float32),
}
(probabilities,) = session.run(None, order)
labels = json.loads(session.get_modelmeta().custom_metadata_map["labels"])
print(*(f"{label} {share:.2f}" for label, share in zip(labels, probabilities[0], strict=True)))
