"""Reads type and properties of an artifact from ML Metadata of KFP 2.16. For `make kfp-test`.

Messages: the fields that are read here, of google/ml-metadata, metadata_store.proto and metadata_store_service.proto.
"""

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

SERVICE = "ml_metadata.MetadataStoreService"
_STRING, _INT64, _DOUBLE, _MESSAGE = 9, 3, 1, 11
_OPTIONAL, _REPEATED = 1, 3


@dataclass(frozen=True)
class Known:
    """One artifact in ML Metadata: `type` is its schema title, `properties` are those that the step wrote."""

    type: str
    properties: dict[str, Any]


class Metadata:
    """A client of the gRPC service; `address` is host:port, without TLS as KFP installs it."""

    def __init__(self, address: str) -> None:
        self.messages = messages()
        self.request: Any = grpc.insecure_channel(address).unary_unary(
            f"/{SERVICE}/GetArtifactsByURI",
            request_serializer=self.messages["GetArtifactsByURIRequest"].SerializeToString,
            response_deserializer=self.messages["GetArtifactsByURIResponse"].FromString,
        )

    def of(self, uri: str) -> list[Known]:
        """Return the artifacts at this URI."""
        response: Any = self.request(self.messages["GetArtifactsByURIRequest"](uris=[uri]), timeout=60)
        return [
            Known(
                found.type,
                {
                    name: getattr(value, value.WhichOneof("value") or "string_value")
                    for name, value in (*found.properties.items(), *found.custom_properties.items())
                },
            )
            for found in response.artifacts
        ]


@contextmanager
def forwarded(namespace: str) -> Iterator[str]:
    """Forward a local port to the service in the namespace with kubectl, and yield its address."""
    command = ["kubectl", "-n", namespace, "port-forward", "service/metadata-grpc-service", ":8080"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            found = re.search(r"127\.0\.0\.1:\d+", process.stdout.readline())
            if not found:
                raise AssertionError(f"{' '.join(command)} printed no address")
            yield found[0]
        finally:
            process.terminate()


def messages() -> dict[str, Any]:
    """Return the message classes by name; numbers and types of fields are those of the published files."""
    file = descriptor_pb2.FileDescriptorProto(
        name="kfp_metadata.proto", package="ml_metadata", syntax="proto2"
    )
    value = file.message_type.add(name="Value")
    value.oneof_decl.add(name="value")
    for number, (name, kind) in enumerate(
        [("int_value", _INT64), ("double_value", _DOUBLE), ("string_value", _STRING)], start=1
    ):
        value.field.add(name=name, number=number, type=kind, label=_OPTIONAL, oneof_index=0)
    artifact = file.message_type.add(name="Artifact")
    for name, number in (("uri", 3), ("type", 8)):
        artifact.field.add(name=name, number=number, type=_STRING, label=_OPTIONAL)
    for name, number, entry in (
        ("properties", 4, "Properties"),
        ("custom_properties", 5, "CustomProperties"),
    ):
        nested = artifact.nested_type.add(name=f"{entry}Entry")
        nested.options.map_entry = True
        nested.field.add(name="key", number=1, type=_STRING, label=_OPTIONAL)
        nested.field.add(
            name="value", number=2, type=_MESSAGE, label=_OPTIONAL, type_name=".ml_metadata.Value"
        )
        artifact.field.add(
            name=name,
            number=number,
            type=_MESSAGE,
            label=_REPEATED,
            type_name=f".ml_metadata.Artifact.{entry}Entry",
        )
    request = file.message_type.add(name="GetArtifactsByURIRequest")
    request.field.add(name="uris", number=2, type=_STRING, label=_REPEATED)
    response = file.message_type.add(name="GetArtifactsByURIResponse")
    response.field.add(
        name="artifacts", number=1, type=_MESSAGE, label=_REPEATED, type_name=".ml_metadata.Artifact"
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    classes = message_factory.GetMessageClassesForFiles([file.name], pool)
    return {name.rpartition(".")[2]: message for name, message in classes.items()}
