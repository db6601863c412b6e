"""The project passes the contract suite, and its ONNX file takes text that it has never seen."""

import numpy as np
from acme_orders import AcmeOrders

from jukebox_orch.ml.onnx_export import export
from jukebox_orch.testing.data_checks import Trained
from jukebox_orch.testing.suite import ProjectContract


class TestAcmeOrders(ProjectContract):
    """Runs all tests of the suite."""

    project_class = AcmeOrders

    def test_onnx_file_takes_raw_text_and_unknown_values(self, trained: Trained) -> None:
        import onnxruntime

        content = export(AcmeOrders(), trained.trained_model, trained.features).content
        session = onnxruntime.InferenceSession(content)
        order = {
            "country": np.array([["DE"], ["Atlantis"]], object),
            "product": np.array([["P-10"], ["P-999"]], object),
            "amount": np.array([[80], [80]], np.float32),
            "items": np.array([[1], [1]], np.float32),
        }
        (probabilities,) = session.run(None, order)
        assert np.allclose(np.asarray(probabilities).sum(axis=1), 1)
