# SPDX-License-Identifier: Apache-2.0
"""The shapes of the models of a fleet: from the config.json that was given, else by their published names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Dict, List, Optional, Tuple

from ansible_collections.trainyard.neuron.plugins.module_utils.plan.problems import Problem
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.deployment import Deployment, ModelRef
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.fit import ConfigError, ModelShape
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.known_models import known_config
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.traps import telling_word
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.variables import Host

#: What a file may hold that is no configuration, in words.
_KINDS: Mapping[type, str] = {list: "a list", str: "text", type(None): "null", bool: "true or false"}


class ModelShapes:
    """What is known of the models' sizes; each is read once.

    Args:
        model_configs: repo@revision -> the checkpoint's config.json.
        files: path on the controller -> what is in that file.
    """

    def __init__(self, model_configs: Mapping[str, Any], files: Mapping[str, str]) -> None:
        self._model_configs = model_configs
        self._files = files
        self._shapes: Dict[ModelRef, Optional[ModelShape]] = {}
        self._unread: Dict[ModelRef, str] = {}
        self._with_configs: Dict[int, Tuple[Deployment, Deployment]] = {}

    def draft(self, deployment: Deployment) -> Optional[ModelShape]:
        """Return the shape of the model that guesses ahead, None where there is none or nobody knows it."""
        return None if deployment.speculation is None else self.shape(deployment.speculation.model)

    def shape(self, model: ModelRef) -> Optional[ModelShape]:
        """Return a model's shape, from its config.json where it was given, else by its published name."""
        if model not in self._shapes:
            given = self._model_configs.get(_model_key(model), known_config(model.repo))
            try:
                self._shapes[model] = None if given is None else ModelShape.from_config(given)
            except ConfigError as error:
                # The engine may know more architectures than this: what cannot be told is not refused.
                self._shapes[model], self._unread[model] = None, str(error)
        return self._shapes[model]

    def config_problems(self, deployment: Deployment, where: str) -> List[Problem]:
        """Return the files of a deployment that are not at hand, or no configuration at all."""
        found = []
        template = deployment.tools.chat_template if deployment.tools is not None else None
        if template and deployment.template is None:
            rule, fix = "is a file of the controller that nobody read", "plan from the inventory that names it"
            found.append(Problem("", where + ".tools.chat_template", template, rule, fix))
        models = [(deployment.model, "model")]
        models += [(deployment.speculation.model, "speculation.model")] if deployment.speculation is not None else []
        for model, part in models:
            given = self._model_configs.get(_model_key(model), {})
            if not isinstance(given, Mapping):
                file = "%s/%s/config.json" % (model.repo, model.revision)
                rule = "its config.json is no mapping but %s, which no engine reads" % _KINDS.get(
                    type(given), "a number"
                )
                fix = "fetch %s anew" % file
                found.append(Problem("", "%s.%s.repo" % (where, part), model.repo, rule, fix))
        return found

    def unknown_size(self, model: ModelRef, where: str) -> Problem:
        """Return that nothing is said of a model's memory, and what would change that."""
        rule = "has no size that is known here, so nothing is said of memory, heads and length"
        if model in self._unread:
            return Problem("", where + ".model.repo", model.repo, rule, "read config.json: %s" % self._unread[model])
        told = telling_word(model.repo)
        if told:
            rule += " (%s in its name speaks against a plain model)" % told
        fix = "give %s/%s/config.json below --model-configs DIR, or fetch it by trainyard plan --hub %s" % (
            model.repo,
            model.revision,
            "https://huggingface.co",
        )
        return Problem("", where + ".model.repo", model.repo, rule + ", and quantized weights are not seen", fix)

    def with_config(self, host: Host) -> Host:
        """Return a host with the files of its deployments in them, equal deployments still one object."""
        if not self._model_configs and not self._files:
            return host
        return replace(host, deployments=tuple(self._configured(item) for item in host.deployments))

    def _configured(self, deployment: Deployment) -> Deployment:
        config = self._model_configs.get(_model_key(deployment.model))
        given = config if isinstance(config, Mapping) else None
        template = self._files.get(deployment.tools.chat_template or "") if deployment.tools is not None else None
        if given is None and template is None:
            return deployment
        key = id(deployment)
        if key not in self._with_configs:
            self._with_configs[key] = (deployment, replace(deployment, model_config=given, template=template))
        return self._with_configs[key][1]


def _model_key(model: ModelRef) -> str:
    return "%s@%s" % (model.repo, model.revision)
