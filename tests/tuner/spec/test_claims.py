"""The keys of a claim about methods: what is refused and where, the defaults, and the way through plain values."""

import pytest

from tests.tuner.spec_texts import SPEC, more, spec_of
from tests.tuner.whole_jobs import SPEC as WHOLE_JOB
from tuner.errors import SpecError
from tuner.spec.checks import check
from tuner.spec.search_spec import SearchSpec, fingerprint, from_dict, from_document, to_dict
from tuner.spec.settings import ConfirmSpec
from tuner.spec.strict_yaml import read_text

THREE = SPEC.replace("  - variant: noam\n", "  - noam\n  - adamw\n  - amsgrad\n")
"""The small spec with three variants. A section that is added to it begins on line 15."""
SEARCHES = "searches: 8\n"


def family(*lines: str) -> str:
    """A method job with these families. The first one is on line 17."""
    return SEARCHES + "families:\n" + "".join(f"  {line}\n" for line in lines)


WHOLE = "all: {baseline: adam_l2, arms: [noam, adamw, amsgrad], alpha: 0.05}"

BAD: dict[str, tuple[str, int, str, str]] = {
    # case: (sections, line, key path, part of the message)
    "equal looks": ("searches: {at: [4, 4]}\n", 15, "searches.at[1]", "4 comes after 4; the numbers must increase"),
    "falling looks": ("searches:\n  at: [4, 6, 5]\n", 16, "searches.at[2]", "5 comes after 6"),
    "an early look": ("searches: {at: [2, 4]}\n", 15, "searches.at[0]", "is at 2; it must be at 3 or more"),
    "too few searches": ("searches: 2\n", 15, "searches.at[0]", "it must be at 3 or more"),
    "no look": ("searches: {at: []}\n", 15, "searches.at", "at least 1"),
    "too many searches": ("searches: 1001\n", 15, "searches.at[0]", "is 1001; must be at most 1000"),
    "a bool for searches": ("searches: true\n", 15, "searches", "must be a mapping"),
    "a list for searches": ("searches: [4, 6]\n", 15, "searches", "must be a mapping"),
    "a fraction for a look": ("searches: {at: [4.5]}\n", 15, "searches.at[0]", "whole number"),
    "three confirm seeds": ("searches: {confirm_seeds: 3}\n", 15, "searches.confirm_seeds", "at most 2"),
    "an unknown key of searches": ("searches: {looks: [4]}\n", 15, "searches.looks", "at, confirm_seeds"),
    "an unknown claim": ("claim: methods\n", 15, "claim", "'method' or 'setting'"),
    "seeds of a setting": (SEARCHES + "confirm: {seeds: 5}\n", 16, "confirm.seeds", "is for claim: setting only"),
    "top_k of a setting": ("claim: method\nconfirm: {top_k: 2}\n", 16, "confirm.top_k", "is for claim: setting only"),
    "selection seeds of a setting": (
        SEARCHES + "confirm:\n  margin: 1\n  selection_seeds: 2\n",
        18,
        "confirm.selection_seeds",
        "is for claim: setting only",
    ),
    "a list for confirm": (SEARCHES + "confirm: [1]\n", 16, "confirm", "must be a mapping"),
    "searches of a setting": ("claim: setting\nsearches: 4\n", 16, "searches", "is for claim: method only"),
    "a placebo of a setting": ("claim: setting\nplacebo: true\n", 16, "placebo", "is for claim: method only"),
    "families of a setting": (f"claim: setting\nfamilies:\n  {WHOLE}\n", 16, "families", "is for claim: method only"),
    "no epochs per search": ("  epochs_per_search: 0\n", 15, "budget.epochs_per_search", "at least 1"),
    "a family with an unknown baseline": (
        family("all: {baseline: adam, arms: [noam], alpha: 0.05}"),
        17,
        "families.all.baseline",
        "no arm named 'adam'",
    ),
    "a family with an unknown arm": (
        family("all: {baseline: adam_l2, arms: [noam, adamv], alpha: 0.05}"),
        17,
        "families.all.arms",
        "did you mean 'adamw'?",
    ),
    "a family without arms": (
        family("all: {baseline: adam_l2, arms: [], alpha: 0.05}"),
        17,
        "families.all.arms",
        "at least 1",
    ),
    "an arm in two families": (
        family(
            "one: {baseline: adam_l2, arms: [noam, adamw], alpha: 0.02}",
            "two: {baseline: adamw, arms: [amsgrad, noam], alpha: 0.02}",
        ),
        18,
        "families.two.arms",
        "noam is in the family one too",
    ),
    "an arm in no family": (
        family("all: {baseline: adam_l2, arms: [noam, adamw], alpha: 0.05}"),
        16,
        "families",
        "no family asks about amsgrad",
    ),
    "the baseline against itself": (
        family("all: {baseline: adam_l2, arms: [adam_l2, noam, adamw, amsgrad], alpha: 0.05}"),
        17,
        "families.all.arms",
        "adam_l2 is a baseline; it is not compared with itself",
    ),
    "a family's baseline against itself": (
        family(
            "one: {baseline: adam_l2, arms: [noam, adamw], alpha: 0.02}",
            "two: {baseline: adamw, arms: [amsgrad, adamw], alpha: 0.02}",
        ),
        18,
        "families.two.arms",
        "adamw is a baseline",
    ),
    "no family of the baseline": (
        family(
            "one: {baseline: noam, arms: [adamw], alpha: 0.02}",
            "two: {baseline: adamw, arms: [amsgrad, noam], alpha: 0.02}",
        ),
        16,
        "families",
        "no family is compared with the baseline adam_l2",
    ),
    "one alpha above 5 %": (
        family("all: {baseline: adam_l2, arms: [noam, adamw, amsgrad], alpha: 0.06}"),
        17,
        "families.all.alpha",
        "at most 0.05",
    ),
    "alphas above 5 % together": (
        family(
            "one: {baseline: adam_l2, arms: [noam, adamw], alpha: 0.03}",
            "two: {baseline: adamw, arms: [amsgrad], alpha: 0.03}",
        ),
        16,
        "families",
        "the alphas are more than 0.05 together",
    ),
    "no alpha": (
        family("all: {baseline: adam_l2, arms: [noam, adamw, amsgrad]}"),
        17,
        "families.all.alpha",
        "is missing",
    ),
}


def spec_with(sections: str) -> SearchSpec:
    """The spec with three variants, and what is added."""
    return spec_of(more(sections), text=THREE)


@pytest.mark.parametrize("case", BAD)
def test_a_bad_value_is_refused_in_one_line_with_its_place(case: str) -> None:
    sections, line, key, problem = BAD[case]

    with pytest.raises(SpecError) as caught:
        spec_with(sections)

    message = str(caught.value)
    assert message.startswith(f"job.yaml:{line}: {key}: ")
    assert problem in message
    assert "\n" not in message
    assert len(message) < 400
    assert caught.value.exit_code == 2


def test_an_arm_may_be_called_placebo_unless_there_is_one() -> None:
    called = THREE.replace("- amsgrad", "- {variant: amsgrad, name: placebo}")
    assert spec_of(more(SEARCHES), text=called).arm_count == 4
    with pytest.raises(SpecError, match=r"^job.yaml:16: placebo: an arm has the name placebo; rename the arm$"):
        spec_of(more(SEARCHES + "placebo: true\n"), text=called)


@pytest.mark.parametrize(
    ("sections", "claim", "looks"),
    [
        ("", "setting", ()),
        ("claim: setting\n", "setting", ()),
        ("claim: method\n", "method", (4, 6, 8, 12)),
        ("claim: method\nsearches:\n", "method", (4, 6, 8, 12)),
        ("searches: {}\n", "method", (4, 6, 8, 12)),
        ("searches: {confirm_seeds: 2}\n", "method", (4, 6, 8, 12)),
        ("searches: 8\n", "method", (8,)),
        ("searches: {at: [3, 1000]}\n", "method", (3, 1000)),
    ],
)
def test_the_claim_and_the_looks_follow_from_what_is_given(sections: str, claim: str, looks: tuple[int, ...]) -> None:
    spec = spec_with(sections)
    assert (spec.claim, spec.looks) == (claim, looks)


def test_the_best_setting_of_a_method_is_confirmed_by_fixed_rules() -> None:
    assert spec_with(SEARCHES + "confirm: {margin: 1}\n").confirm == ConfirmSpec(
        top_k=3, selection_seeds=3, seeds=5, margin=1.0
    )
    assert spec_with("").confirm == ConfirmSpec()


def test_a_search_of_a_method_may_have_fewer_trials_than_settings_are_ranked_again() -> None:
    assert spec_of(more(SEARCHES), ("trials: 4", "trials: 2"), text=THREE).confirm.top_k == 3
    with pytest.raises(SpecError, match=r"confirm.top_k: is 3; must be at most budget.trials \(2\)"):
        spec_of(more("confirm: {top_k: 3}\n"), ("trials: 4", "trials: 2"), text=THREE)


FAMILIES = family(
    "annealing: {baseline: adam_l2, arms: [noam, adamw], alpha: 0.03}",
    "optimizer: {baseline: adamw, arms: [amsgrad], alpha: 0.02}",
)


def test_without_families_all_arms_are_asked_about_against_the_baseline() -> None:
    spec = spec_with(SEARCHES)
    [question] = spec.questions
    assert (question.baseline, question.arms, question.alpha) == ("adam_l2", ("noam", "adamw", "amsgrad"), 0.05)


def test_every_arm_has_the_baseline_of_its_family() -> None:
    spec = spec_with(FAMILIES)
    assert [question.alpha for question in spec.questions] == [0.03, 0.02]
    arms = ("adam_l2", "noam", "adamw", "amsgrad", "placebo")
    assert [spec.baseline_of(arm) for arm in arms] == ["adam_l2", "adam_l2", "adam_l2", "adamw", "adam_l2"]


SETTING = """\
  max_hours: 2
seed: 7
metric: {name: val/loss}
sampler: random
scheduler: none
parameters: {lr: {min: 1.0e-4, max: 0.01, scale: log}}
confirm: {top_k: 2, selection_seeds: 3, seeds: 9, margin: 0.2}
tracking: {experiment: e}
"""


@pytest.mark.parametrize(
    "sections",
    [
        "",
        SETTING,
        "  epochs_per_search: 40\n",
        "claim: method\n",
        "  epochs_per_search: 40\nsearches: {at: [5, 8], confirm_seeds: 2}\nplacebo: true\nconfirm: {margin: 1}\n",
        FAMILIES,
    ],
)
def test_a_spec_is_the_same_after_conversion_to_values_and_back(sections: str) -> None:
    spec = spec_with(sections)
    assert from_dict(to_dict(spec)) == spec
    assert fingerprint(from_dict(to_dict(spec))) == fingerprint(spec)


def test_values_have_only_the_keys_that_belong_to_their_claim() -> None:
    new = {"claim", "searches", "placebo", "families"}
    setting, method = to_dict(spec_with("")), to_dict(spec_with(SEARCHES))
    assert method.keys() - setting.keys() == new
    assert set(method["confirm"]) == {"margin"}
    assert set(setting["confirm"]) == {"top_k", "selection_seeds", "seeds", "margin"}
    assert "epochs_per_search" not in setting["budget"]


ASHA_3, NONE_3 = "scheduler: {reduction_factor: 3}\n", "scheduler: {name: none, reduction_factor: 3}"
"""With that version's own default."""


@pytest.mark.parametrize(
    ("spec", "before"),
    [
        (spec_of(more(ASHA_3)), "c34aaaad4f62a2e3a12e447a953c67f00d0d2d6d11d2f7f40768c8a5cc862f3a"),
        (spec_of(text=WHOLE_JOB), "e9c80ef9683b753360b225889ae3d4669d22c15c917ef033d6cc241a7f2fd212"),
        (
            spec_of(more(SETTING), ("scheduler: none", NONE_3)),
            "7d0320c79aa1c503ef34ba1c41e47ba7a9b2afa5f4e25f70ff7a4177259b61db",
        ),
        (
            spec_of(more("claim: setting\n" + ASHA_3)),
            "c34aaaad4f62a2e3a12e447a953c67f00d0d2d6d11d2f7f40768c8a5cc862f3a",
        ),
    ],
)
def test_a_spec_without_searches_has_the_fingerprint_that_it_had_before_there_were_searches(
    spec: SearchSpec, before: str
) -> None:
    # Computed by the last version that knew one claim only. A job of that version resumes under this fingerprint.
    assert fingerprint(spec) == before


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("", SEARCHES),
        (SEARCHES, "searches: {at: [8], confirm_seeds: 2}\n"),
        (SEARCHES, SEARCHES + "placebo: true\n"),
        ("", "  epochs_per_search: 9\n"),
        (FAMILIES, FAMILIES.replace("0.02", "0.01")),
    ],
)
def test_what_decides_the_verdict_is_in_the_fingerprint(one: str, other: str) -> None:
    assert fingerprint(spec_with(one)) != fingerprint(spec_with(other))


@pytest.mark.parametrize(("margin", "refused"), [("0.27", True), ("0.28", False), ("0", False)])
def test_a_margin_below_one_test_image_is_refused(margin: str, refused: bool) -> None:
    """The digits have 359 test images, so one is 0.2786 points."""
    spec = spec_of(more(f"searches: 4\nconfirm: {{margin: {margin}}}\n"))
    if not refused:
        check(spec)
        return
    with pytest.raises(SpecError, match=r"confirm.margin: is 0.27, but one of the 359 test images is 0.28 points"):
        check(spec)


@pytest.mark.parametrize("confirm", ["", "confirm: {margin: 1}\n", "confirm: {}\n", "placebo: true\n"])
def test_a_spec_that_says_nothing_of_its_claim_is_about_methods(confirm: str) -> None:
    spec = written(confirm)
    assert (spec.claim, spec.looks) == ("method", (4, 6, 8, 12))
    assert check(spec).warnings == ()


@pytest.mark.parametrize("key", ["seeds: 5", "top_k: 2", "selection_seeds: 3"])
def test_a_key_of_one_setting_makes_a_claim_about_settings_and_is_told(key: str) -> None:
    spec = written(f"confirm: {{{key}}}\n")
    assert (spec.claim, spec.looks, spec.searches) == ("setting", (), None)
    [told] = check(spec).warnings
    assert told.startswith(f"job.yaml:13: confirm.{key.split(':')[0]}: makes the claim about one setting of each arm")
    wanted = written(f"confirm: {{{key}}}\nclaim: setting\n")
    assert check(wanted).warnings == ()
    assert fingerprint(wanted) == fingerprint(spec)


def written(sections: str) -> SearchSpec:
    """The small spec with these sections, and nothing else about its claim."""
    return from_document(read_text(SPEC + sections, "job.yaml"))
