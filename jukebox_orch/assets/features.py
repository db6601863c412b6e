"""`features`: numeric splits and the constants that normalise them. Runs in parallel with validation."""

from typing import TYPE_CHECKING

import dagster as dg

from jukebox_orch.assets.check_builder import Check, Outcome, check_results
from jukebox_orch.assets.metadata import image
from jukebox_orch.assets.training_graph import AssetNode, TrainingGraph
from jukebox_orch.contract import (
    Categories,
    Columns,
    Features,
    InputError,
    ModelProject,
    Normalization,
    Tensor,
)
from jukebox_orch.contract.splitting import late_entries
from jukebox_orch.ml.artifacts import DataOrigin, SourcedDataset, StoredFeatures
from jukebox_orch.storage.artifact_store import ArtifactStore

if TYPE_CHECKING:
    import numpy as np

NODE = AssetNode(
    name="features",
    description="Train, validation and test splits as numbers, with the constants that normalise them.",
    kinds=frozenset({"numpy"}),
    artifact_type="Dataset",
    inputs=("dataset",),
    settings=("split", "seed"),
    reuse=True,
)
_NORMALIZATION_TOLERANCE = 1e-3
_RAREST_SHARE = 1e-3
_NOTHING_FITTED = Outcome(True, 0.0, 0.0, "the network gets the raw values")


def _finite(project: ModelProject, features: Features) -> Outcome:
    import numpy as np

    counts = {
        f"{name}.{field}": int((~np.isfinite(array)).sum())
        for name, split in features.splits.items()
        for field, array in (*features.arrays(split).items(), ("y", split.y), ("weight", split.weight))
        if np.issubdtype(array.dtype, np.floating)
    }
    bad = {name: count for name, count in counts.items() if count}
    text = f"missing or infinite: {bad}" if bad else "every number is finite"
    return Outcome(not bad, sum(bad.values()), 0, text)


def _normalised(project: ModelProject, features: Features) -> Outcome:
    outcomes = [_block_normalised(constants, x) for _, constants, x in _constants(features)]
    # The worst block speaks for all.
    return min(outcomes, key=lambda outcome: (outcome.passed, -float(outcome.value)), default=_NOTHING_FITTED)


def _block_normalised(constants: Normalization, x: "np.ndarray") -> Outcome:
    import numpy as np

    if constants.kind == "unit":
        # A sample: the range is fixed, and all rows of a large array take long.
        scaled = constants.apply(x[:10_000])
        excess = float(max(0.0, -scaled.min(), scaled.max() - 1))
        return Outcome(excess == 0, excess, 0.0, f"values reach {excess:.3g} beyond 0..1")
    mean, deviation, constant = Normalization.statistics(x, constants.axis)
    shift, spread = abs(mean - constants.offset) / constants.scale, deviation / constants.scale
    distance = float(np.maximum(shift, np.where(constant, 0, abs(spread - 1))).max())
    return Outcome(
        distance <= _NORMALIZATION_TOLERANCE,
        distance,
        _NORMALIZATION_TOLERANCE,
        f"largest distance of a feature's mean from 0 or its deviation from 1: {distance:.2g}"
        + (f"; {int(constant.sum())} constant features" if constant.any() else ""),
    )


def _fitted_on_train(project: ModelProject, features: Features) -> Outcome:
    distances = [0.0]
    for _, constants, x in _constants(features):
        if constants.kind == "standard":
            fitted = constants.standard(x, constants.axis)
            distances += [
                float(abs((constants.offset - fitted.offset) / fitted.scale).max()),
                float(abs(constants.scale / fitted.scale - 1).max()),
            ]
    never = [
        f"{block.name}: {value!r}"
        for block in features.blocks
        if isinstance(block, Categories)
        for value in block.never_in(features.arrays(features.train)[block.name])
    ]
    distance = max(distances)
    text = f"constants differ from those of the training split by {distance:.2g} of its deviation"
    if len(distances) == 1:
        text = "nothing was fitted: ranges are fixed"
    if never:
        text = f"known categories that the training split does not have: {', '.join(never[:5])}"
    return Outcome(distance <= 1e-6 and not never, distance, 1e-6, text)


def _no_overlap(project: ModelProject, features: Features) -> Outcome:
    import numpy as np

    train, validation, test = (split.keys for split in features.splits.values())
    shared = np.unique(
        np.concatenate(
            [np.intersect1d(a, b) for a, b in ((train, validation), (train, test), (validation, test))]
        )
    )
    text = f"shared: {', '.join(map(str, shared[:5]))}" if len(shared) else "no key is in two splits"
    return Outcome(not len(shared), len(shared), 0, text)


def _time_order(project: ModelProject, features: Features) -> Outcome:
    late, text = late_entries(features)
    return Outcome(not late, late, 0, text)


def _class_balance(project: ModelProject, features: Features) -> Outcome:
    shares = project.task.balance(features)
    rarest = float(shares.to_numpy().min())
    rare = [str(name) for name in shares.index[(shares < _RAREST_SHARE).any(axis=1)]]
    text = f"below {_RAREST_SHARE:.1%} in some split: {', '.join(rare[:10])}"
    return Outcome(not rare, rarest, _RAREST_SHARE, text if rare else project.task.balance_check.passed)


_CHECKS = (
    Check("finite", "No missing or infinite number in any split.", _finite),
    Check(
        "normalised",
        "Normalised with the constants, the training split has mean 0 and deviation 1, or is within 0..1.",
        _normalised,
    ),
    Check("fitted_on_train", "The constants were computed from the training split only.", _fitted_on_train),
    Check("no_overlap", "No two splits share a split key.", _no_overlap),
    Check(
        "time_order",
        "In a split by time, every entry is older than those of the next split.",
        _time_order,
    ),
)


def checks(project: ModelProject) -> tuple[Check, ...]:
    """Return the checks of the project's features; the last has the words of its task."""
    words = project.task.balance_check
    return (*_CHECKS, Check(words.name, words.requires, _class_balance, blocking=False))


def features_asset(graph: TrainingGraph) -> dg.AssetsDefinition:
    """Define the asset and its checks."""

    rules = checks(graph.project)

    @graph.asset(NODE, rules)
    def features(
        context: dg.AssetExecutionContext,
        dataset: SourcedDataset,
        artifact_store: dg.ResourceParam[ArtifactStore],
    ):
        from jukebox_orch.assets import figures
        from jukebox_orch.ml.artifact_formats import format_of
        from jukebox_orch.ml.features import make_features

        settings = graph.settings(NODE, context)
        digest = format_of(dataset).digest(dataset)
        # Features carry the origin of their dataset, so those of equal data from elsewhere are not reused.
        origin = dataset.origin.model_dump_json() if dataset.origin else ""
        fingerprint = graph.fingerprint(NODE, {"dataset": digest, "origin": origin}, settings)
        reused = artifact_store.find_reusable(context.instance, graph.key(NODE.name), fingerprint)
        stored: StoredFeatures = (
            reused.value
            if reused
            else make_features(graph.project, dataset, digest, settings.split, settings.seed)
        )
        splits = stored.features.splits
        return dg.MaterializeResult(
            value=reused or stored,
            data_version=dg.DataVersion(stored.digest),
            metadata={
                "fingerprint": fingerprint,
                **{f"{name} entries": len(split) for name, split in splits.items()},
                **{f"{name} rows": round(float(split.weight.sum())) for name, split in splits.items()},
                "split kind": stored.split_kind,
                "inputs": ", ".join(stored.features.input_names),
                "labels": len(stored.features.labels),
                "split keys": dg.MetadataValue.json(
                    {name: split.keys[:10].tolist() for name, split in splits.items()}
                ),
                "feature distributions": image(
                    figures.png(figures.feature_distributions(stored.features)),
                    "feature distributions of the training split",
                ),
                "class balance": image(
                    figures.png(figures.balance(graph.project.task.balance(stored.features))),
                    "target per split",
                ),
            },
            check_results=check_results(graph.project, rules, stored.features),
        )

    return features


def origin_of_features(features: StoredFeatures) -> DataOrigin:
    """Return where the dataset of the features comes from.

    Raises:
        InputError: an older version of the product stored it, without its name.
    """
    if features.origin is None:
        raise InputError(
            "features and their dataset were stored by an older version, which recorded no dataset name: "
            "materialize dataset again, and everything after it"
        )
    return features.origin


def _constants(features: Features) -> "list[tuple[str, Normalization, np.ndarray]]":
    """Return name, constants and training array of every block that is normalised."""
    arrays = features.arrays(features.train)
    return [
        (block.name, block.normalization, arrays[block.name])
        for block in features.blocks
        if isinstance(block, Columns | Tensor) and block.normalization
    ]
