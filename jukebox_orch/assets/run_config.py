"""Pydantic settings as Dagster config, which rejects bad values before the first step.

Dagster's schema has types, defaults and descriptions, but not bounds. Therefore the descriptions include the bounds,
and the config mapping of a job validates the whole config with pydantic when the run is created.
"""

import re
import types
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import dagster as dg
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic.fields import FieldInfo

from jukebox_orch.contract import SAMPLE, InputError, ModelProject, Source, display_url

MODEL_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"
_SAMPLE_SUFFIX = f"-{SAMPLE}"
_DATASET_NAME_LENGTH = 200
_WITHOUT_SOURCE = (
    "the run has no source and would train on the embedded sample; set source.location to train on your data"
)


def _stage(alias: str) -> str:
    """Reject the aliases that the registry or the product reserves."""
    if alias in ("champion", "challenger", "latest") or re.fullmatch(r"v\d+", alias):
        raise ValueError("this alias is reserved; use for example staging, canary or production")
    return alias


def _dataset_name(name: str) -> str:
    """Reject what is not a name, and the name of the embedded samples, which only a run without a source has."""
    if name == SAMPLE:
        raise ValueError("this name is reserved for the embedded sample; name your data, for example charts")
    if name != name.strip() or not name.isprintable():
        raise ValueError("use printable characters on one line, no blank at either end")
    if "://" in name and display_url(name) != name:
        raise ValueError(
            "a name is stored in many places, and this URL has a user, password or query; leave them out"
        )
    return name


# Settings of every project, with their bounds, for the launchpad and for other callers that start runs.
Seed = Annotated[int, Field(ge=0, le=2**31 - 1)]
ModelName = Annotated[str, Field(pattern=rf"{MODEL_NAME}|^$")]
DatasetName = Annotated[str, Field(max_length=_DATASET_NAME_LENGTH), AfterValidator(_dataset_name)]
BaseModelName = Annotated[str, Field(pattern=r"^$|^[A-Za-z0-9][A-Za-z0-9._-]{0,62}(/[1-9][0-9]{0,8})?$")]
VersionLabel = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,62}$|^$")]
Stage = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,62}$"), AfterValidator(_stage)]


def run_settings(project: ModelProject, name: str, defaults: Mapping[str, Any]) -> type[BaseModel]:
    """Return the settings of a run of the project. The instance's `defaults` override the project's.

    Raises:
        InputError: a default is unknown or out of bounds.
    """
    groups: dict[str, tuple[type[BaseModel], str]] = {
        "source": (project.source, "Where the data comes from"),
        "split": (project.split, "How the data is divided into train, validation and test"),
        "hyperparameters": (project.hyperparameters, "How the network is built and trained"),
        "gates": (project.gates, "Thresholds that stop a run or warn"),
    }
    fields: dict[str, Any] = {
        group: (
            model,
            Field(
                _group_defaults(model, defaults.get(group, {}), f"{name}: defaults of {group}"),
                description=text,
            ),
        )
        for group, (model, text) in groups.items()
    }
    fields["seed"] = (
        Seed,
        Field(defaults.get("seed", 42), description="Fixes every source of randomness"),
    )
    default_name = defaults.get("model_name") or name
    configured = defaults.get("dataset_name", "")
    of_source = f"{configured} for the configured source, otherwise " if configured else ""
    fields["dataset_name"] = (
        DatasetName,
        Field(
            "",
            description="Name of the data. A version replaces the champion by itself only if both have the same "
            f"dataset name; empty: {of_source}the location of the source",
        ),
    )
    fields["model_name"] = (
        ModelName,
        Field(
            "",
            description="Name in the model registry and folder in the model store; "
            f"empty: {default_name}, and {default_name}{_SAMPLE_SUFFIX} for a run on the embedded sample",
        ),
    )
    fields["base_model_name"] = (
        BaseModelName,
        Field(
            defaults.get("base_model_name", ""),
            description="Registered model that the new one is compared with: its champion, or NAME/VERSION; "
            "empty: the champion of the model, or a simple baseline if there is none",
        ),
    )
    fields["version"] = (
        VersionLabel,
        Field(
            defaults.get("version", ""),
            description="Label of the model version, for example a git tag without its v; empty: the registry's number",
        ),
    )
    fields["stage"] = (
        Stage,
        Field(
            defaults.get("stage", "staging"),
            description="Alias for a model that is not worse than the one it is compared with",
        ),
    )
    fields["prod_flag"] = (
        bool,
        Field(
            defaults.get("prod_flag", False),
            description="True: a model that passes gets the alias `production` instead of `stage`",
        ),
    )
    if unknown := sorted(set(defaults) - set(fields)):
        raise InputError(f"{name}: unknown default(s) {', '.join(unknown)}; known: {', '.join(fields)}")
    config = ConfigDict(extra="forbid", frozen=True, validate_default=True)
    settings = create_model("RunSettings", __config__=config, **fields)
    parse(settings, {"dataset_name": configured}, f"{name}: defaults")
    return settings


def default_model_name(name: str, defaults: Mapping[str, Any]) -> str:
    """Return the registered name of a graph's models of real data.

    Raises:
        InputError: the instance's default is not a model name, or is reserved for samples.
    """
    chosen = defaults.get("model_name") or name
    if not isinstance(chosen, str) or not re.fullmatch(MODEL_NAME, chosen) or chosen.endswith(_SAMPLE_SUFFIX):
        raise InputError(
            f"{name}: defaults: model_name = {chosen!r}: use letters, digits, `.`, `_` and `-`, at most 63 "
            f"characters, not ending in {_SAMPLE_SUFFIX}"
        )
    return chosen


def registered_name(default: str, chosen: str, sample: bool) -> str:
    """Return the name under which a run registers its model.

    Args:
        default: the name of the graph's models of real data.
        chosen: the run's setting `model_name`; may be empty.
        sample: whether the run trains on the embedded sample.

    Raises:
        InputError: a run on the sample names a real model, or a run on real data a model of the sample.
    """
    name = chosen or (f"{default}{_SAMPLE_SUFFIX}" if sample else default)
    refuse_other_kind("model_name", name, sample)
    return name


def refuse_mixed_data(settings: Any) -> None:
    """Raise if a run on the embedded sample names real data or a real model, or the other way round.

    Raises:
        InputError: with the field, its value and what to do.
    """
    source: Source = settings.source
    if source.is_sample and settings.dataset_name:
        raise InputError(
            f"dataset_name = {settings.dataset_name!r}: {_WITHOUT_SOURCE}; or leave dataset_name empty"
        )
    for field in ("model_name", "base_model_name"):
        if name := getattr(settings, field):
            refuse_other_kind(field, name, source.is_sample)


def refuse_other_kind(field: str, name: str, sample: bool) -> None:
    """Raise if the model is one of real data and the run is on the sample, or the other way round.

    Raises:
        InputError: with the field, its value and what to do.
    """
    of_sample = name.partition("/")[0].endswith(_SAMPLE_SUFFIX)
    if sample and not of_sample:
        raise InputError(
            f"{field} = {name!r}: {_WITHOUT_SOURCE}, or use a name that ends in {_SAMPLE_SUFFIX}, or none"
        )
    if of_sample and not sample:
        raise InputError(
            f"{field} = {name!r}: names that end in {_SAMPLE_SUFFIX} are for the embedded sample, "
            "and this run has a source; use another name"
        )


def config_schema(settings: type[BaseModel], defaults: BaseModel | None = None) -> dict[str, dg.Field]:
    """Return the Dagster schema of a pydantic model.

    Args:
        defaults: an instance whose values are the defaults, instead of those of the class.

    Raises:
        TypeError: a field has a type that the launchpad cannot show.
    """
    fields = {}
    for name, info in settings.model_fields.items():
        required = info.is_required() and defaults is None
        default = (
            getattr(defaults, name)
            if defaults is not None
            else None
            if required
            else info.get_default(call_default_factory=True)
        )
        fields[name] = dg.Field(
            _config_type(info.annotation, f"{settings.__name__}_{name}", default),
            description=_description(info),
            is_required=required,
            **({} if required else {"default_value": _plain(default)}),
        )
    return fields


def job_config(
    settings: type[BaseModel], fields: Mapping[str, dg.Field], ops: Mapping[str, Sequence[str]], label: str
) -> dg.ConfigMapping:
    """Return one flat config for a job; each asset receives the fields that it declares.

    Args:
        fields: the settings, as returned by `config_schema`.
        ops: op name of each asset in the job -> names of the settings it takes.
        label: name of the job, for messages.
    """
    taken = {name for names in ops.values() for name in names}

    @dg.config_mapping(config_schema={name: field for name, field in fields.items() if name in taken})
    def mapping(config: Mapping[str, Any]) -> Mapping[str, Any]:
        parsed = parse(settings, config, f"run config of {label}")
        if "source" in taken:
            try:
                refuse_mixed_data(parsed)
            except InputError as error:
                raise InputError(f"run config of {label}: {error}") from None
        plain = parsed.model_dump(mode="json")
        return {"ops": {op: {"config": {name: plain[name] for name in names}} for op, names in ops.items()}}

    return mapping


def parse(model: type[BaseModel], values: Mapping[str, Any], where: str) -> Any:
    """Validate settings.

    Raises:
        InputError: with each bad field, its value and what is allowed.
    """
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, e['loc']))} = {e['input']!r}: {e['msg']}"
            for e in error.errors(include_url=False)
        )
        raise InputError(f"{where}: {problems}") from None


def _group_defaults(model: type[BaseModel], values: Any, where: str) -> Any:
    if not isinstance(values, Mapping):
        raise InputError(f"{where}: {values!r} is not a mapping of names to values")
    return parse(model, values, where)


def _config_type(annotation: Any, name: str, default: Any = None) -> Any:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal and all(isinstance(value, str) for value in arguments):
        return dg.Enum(name, [dg.EnumValue(value) for value in arguments])
    if origin in (Union, types.UnionType):
        inner = [a for a in arguments if a is not type(None)]
        if len(inner) == 1:
            return dg.Noneable(_config_type(inner[0], name))
    if origin is list:
        return dg.Array(_config_type(arguments[0], name))
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        # Fields that a run config omits keep the instance's defaults.
        given = default if isinstance(default, annotation) else None
        return dg.Shape(config_schema(annotation, defaults=given), description=annotation.__doc__)
    if annotation in (int, float, bool, str):
        return annotation
    raise TypeError(
        f"{name}: a setting of type {annotation} has no form field; use int, float, bool, str, Literal of strings, "
        "Optional of these, a list of these or another settings model"
    )


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value


def _description(info: FieldInfo) -> str:
    """Return the field's description with its bounds, as in "Passes over the data (>= 1, <= 1000)"."""
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
    bounds = [
        f"{sign} {getattr(constraint, attribute)}"
        for constraint in info.metadata
        for attribute, sign in signs.items()
        if getattr(constraint, attribute, None) is not None
    ]
    return (info.description or "") + (f" ({', '.join(bounds)})" if bounds else "")
