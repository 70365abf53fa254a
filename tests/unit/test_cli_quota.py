"""`quota set` and `quota show` on the command line."""

from __future__ import annotations

from support.command import Command
from support.fake_node import FakeNode

from plexspaces_node.quota import Key, Subject


def test_set_when_values_have_units_then_they_are_sent_and_shown(
    plexspaces: Command, fake_node: FakeNode
) -> None:
    """A tenant's quotas; what was not named is not shown."""
    ran = plexspaces("quota", "set", "--tenant", "shop", "messages_per_s=100", "memory_mib=2GiB")
    assert ran.status == 0
    assert ran.text == (
        "tenant 'shop'\n"
        "  QUOTA           LIMIT  USED\n"
        "  memory_mib      2 GiB  0 B\n"
        "  messages_per_s  100    3\n"
    )
    known = fake_node.quotas.values
    assert known == {Subject("shop"): {Key.MESSAGES_PER_S: 100, Key.MEMORY_MIB: 2048}}


def test_set_when_none_then_the_quota_is_removed(plexspaces: Command, fake_node: FakeNode) -> None:
    """Of one application, in the tenant that is meant without a word."""
    assert plexspaces("quota", "set", "--application", "cart", "vcpus=2", "in_flight=9").status == 0
    assert plexspaces("quota", "set", "--application", "cart", "vcpus=none").status == 0
    assert fake_node.quotas.values == {Subject("default", "cart"): {Key.IN_FLIGHT: 9}}


def test_set_when_an_application_is_named_in_full_then_it_is_that_one(
    plexspaces: Command, fake_node: FakeNode
) -> None:
    """As every listing shows it; another tenant than that of --tenant is a mistake."""
    assert plexspaces("quota", "set", "--application", "shop/cart", "vcpus=2").status == 0
    assert fake_node.quotas.values == {Subject("shop", "cart"): {Key.VCPUS: 2}}
    assert (
        "application 'shop/cart'" in plexspaces("quota", "show", "--application", "shop/cart").text
    )
    wrong = ("quota", "set", "--tenant", "rival", "--application", "shop/cart", "vcpus=2")
    refused = plexspaces(*wrong)
    assert refused.status == 2
    assert "is not an application of the tenant 'rival'" in refused.stderr


def test_set_when_it_is_not_enforced_here_then_it_says_so(plexspaces: Command) -> None:
    """In the table, and why beside it."""
    ran = plexspaces("quota", "set", "cpu_percent=50%")
    assert "  cpu_percent  50 %   0 %   not enforced\n" in ran.text
    assert ran.stderr == "warning: cpu_percent is not enforced: this host uses cgroup v1\n"


def test_set_when_a_word_is_wrong_then_status_2_says_what_can_be_written(
    plexspaces: Command,
) -> None:
    """Nothing is sent."""
    for words, said in (
        ("memory=1", "memory_mib"),
        ("memory_mib=much", "memory_mib=2GiB"),
        ("memory_mib", "memory_mib=100"),
    ):
        ran = plexspaces("quota", "set", words)
        assert ran.status == 2
        assert said in ran.stderr


def test_show_when_there_are_none_then_it_says_how_to_set_one(plexspaces: Command) -> None:
    """An empty node is told from a command that printed nothing."""
    ran = plexspaces("quota", "show")
    assert ran.text == "No tenant has applications or quotas.\n"
    assert "plexspaces quota set" in ran.stderr


def test_show_when_as_json_then_every_key_is_there(plexspaces: Command) -> None:
    """With what is used, and whether it is enforced."""
    plexspaces("quota", "set", "--tenant", "shop", "messages_per_s=100")
    plexspaces("quota", "set", "--tenant", "blog", "vcpus=1")
    [shop] = plexspaces("quota", "show", "--tenant", "shop", "--json").json
    assert shop["subject"] == {"tenant": "shop", "application": ""}
    told = {one["key"]: one for one in shop["quotas"]}
    assert list(told) == list(Key)
    assert told["messages_per_s"]["limit"] == 100
    assert told["cpu_percent"]["note"] == "this host uses cgroup v1"
    assert "tenant 'blog'" in plexspaces("quota", "show").text
