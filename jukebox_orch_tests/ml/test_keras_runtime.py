"""Importing TensorFlow in a process in which its import was interrupted."""

import subprocess
import sys

import pytest

IMPORT_TWICE = """
import os, signal, sys, threading, time

signal.signal(signal.SIGINT, signal.default_int_handler)  # a background process ignores it

def interrupt():
    while sys.argv[1] not in sys.modules:
        time.sleep(0.001)
    os.kill(os.getpid(), signal.SIGINT)

from jukebox_orch.ml.keras_runtime import import_keras

threading.Thread(target=interrupt, daemon=True).start()
for _ in range(2):
    try:
        import_keras()
    except BaseException as error:
        print(f"{type(error).__name__}: {error}")
    else:
        print("imported")
"""


@pytest.mark.parametrize(
    "reached", ["tensorflow.python.tools", "tensorflow.core.framework.dataset_options_pb2"]
)
def test_import_after_interrupted_import_says_to_start_new_process(reached):
    process = [sys.executable, "-c", IMPORT_TWICE, reached]
    result = subprocess.run(process, capture_output=True, text=True, timeout=120, check=False)
    first, second = result.stdout.splitlines()
    assert first == "KeyboardInterrupt: "
    assert second == (
        "UnfinishedImportError: TensorFlow was imported before in this process, and its import was interrupted or "
        "failed. It cannot be repeated in the same process: start a new process, for example by running the job again."
    )
