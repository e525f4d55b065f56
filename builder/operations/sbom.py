"""A bill of materials of a build in CycloneDX JSON.

The only owner of cyclonedx. The packages are those that the interpreter in the sandbox listed when
the build was verified, not those that the spec names.
"""

from __future__ import annotations

import datetime as dt
import json
import uuid

from builder import __version__
from builder.errors import UnknownBuildError
from builder.lock.direct import name_of
from builder.record.fields import required_by
from builder.registry import Record
from builder.registry.model import Build
from builder.spec.addresses import address_of, hashed_address
from builder.system.extras import needs

with needs("sbom"):
    from cyclonedx.model import HashAlgorithm, HashType, Property
    from cyclonedx.model.bom import Bom
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.output import make_outputter
    from cyclonedx.schema import OutputFormat, SchemaVersion
    from packageurl import PackageURL


def bill_of_materials(record: Record) -> str:
    """Return CycloneDX 1.6 in JSON; the same bytes for the same record.

    Raise `UnknownBuildError` for an adopted template, whose packages are unknown.
    """
    if "packages" not in record.fields:
        raise UnknownBuildError(
            f"the packages of `{record.ref}` are unknown: it was {record.origin}, not verified",
            hint=f"`template-builder build {record.name} --target {record.target}` makes a build"
            " whose packages are recorded",
        )
    # CycloneDX and package URLs cannot hold half a surrogate pair.
    text = json.dumps(dict(record.fields), ensure_ascii=False).encode("utf-8", "replace")
    build = Build.from_json(json.loads(text))
    bom = Bom(serial_number=uuid.uuid5(uuid.NAMESPACE_URL, f"{record.ref} {build.built_at}"))
    bom.metadata.timestamp = _moment(build.built_at or "")
    bom.metadata.tools.components.add(Component(name="template-builder", version=__version__))
    template = Component(
        name=record.name,
        version=record.build_id or record.ref,
        type=ComponentType.CONTAINER,
        bom_ref=record.ref,
        properties=[
            Property(name=f"template-builder:{key}", value=str(value))
            for key, value in _facts(record, build).items()
        ],
    )
    bom.metadata.component = template
    parts, sources = [_base(build.base_image or "")], _sources(build)
    for scope, packages in ((_LOCK, build.packages), (_BASE, build.other_packages)):
        parts += [
            Component(
                name=name,
                version=version,
                type=ComponentType.LIBRARY,
                bom_ref=f"pypi:{name}@{version}",
                purl=PackageURL("pypi", name=name, version=version, qualifiers=sources.get(name)),
                properties=[Property(name="template-builder:from", value=scope)],
            )
            for name, version in sorted(packages.items())
        ]
    bom.components.update(parts)
    bom.register_dependency(template, parts)
    outputter = make_outputter(bom, OutputFormat.JSON, SchemaVersion.V1_6)
    return outputter.output_as_string(indent=2)


_LOCK, _BASE = "lock", "base image or code service"


def _sources(build: Build) -> dict[str, dict[str, str]]:
    """Return where packages come from that a spec names by address, as package URLs say it."""
    spec = build.inputs.get("spec", {})
    sources = {}
    for stem in spec.get("extends", "").split(" → "):
        for requirement in required_by(spec, stem):
            if address := address_of(requirement):
                url, sha256 = hashed_address(address) or (address, None)
                if sha256:
                    source = {"download_url": url, "checksum": f"sha256:{sha256}"}
                elif url.startswith("git+"):
                    source = {"vcs_url": url}
                else:
                    source = {"file_name": url.rpartition("/")[2]}
                sources[name_of(requirement)] = source
    return sources


def _facts(record: Record, build: Build) -> dict[str, object]:
    provenance = build.provenance.to_json() if build.provenance else {}
    facts = {"target": record.target, "ref": record.ref, "digest": record.digest, **provenance}
    return {key: value for key, value in facts.items() if value is not None}


def _base(image: str) -> Component:
    reference, _, digest = image.partition("@")
    head, colon, tag = reference.rpartition(":")
    name, version = (head, tag) if colon and "/" not in tag else (reference, "")
    return Component(
        name=name or "unknown base image",
        version=version or None,
        type=ComponentType.CONTAINER,
        bom_ref=f"base:{image}",
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=digest.removeprefix("sha256:"))]
        if digest.startswith("sha256:")
        else None,
    )


def _moment(text: str) -> dt.datetime:
    try:
        return dt.datetime.fromisoformat(text)
    except ValueError:
        return dt.datetime.fromtimestamp(0, dt.UTC)
