"""The JSON Schema of a spec, for editors. It is generated from the models and allows the shorthands of ``load``."""

from typing import Any

from trainables.catalog import DATASETS, MODELS
from trainables.hyper import KNOBS
from trainables.variants import VARIANTS
from tuner.spec.experiment import DOTTED_PATTERN, METRICS
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
    arm["variant"]["enum"] = list(VARIANTS)
    arm["name"].pop("default")
    for knobs in (arm["parameters"], arm["fixed"], top["parameters"]):
        knobs["propertyNames"] = {"enum": list(KNOBS)}
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
