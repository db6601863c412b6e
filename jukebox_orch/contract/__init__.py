"""Everything that a model project imports: the class to implement, the values to return, helpers to read and split.

Importing it loads pydantic but not numpy or pandas, because processes that only show the graph import it too.
"""

from jukebox_orch.contract.blocks import Block, Categories, Columns, Normalization, Tensor
from jukebox_orch.contract.classification import Classification
from jukebox_orch.contract.dataset import Dataset, Finding, Validation
from jukebox_orch.contract.features import Features, Split
from jukebox_orch.contract.files import open_verified, read_bytes, read_csv, read_error
from jukebox_orch.contract.multi_label import MultiLabel
from jukebox_orch.contract.project import ModelProject
from jukebox_orch.contract.regression import Regression
from jukebox_orch.contract.settings import (
    SAMPLE,
    Epochs,
    Gates,
    Hyperparameters,
    InputError,
    PinnedFile,
    Settings,
    ShareSplit,
    Source,
    SourceFile,
)
from jukebox_orch.contract.splitting import split_by_share, split_by_time
from jukebox_orch.contract.task import Task
from jukebox_orch.contract.urls import display_url, url_path

__all__ = [
    "SAMPLE",
    "Block",
    "Categories",
    "Classification",
    "Columns",
    "Dataset",
    "Epochs",
    "Features",
    "Finding",
    "Gates",
    "Hyperparameters",
    "InputError",
    "ModelProject",
    "MultiLabel",
    "Normalization",
    "PinnedFile",
    "Regression",
    "Settings",
    "ShareSplit",
    "Source",
    "SourceFile",
    "Split",
    "Task",
    "Tensor",
    "Validation",
    "display_url",
    "open_verified",
    "read_bytes",
    "read_csv",
    "read_error",
    "split_by_share",
    "split_by_time",
    "url_path",
]
