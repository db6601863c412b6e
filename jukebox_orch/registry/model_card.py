"""The model card in Markdown: what users need to know about a model."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from jukebox_orch.contract import ModelProject
from jukebox_orch.ml.artifacts import EvaluationReport, OnnxReport, Scores, StoredFeatures

_MARKUP = re.compile(r"([\\`*_{}\[\]<>|~$])")


def model_card(
    project: ModelProject,
    *,
    title: str,
    report: EvaluationReport,
    onnx: OnnxReport,
    stored: StoredFeatures,
    lineage: Mapping[str, str],
) -> str:
    """Return the card as Markdown.

    Args:
        title: model name and version.
        lineage: digests, runs and commit that the model comes from, name -> value.
    """
    features = stored.features
    metrics = list(report.test.metrics)
    rows = [report.test, *report.slices, *report.baselines]
    champion = (
        f"Compared with {report.champion.model_name} version {report.champion.version} on the same split: "
        f"{report.primary_metric} {report.champion.metrics[report.primary_metric]:.4f}."
        if report.champion
        else report.champion_problem or "There was no champion to compare with."
    )
    sizes = _table(
        ["split", "entries", "rows"],
        [[name, len(split), round(float(split.weight.sum()))] for name, split in features.splits.items()],
    )
    return "\n".join(
        [
            f"# {title}",
            "",
            project.description,
            "",
            "## Input and output",
            "",
            "Raw values; the model contains the normalization.",
            "",
            _table(["input", "type and shape"], [[n, " ".join(map(str, t))] for n, t in onnx.inputs.items()]),
            "",
            _table(
                ["output", "type and shape"], [[n, " ".join(map(str, t))] for n, t in onnx.outputs.items()]
            ),
            "",
            f"Labels: {', '.join(map(_plain, features.labels))}"
            if features.labels
            else "The output is a number.",
            "",
            "## Data",
            "",
            sizes,
            "",
            "## Evaluation",
            "",
            f"On the test split; the primary metric is {report.primary_metric}:",
            "",
            _table(["", "rows", *metrics], [_row(scores, metrics) for scores in rows]),
            "",
            champion,
            "",
            "## Limitations",
            "",
            project.limitations,
            "",
            "## Lineage",
            "",
            _table(["", ""], [[name, value] for name, value in lineage.items()]),
            "",
        ]
    )


def _plain(text: str) -> str:
    """Return text that Markdown shows as it is."""
    return _MARKUP.sub(r"\\\1", text)


def _row(scores: Scores, metrics: Sequence[str]) -> list[object]:
    return [scores.name, scores.rows, *(f"{scores.metrics[name]:.4f}" for name in metrics)]


def _table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(
        "| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines
    )
