"""All that a model project imports: the class it implements, the values it returns, and helpers to read and split data.

Importing it loads pydantic, no numpy and no pandas: the graph is shown by processes that compute nothing.
"""

from jukebox_orch.contract.dataset import Dataset, Finding, Validation
from jukebox_orch.contract.features import Features, Normalization, Split
from jukebox_orch.contract.files import display_url, open_verified, read_bytes, read_error
from jukebox_orch.contract.project import ModelProject
from jukebox_orch.contract.settings import Gates, Hyperparameters, InputError, Settings, Source, SourceFile
from jukebox_orch.contract.splitting import split_by_share
from jukebox_orch.contract.tasks import Classification, Regression, Task

__all__ = [
    "Classification",
    "Dataset",
    "Features",
    "Finding",
    "Gates",
    "Hyperparameters",
    "InputError",
    "ModelProject",
    "Normalization",
    "Regression",
    "Settings",
    "Source",
    "SourceFile",
    "Split",
    "Task",
    "Validation",
    "display_url",
    "open_verified",
    "read_bytes",
    "read_error",
    "split_by_share",
]
