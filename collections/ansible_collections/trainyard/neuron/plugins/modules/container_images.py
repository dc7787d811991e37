#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Container images of a host, by their digests."""

from __future__ import annotations

DOCUMENTATION = r"""
module: container_images
short_description: Have container images on a host, by their digests
version_added: "0.1.0"
author:
  - trainyard contributors (@trainyard)
description:
  - Pulls the images that are missing. The engine checks every byte against the digest, so an image that is there is the
    one that was named.
  - A reference without a digest is never pulled, since its tag may mean different images on different days.
options:
  engine:
    description: The engine's program.
    type: str
    choices: [podman, docker]
    default: podman
  images:
    description: References, each C(registry/name@sha256:...), or C(name:tag) for an image that is on the host already.
    type: list
    elements: str
    required: true
  state:
    description: V(absent) removes them.
    type: str
    choices: [present, absent]
    default: present
extends_documentation_fragment: [trainyard.neuron.fence]
attributes:
  check_mode:
    description: Says what would be pulled or removed.
    support: full
  diff_mode:
    description: The images before and after.
    support: full
"""

EXAMPLES = r"""
- name: The serving image is here
  trainyard.neuron.container_images:
    images:
      - registry.example/neuron/vllm@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef
"""

RETURN = r"""
pulled:
  description: What was pulled, or would be.
  returned: success
  type: list
removed:
  description: What was removed, or would be.
  returned: success
  type: list
"""

import shutil
from typing import Any, Callable, Dict, List, Tuple

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.trainyard.neuron.plugins.module_utils.roll import fence

Run = Callable[[List[str]], Tuple[int, str, str]]

ARGUMENT_SPEC: Dict[str, Dict[str, Any]] = {
    "engine": {"type": "str", "choices": ["podman", "docker"], "default": "podman"},
    "images": {"type": "list", "elements": "str", "required": True},
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "fence": fence.FENCE_OPTION,
}


class ImageError(Exception):
    """An image that cannot be had; says what to do."""


def present(run: Run, engine: str, images: List[str]) -> List[str]:
    """Return those of the images that are on the host."""
    return [image for image in images if run([engine, "image", "inspect", "--format", "{{.Id}}", image])[0] == 0]


def pull(run: Run, engine: str, image: str) -> None:
    """Pull one image.

    Raises:
        ImageError: the engine could not; with its last words.
    """
    status, output, errors = run([engine, "pull", "--quiet", image])
    if status != 0:
        said = ((errors or output).strip().splitlines() or ["it said nothing"])[-1]
        raise ImageError(
            "%s could not pull %s: %s. Log in to its registry on the host (%s login), or correct trainyard_images"
            % (engine, image, said, engine)
        )


def check_names(images: List[str]) -> None:
    """Refuse to pull what is named by a tag.

    Raises:
        ImageError: an image has no digest.
    """
    loose = [image for image in images if "@sha256:" not in image]
    if loose:
        raise ImageError(
            "%s is not on this host and has no digest to pull it by: set trainyard_images['%s'] to its "
            "registry/name@sha256:..., or let the host ask trainyard_image_registry" % (loose[0], _named(loose[0]))
        )


def _named(image: str) -> str:
    """Return an image as the SDK table names it: without a registry."""
    first, slash, rest = image.partition("/")
    return rest if slash and ("." in first or ":" in first) else image


def main() -> None:
    """Entry point of the module."""
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    fence.prove(module)
    engine, images = module.params["engine"], sorted(set(module.params["images"]))

    def run(argv: List[str]) -> Tuple[int, str, str]:
        status, output, errors = module.run_command(argv)
        return int(status), str(output), str(errors)

    if not shutil.which(engine):
        # In check mode the engine's package has not been installed; without it there is nothing to remove either.
        if module.params["state"] == "present" and not module.check_mode:
            module.fail_json(msg="%s is not installed" % engine)
        here: List[str] = []
    else:
        here = present(run, engine, images)
    wanted = images if module.params["state"] == "present" else []
    pulled, removed = [image for image in wanted if image not in here], [image for image in here if image not in wanted]
    try:
        check_names(pulled)
        if not module.check_mode:
            for image in pulled:
                pull(run, engine, image)
            for image in removed:
                module.run_command([engine, "image", "rm", image], check_rc=True)
    except ImageError as error:
        module.fail_json(msg=str(error))
    after = sorted({*here, *pulled} - {*removed})
    diff = {"before": "".join(i + "\n" for i in here), "after": "".join(i + "\n" for i in after)}
    module.exit_json(changed=bool(pulled or removed), pulled=pulled, removed=removed, diff=diff)


if __name__ == "__main__":
    main()
