"""`validated_data`: the findings of validation. A failed blocking check stops everything downstream."""

import dagster as dg

from jukebox_orch.assets.check_builder import Check, Outcome, check_results
from jukebox_orch.assets.metadata import table
from jukebox_orch.assets.training_graph import AssetNode, TrainingGraph
from jukebox_orch.contract import Finding, ModelProject
from jukebox_orch.ml.artifacts import RuleFinding, SourcedDataset, ValidationReport

NODE = AssetNode(
    name="validated_data",
    description="Findings of validation: problems in the dataset with counts and example rows.",
    kinds=frozenset({"python", "json"}),
    artifact_type="Artifact",
    inputs=("dataset",),
    settings=("gates",),
    reuse=True,
)


def _invalid_share(project: ModelProject, report: ValidationReport) -> Outcome:
    return Outcome(
        report.invalid_share <= report.max_invalid_share,
        report.invalid_share,
        report.max_invalid_share,
        f"{report.invalid_rows:,} of {report.rows:,} rows are not usable ({report.invalid_share:.2%})",
    )


def _invalid_rows(project: ModelProject, report: ValidationReport) -> Outcome:
    found = report.invalid_rows
    return Outcome(found == 0, found, 0, f"{found:,} rows are quarantined")


OWN_CHECKS = (
    Check(
        "invalid_share", "The share of quarantined rows is at most gates.max_invalid_share.", _invalid_share
    ),
    Check("invalid_rows", "No rows are quarantined.", _invalid_rows, blocking=False),
)
"""Checks of every project, in addition to its rules."""


def checks(project: ModelProject) -> tuple[Check, ...]:
    """Return one blocking check per rule of the project, and the checks on invalid rows."""
    rules = (Check(name, text, _rule_evaluation(name)) for name, text in project.rules.items())
    return (*rules, *OWN_CHECKS)


def validated_data_asset(graph: TrainingGraph) -> dg.AssetsDefinition:
    """Define the asset and its checks."""
    project = graph.project

    @graph.asset(NODE, checks(project))
    def validated_data(context: dg.AssetExecutionContext, dataset: SourcedDataset):
        from jukebox_orch.ml import project_calls
        from jukebox_orch.ml.artifact_formats import format_of

        validation = project_calls.validate(project, dataset.tables)
        report = ValidationReport(
            dataset_digest=format_of(dataset).digest(dataset),
            rows=validation.rows,
            invalid_rows=validation.invalid_rows,
            max_invalid_share=graph.settings(NODE, context).gates.max_invalid_share,
            findings=[_rule_finding(finding) for finding in validation.findings],
        )
        for finding in report.findings:
            log = context.log.error if finding.fatal else context.log.warning
            log(f"{finding.rule}: {finding.message}")
        return dg.MaterializeResult(
            value=report,
            data_version=dg.DataVersion(format_of(report).digest(report)),
            metadata={
                "rows checked": report.rows,
                "invalid rows": report.invalid_rows,
                "findings": table(
                    [
                        {"rule": f.rule, "rows": f.count, "stops": f.fatal, "what": f.message}
                        for f in report.findings
                    ]
                ),
            },
            check_results=check_results(project, checks(project), report),
        )

    return validated_data


def _rule_evaluation(rule: str):
    """Return the evaluation of a rule's check, which fails if a finding of the rule is fatal."""

    def evaluate(project: ModelProject, report: ValidationReport) -> Outcome:
        findings = [finding for finding in report.findings if finding.rule == rule]
        fatal = [finding for finding in findings if finding.fatal]
        examples = {
            f"example rows {i}" if i else "example rows": table(finding.examples)
            for i, finding in enumerate(f for f in findings if f.examples)
        }
        return Outcome(
            not fatal,
            sum(finding.count for finding in fatal),
            0,
            "; ".join(finding.message for finding in fatal or findings) or "nothing found",
            {"quarantined rows": sum(f.count for f in findings if not f.fatal), **examples},
        )

    return evaluate


def _rule_finding(finding: Finding) -> RuleFinding:
    """Convert a finding for storage: numpy and pandas scalars of example rows become JSON values."""
    examples = [
        {str(k): v if isinstance(v, bool | int | float | str) else str(v) for k, v in row.items()}
        for row in finding.examples
    ]
    return RuleFinding(
        rule=finding.rule,
        message=finding.message,
        count=finding.count,
        fatal=finding.fatal,
        examples=examples,
    )
