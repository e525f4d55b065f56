"""Base images that E2B cannot provision, by what their /etc/os-release says."""

from __future__ import annotations

import re

# The name of an image, and the ID in its /etc/os-release. None has an ID_LIKE of a family that E2B
# provisions, except for those that E2B rejects by their ID.
_UNSUPPORTED = {
    r"(.+/)?oraclelinux": "ol",
    r"(.+/)?amazonlinux": "amzn",
    r"(.+/)?ubi\d+(-\w+)?(/[\w-]+)?": "rhel",
    r"(.+/)?opensuse/leap": "opensuse-leap",
    r"(.+/)?opensuse/tumbleweed": "opensuse-tumbleweed",
    r"(.+/)?gentoo/stage3": "gentoo",
    r"(.+/)?photon": "photon",
    r"(.+/)?hello-world": "unknown (image has no /etc/os-release)",
}
_REJECTED = ("amzn", "ol", "rhel")
_SUPPORTED = "debian, ubuntu, fedora, centos, rocky, almalinux, arch, archarm, alpine, nixos"  # in this order


def refusal(image: str) -> list[str]:
    """Return what E2B prints when it cannot provision an image, or nothing."""
    name = re.sub(r"(:[^/]*)?(@.*)?$", "", image)
    release_id = next(
        (os_id for form, os_id in _UNSUPPORTED.items() if re.fullmatch(form, name)), None
    )
    if release_id is None:
        return []
    begun = [
        "Starting provisioning script",
        "Making configuration immutable",
        "Detecting base image distribution",
    ]
    if release_id in _REJECTED:
        return [
            *begun,
            f"[provision] ERROR: base image distribution ID='{release_id}' is not supported.",
            "[provision] Sandboxes boot E2B's kernel, so the kABI, signed modules and SELinux these"
            " images are chosen for are unavailable.",
        ]
    return [
        *begun,
        f"[provision] ERROR: unsupported base image distribution: ID='{release_id}'.",
        f"[provision] E2B template builds support: {_SUPPORTED}.",
    ]
