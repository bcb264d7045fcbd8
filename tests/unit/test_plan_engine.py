"""The plan's decisions, one by one."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_platform.errors import BrakeStopped
from mlflow_platform.plan.brakes import Brakes, Share, check, exceeding
from mlflow_platform.plan.engine import Plan, dotted, make_plan, mark_for
from mlflow_platform.plan.objects import Action, Desired, Key, Mark, Observed, Traits, short

TRAITS = {
    "Experiment": Traits(
        rank=20,
        immutable=(("artifactLocation",),),
        initial=(("seed",),),
        optional=(("description",), ("tags", "*")),
        replaceable=True,
        remedy={("artifactLocation",): "restore the old location"},
    ),
    "MLflowUser": Traits(rank=10, write_only=(("password",),)),
    "MLflowRole": Traits(rank=40, exclusive=(("permissions", "*", "*"),)),
}
ME, OTHER = "project:mine", "project:theirs"


def want(name: str, kind: str = "Experiment", **values: object) -> Desired:
    fields = {tuple(k.split("__")): v for k, v in values.items()}
    return Desired(Key(kind, "default", name), f"{kind}/default/{name}", fields)  # type: ignore[arg-type]


def have(desired: Desired, owner: str | None = ME, **more: object) -> Observed:
    mark = replace(mark_for(desired, owner, TRAITS[desired.key.kind])) if owner else None
    fields = {**desired.fields, **{tuple(k.split("__")): v for k, v in more.items()}}
    return Observed(desired.key, fields, mark, handle={"id": "7"})  # type: ignore[arg-type]


def plan(desired: list[Desired], observed: list[Observed], **options: object) -> Plan:
    return make_plan(desired, observed, owner=ME, traits=TRAITS, **options)  # type: ignore[arg-type]


def test_what_is_missing_is_created_with_its_mark() -> None:
    a = want("a", tags__team="x")
    (change,) = plan([a], []).changes
    assert (change.action, change.new("tags", "team")) == (Action.CREATE, "x")
    assert change.mark == Mark(ME, "Experiment/default/a", "Retain", frozenset({short(("tags", "team"))}))


def test_what_equals_its_document_is_left_alone() -> None:
    a = want("a", tags__team="x")
    result = plan([a], [have(a, tags__other="by hand")])
    assert (result.changes, result.unchanged, result.owned) == ((), 1, 1)


def test_drift_is_corrected_field_by_field() -> None:
    a = want("a", tags__team="x", description="d")
    (change,) = plan([a], [have(a, tags__team="edited")]).changes
    assert change.action is Action.UPDATE
    assert [(f.path, f.old, f.new) for f in change.fields] == [(("tags", "team"), "edited", "x")]


def test_a_tag_that_left_the_document_leaves_the_server_but_a_tag_by_hand_stays() -> None:
    before, after = want("a", tags__team="x"), want("a")
    (change,) = plan([after], [have(before, tags__hand="1")]).changes
    assert [(f.path, f.new) for f in change.fields] == [(("tags", "team"), None)]


def test_exclusive_fields_that_are_not_declared_are_removed() -> None:
    role = want("r", "MLflowRole", permissions__experiment__a="READ")
    (change,) = plan([role], [have(role, permissions__experiment__b="MANAGE")]).changes
    assert [(f.path[2], f.old, f.new) for f in change.fields] == [("b", "MANAGE", None)]


def test_initial_fields_are_set_once_and_then_left_alone() -> None:
    a = want("a", seed="1")
    assert plan([a], [have(a, seed="2")]).empty
    missing = replace(have(a), fields={})
    assert [f.path for f in plan([a], [missing]).changes[0].fields] == [("seed",)]


def test_true_is_not_one() -> None:
    a = want("a", tags__flag=True)
    assert not plan([a], [have(a, tags__flag=1)]).empty


def test_an_immutable_difference_is_a_problem_with_a_remedy() -> None:
    a = want("a", artifactLocation="s3://new")
    result = plan([a], [have(a, artifactLocation="s3://old")])
    assert result.empty
    assert "artifactLocation cannot be changed once set" in result.problems[0].problem.what
    assert result.problems[0].problem.remedy.startswith("restore the old location")


def test_an_immutable_difference_is_replaced_when_the_document_says_so() -> None:
    a = replace(want("a", artifactLocation="s3://new", description="d"), allow_replace=True)
    (change,) = plan([a], [have(a, artifactLocation="s3://old")]).changes
    assert change.action is Action.REPLACE
    assert change.new("description") == "d"  # the new object is made whole


def test_an_immutable_field_that_was_never_set_is_set() -> None:
    a = want("a", artifactLocation="s3://new")
    observed = replace(have(a), fields={})
    assert plan([a], [observed]).changes[0].action is Action.UPDATE


def test_unowned_and_equal_needs_nothing() -> None:
    a = want("a", tags__team="x")
    assert plan([a], [have(a, owner=None)]).empty
    (adopted,) = plan([a], [have(a, owner=None)], adopt_all=True).changes
    assert (adopted.action, adopted.fields) == (Action.ADOPT, ())


def test_unowned_and_equal_is_adopted_where_deletion_depends_on_it() -> None:
    a = replace(want("a"), deletion="Delete")
    (change,) = plan([a], [have(a, owner=None)]).changes
    assert change.action is Action.ADOPT


def test_unowned_and_different_is_adopted_and_corrected() -> None:
    a = want("a", tags__team="x")
    (change,) = plan([a], [have(a, owner=None, tags__team="y")]).changes
    assert (change.action, change.new("tags", "team"), change.mark is not None) == (Action.ADOPT, "x", True)


@pytest.mark.parametrize("absent", [False, True])
def test_two_owners_are_a_problem_that_names_both(absent: bool) -> None:
    a = want("a")
    theirs = replace(have(a, owner=OTHER), absent=absent)
    (problem,) = plan([a], [theirs]).problems
    assert OTHER in problem.problem.what
    assert ME in problem.problem.what
    assert f"--adopt-from {OTHER}" in problem.problem.remedy


def test_handing_over_is_explicit() -> None:
    a = want("a")
    (change,) = plan([a], [have(a, owner=OTHER)], adopt_from=frozenset({OTHER})).changes
    assert (change.action, change.reason) == (Action.ADOPT, f"taken over from {OTHER}")


def test_what_another_owner_declared_and_this_one_does_not_is_left_alone() -> None:
    theirs = have(want("a", tags__team="x", description="theirs"), OTHER)
    assert plan([replace(want("a", tags__team="x"), observe_only=True)], [theirs]).held == ()
    (change,) = plan([want("a", tags__team="x")], [theirs], adopt_from=frozenset({OTHER})).changes
    assert (change.action, change.fields) == (Action.ADOPT, ())


def test_every_missing_reference_is_named_with_the_nearest_name() -> None:
    wrong = frozenset({Key("Experiment", "default", "chrun"), Key("Experiment", "default", "zzz")})
    role = replace(want("r", "MLflowRole"), requires=wrong)
    (problem,) = plan([role, want("churn")], []).problems
    assert "Experiment 'chrun', Experiment 'zzz'" in problem.problem.what
    assert problem.problem.remedy == "did you mean: chrun -> churn?"
    assert problem.names == ("chrun", "zzz")


def test_observe_only_is_reported_and_never_changed() -> None:
    a = replace(want("a", tags__team="x"), observe_only=True)
    result = plan([a], [have(a, owner=OTHER, tags__team="y")])
    assert result.empty
    assert len(result.held) == 1


@pytest.mark.parametrize(("deletion", "action"), [("Retain", Action.FORGET), ("Delete", Action.DELETE)])
def test_what_lost_its_document_is_given_up_as_its_mark_says(deletion: str, action: Action) -> None:
    gone = have(replace(want("gone"), deletion=deletion))
    kept = want("kept")
    result = plan([kept], [gone, have(kept)])
    assert [(c.action, c.key.name) for c in result.changes] == [(action, "gone")]
    assert plan([kept], [gone, have(kept)], prune=False).empty


def test_other_owners_and_unowned_objects_are_never_given_up() -> None:
    assert plan([want("kept")], [have(want("kept")), have(want("t"), OTHER), have(want("u"), None)]).empty


def test_a_soft_deleted_name_is_restored_whoever_owned_it() -> None:
    a = want("a", tags__team="x")
    (change,) = plan([a], [replace(have(a, OTHER), soft_deleted=True)]).changes
    assert change.action is Action.CREATE
    assert "restored" in change.reason


def test_a_reference_to_nothing_blocks() -> None:
    a = replace(want("a"), requires=frozenset({Key("MLflowUser", "", "ann")}))
    (problem,) = plan([a], []).problems
    assert problem.blocked
    assert "MLflowUser 'ann'" in problem.problem.what


def test_what_waits_for_an_object_with_a_problem_waits() -> None:
    a = want("a", artifactLocation="s3://new")
    b = replace(want("b", "MLflowRole"), requires=frozenset({a.key}))
    stalled = plan([a, b], [], stalled=[]).problems
    assert stalled == ()
    problem = plan([a], [have(a, artifactLocation="s3://old")]).problems[0]
    result = plan([a, b], [], stalled=[problem])
    assert [p.key.name for p in result.problems] == ["a", "b"]
    assert result.empty


def test_a_stalled_object_is_not_given_up() -> None:
    a, b = want("a"), want("b")
    problem = plan([want("a", artifactLocation="n")], [have(want("a", artifactLocation="o"))]).problems[0]
    assert plan([a, b], [have(a), have(b)], stalled=[problem]).empty


def test_order_is_by_rank_and_backwards_for_deletes() -> None:
    gone_role = have(replace(want("r0", "MLflowRole"), deletion="Delete"))
    gone_user = have(replace(want("u0", "MLflowUser"), deletion="Delete"))
    result = plan([want("r", "MLflowRole"), want("e"), want("u", "MLflowUser")], [gone_user, gone_role])
    assert [c.key.name for c in result.changes] == ["u", "e", "r", "r0", "u0"]


def test_write_only_fields_are_marked_sensitive() -> None:
    u = want("u", "MLflowUser", password="hmac-1")
    (change,) = plan([u], [have(u, password="hmac-0")]).changes
    assert change.fields[0].sensitive


def test_the_hash_names_the_changes() -> None:
    a = want("a", tags__team="x")
    assert plan([a], []).hash == plan([a], []).hash
    assert plan([a], []).hash != plan([want("a", tags__team="y")], []).hash
    edited = plan([a], [have(a, tags__team="1")])
    assert edited.hash != plan([a], [have(a, tags__team="2")]).hash


class TestBrakes:
    def owned(self, count: int) -> list[Observed]:
        return [have(replace(want(f"o{i}"), deletion="Delete")) for i in range(count)]

    def test_more_than_the_share_stops(self) -> None:
        kept = [want(f"o{i}") for i in range(6)]
        result = plan([replace(k, deletion="Delete") for k in kept], self.owned(10))
        with pytest.raises(BrakeStopped, match=r"4 of 10 owned objects \(40 %") as stopped:
            check(result, Brakes())
        assert result.hash in str(stopped.value)
        check(result, Brakes(), result.hash)

    def test_the_share_itself_passes(self) -> None:
        kept = [replace(want(f"o{i}"), deletion="Delete") for i in range(7)]
        check(plan(kept, self.owned(10)), Brakes())

    def test_half_of_a_few_stops(self) -> None:
        kept = [replace(want("o0"), deletion="Delete")]
        with pytest.raises(BrakeStopped, match=r"8 of 9 owned objects \(88 %, the brake is at half of fewer"):
            check(plan(kept, self.owned(9)), Brakes())

    def test_one_of_a_few_passes(self) -> None:
        check(plan([replace(want("o0"), deletion="Delete")], self.owned(2)), Brakes())
        check(plan([want("another")], self.owned(1)), Brakes())

    def test_an_empty_configuration_stops_however_few_are_owned(self) -> None:
        with pytest.raises(BrakeStopped, match="declares nothing"):
            check(plan([], self.owned(1)), Brakes())

    def test_an_empty_configuration_and_nothing_owned_is_fine(self) -> None:
        check(plan([], []), Brakes())

    def test_a_hash_of_another_plan_releases_nothing(self) -> None:
        kept = [replace(want(f"o{i}"), deletion="Delete") for i in range(4)]
        result = plan(kept, self.owned(5))
        with pytest.raises(BrakeStopped, match="names another plan"):
            check(result, Brakes(), "0123456789ab")

    def test_forgetting_counts_as_loss(self) -> None:
        retained = [have(want(f"o{i}")) for i in range(10)]
        with pytest.raises(BrakeStopped):
            check(plan([want("o0")], retained), Brakes())


def test_a_damaged_mark_is_no_mark() -> None:
    for text in ("", "{", "[]", "null", '{"owner": 1}', None):
        assert Mark.from_text(text) is None


def test_paths_for_people() -> None:
    assert dotted(("tags", "a.b")) == 'tags["a.b"]'
    assert dotted(("tags", "team")) == "tags.team"


@pytest.mark.parametrize(
    ("lost", "owned", "recent", "found"),
    [
        # The whole is not too much: a small owner may lose all that it has.
        ({"a": 3}, {"a": 3, "b": 97}, {}, {}),
        # It is: only who gives up too much of its own is stopped.
        ({"a": 40, "b": 1}, {"a": 50, "b": 50}, {}, {"a": (40, 50)}),
        ({"a": 20, "b": 20}, {"a": 30, "b": 30}, {}, {"a": (20, 30), "b": (20, 30)}),
        # Many small plans count as a large one.
        ({"a": 1, "b": 1}, {"a": 49, "b": 49}, {"a": 45}, {"a": (46, 94)}),
        ({"a": 1}, {"a": 8, "b": 1}, {"a": 2}, {}),
        ({"a": 1}, {"a": 8, "b": 1}, {"a": 4}, {"a": (5, 12)}),
        # Everybody loses the only object: nobody's share is too much, all of it together is.
        (
            {f"n{i}": 1 for i in range(4)},
            {f"n{i}": 1 for i in range(12)},
            {},
            {f"n{i}": (1, 1) for i in range(4)},
        ),
        # The same beside somebody whose share is too much by itself.
        (
            {"a": 5, **{f"n{i}": 1 for i in range(9)}},
            {"a": 5, **{f"n{i}": 1 for i in range(12)}},
            {},
            {"a": (5, 5), **{f"n{i}": (1, 1) for i in range(9)}},
        ),
        # What somebody else gave up lately stops only who gives up something now.
        ({}, {"a": 10}, {"b": 40}, {}),
        ({"a": 1}, {"a": 10}, {"b": 40}, {"a": (1, 10)}),
    ],
)
def test_who_gives_up_too_much(
    lost: dict[str, int], owned: dict[str, int], recent: dict[str, int], found: dict[str, tuple[int, int]]
) -> None:
    assert exceeding(lost, owned, recent, Brakes()) == {name: Share(*of) for name, of in found.items()}


COUNTS = st.dictionaries(st.sampled_from("abcd"), st.integers(0, 30))


@given(COUNTS, COUNTS, COUNTS)
def test_what_the_brake_lets_pass_is_not_too_much(
    lost: dict[str, int], kept: dict[str, int], recent: dict[str, int]
) -> None:
    owned = {name: kept.get(name, 0) + lost.get(name, 0) for name in {*kept, *lost}}
    found = exceeding(lost, owned, recent, Brakes())
    assert all(lost[name] for name in found)
    whole = sum(lost.values()) + sum(recent.values()), sum(owned.values()) + sum(recent.values())
    if not Brakes().too_much(*whole):
        assert not found
        return
    passing = [name for name in {*owned, *recent} if name not in found]
    if any(lost.get(name) for name in passing):
        before = sum(recent.get(name, 0) for name in passing)
        gone, all_ = (sum(by.get(name, 0) for name in passing) + before for by in (lost, owned))
        assert not Brakes().too_much(gone, all_)
