"""A wheel's bill of materials: CycloneDX 1.6 of its metadata, with the versions that the constraints pin.

A component is what the wheel asks for, not what an installation would resolve to: a version and its purl stand there where
`constraints.txt` pins one, the range always. What only an extra asks for is optional and says which. The same wheel and
constraints give the same bytes.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import uuid
from collections.abc import Iterable
from dataclasses import dataclass

from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentScope, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tooling.release.faults import NotTheReleaseError

REQUIRED, EXTRA = "grail:required", "grail:extra"


@dataclass(frozen=True)
class Described:
    """What a bill is made of. `requires` are the wheel's `Requires-Dist`; `pins` versions by canonical name."""

    name: str
    version: str
    license: str
    wheel: str
    wheel_bytes: bytes
    requires: tuple[str, ...]
    pins: dict[str, str]
    epoch: int


def pins_of(constraints: str) -> dict[str, str]:
    """Versions by canonical name of the lines `name==version`."""
    pins: dict[str, str] = {}
    for line in constraints.splitlines():
        text = line.split("#", 1)[0].strip()
        if "==" in text:
            name, version = text.split("==", 1)
            pins[canonicalize_name(name)] = version.strip()
    return pins


def make_bill(of: Described) -> bytes:
    """The bill as JSON, valid by the schema of its format.

    Raises:
        NotTheReleaseError: it is not; a requirement has a form that the format does not take.
    """
    digest = hashlib.sha256(of.wheel_bytes).hexdigest()
    subject = Component(
        name=of.name,
        version=of.version,
        type=ComponentType.LIBRARY,
        bom_ref=_purl(of.name, of.version).to_string(),
        purl=_purl(of.name, of.version),
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=digest)],
        properties=[Property(name="grail:wheel", value=of.wheel), Property(name="grail:license", value=of.license)],
    )
    components = [_component(name, asked, of.pins.get(name)) for name, asked in _by_name(of.requires)]
    bom = Bom(components=components, serial_number=uuid.uuid5(uuid.NAMESPACE_URL, f"sha256:{digest}"))
    bom.metadata.component = subject
    bom.metadata.timestamp = datetime.datetime.fromtimestamp(of.epoch, datetime.UTC)
    bom.register_dependency(subject, components)
    text = JsonV1Dot6(bom).output_as_string(indent=2)
    check_bill(text.encode(), of.wheel)
    return (json.dumps(json.loads(text), indent=2, sort_keys=True) + "\n").encode()


def check_bill(data: bytes, where: str) -> None:
    """Raises NotTheReleaseError where it is no bill by the schema of CycloneDX 1.6."""
    try:
        wrong = JsonStrictValidator(SchemaVersion.V1_6).validate_str(data.decode())
    except (ValueError, RecursionError) as error:
        raise NotTheReleaseError(f"the bill of materials is no JSON: {str(error)[:200]}", where=where) from error
    if wrong is not None:
        raise NotTheReleaseError(f"the bill of materials is not CycloneDX 1.6: {str(wrong)[:500]}", where=where)


def _by_name(requires: Iterable[str]) -> list[tuple[str, list[Requirement]]]:
    asked: dict[str, list[Requirement]] = {}
    for text in requires:
        requirement = Requirement(text)
        asked.setdefault(canonicalize_name(requirement.name), []).append(requirement)
    return sorted(asked.items())


def _component(name: str, asked: list[Requirement], version: str | None) -> Component:
    extras = sorted({text for one in asked if one.marker for text in _extras(str(one.marker))})
    properties = [Property(name=REQUIRED, value=str(one)) for one in asked]
    properties += [Property(name=EXTRA, value=extra) for extra in extras]
    always = any(one.marker is None for one in asked)
    purl = _purl(name, version)
    return Component(
        name=name,
        version=version,
        type=ComponentType.LIBRARY,
        bom_ref=purl.to_string(),
        purl=purl,
        scope=ComponentScope.REQUIRED if always else ComponentScope.OPTIONAL,
        properties=properties,
    )


def _extras(marker: str) -> list[str]:
    words = marker.replace('"', "'").split("'")
    return [words[index] for index in range(1, len(words), 2) if words[index - 1].rstrip().endswith("extra ==")]


def _purl(name: str, version: str | None) -> PackageURL:
    return PackageURL(type="pypi", name=name, version=version)
