"""The JSON Schema of a spec, for editors. It is generated from the models and allows the shorthands of ``load``."""

import re
from typing import Any

from trainables.catalog import DATASETS, MODELS
from trainables.hyper import KNOBS
from trainables.variants import VARIANTS
from tuner.spec.experiment import DOTTED_PATTERN, METRICS
from tuner.spec.ranges import KNOB_NAME, MODEL_KNOB, TRAINER_KNOBS
from tuner.spec.search_spec import SearchSpec

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def json_schema() -> dict[str, Any]:
    """The schema, in draft 2020-12. It cannot express how keys depend on each other; only ``load`` checks that."""
    schema = SearchSpec.model_json_schema(mode="validation")
    sections, top = schema["$defs"], schema["properties"]
    for section, table in (("DataSpec", DATASETS), ("ModelSpec", MODELS)):
        name = sections[section]["properties"]["name"]
        name["anyOf"] = [{"enum": list(table)}, {"pattern": DOTTED_PATTERN}]
    sections["MetricSpec"]["properties"]["name"]["enum"] = list(METRICS)
    arm = sections["ArmSpec"]["properties"]
    arm["variant"] = {"enum": list(VARIANTS), "description": arm["variant"]["description"]}
    for key in ("optimizer", "trainable", "groups"):
        arm[key] = {"type": "string", "pattern": DOTTED_PATTERN, "description": arm[key]["description"]}
    arm["name"].pop("default")
    top["parameters"]["propertyNames"] = {"enum": list(KNOBS)}
    for knobs in (arm["parameters"], arm["fixed"]):
        knobs["propertyNames"] = {"pattern": KNOB_NAME}
    known = {"anyOf": [{"enum": [*KNOBS, *TRAINER_KNOBS]}, {"pattern": rf"^{re.escape(MODEL_KNOB)}"}]}
    of_variant = {key: {"propertyNames": known} for key in ("parameters", "fixed")}
    sections["ArmSpec"] |= {"if": {"required": ["variant"]}, "then": {"properties": of_variant}}
    for key in ("data", "model"):
        top[key].pop("default", None)
    range_ = sections["Range"]["properties"]
    one = {"type": ["boolean", "number", "string"]}
    range_["when"] = {
        "type": ["object", "null"],
        "minProperties": 1,
        "additionalProperties": {"anyOf": [one, {"type": "array", "items": one, "minItems": 1}]},
        "description": range_["when"]["description"],
    }
    range_["step"] = {
        "type": ["number", "null"],
        "exclusiveMinimum": 0,
        "default": None,
        "description": range_["step"]["description"],
    }
    sections["Range"]["oneOf"] = [
        {"required": ["min", "max"], "properties": {"values": {"type": "null"}}},
        {"required": ["values"], "properties": {"values": {"type": "array", "minItems": 2}}},
    ]
    top["arms"]["items"] = {"anyOf": [{"enum": list(VARIANTS)}, top["arms"]["items"]]}
    for key, section in (("sampler", "SamplerSpec"), ("scheduler", "SchedulerSpec")):
        names = sections[section]["properties"]["name"]["enum"]
        either = [{"enum": names}, {"$ref": f"#/$defs/{section}"}]
        top[key] = {"anyOf": either, "default": names[0], "description": top[key]["description"]}
    own = {"anyOf": [{"const": "auto"}, {"$ref": "#/$defs/ResourcesSpec"}]}
    top["resources"] = own | {"description": top["resources"]["description"]}
    return {"$schema": DIALECT, **schema, "title": "tuner search spec"}
