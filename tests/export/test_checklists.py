"""The items of CLAIM and TRIPOD+AI: all there, and answered only where a card has the facts."""

from card_runs import card_of, facts_of, outline, write_run

from pneumojax.export import about as abouts
from pneumojax.export import card_facts, checklists

LETTERS = {3: "abc", 5: "ab", 6: "abc", 8: "abc", 9: "abc", 12: "abcdefg", 18: "abcdef", 20: "abc", 23: "ab", 27: "abc"}
TRIPOD_NUMBERS = [f"{number}{letter}" for number in range(1, 28) for letter in LETTERS.get(number, [""])]


def test_the_guidelines_have_all_their_items():
    assert [item.number for item in checklists.CLAIM] == [str(number) for number in range(1, 45)]
    assert [item.number for item in checklists.TRIPOD_AI] == TRIPOD_NUMBERS


def test_an_answer_leads_to_a_section_that_is_there(card_run):
    markdown = card_of(card_run)
    headings, _, tokens = outline(markdown)
    anchors = {checklists.anchor(heading) for heading in headings}
    inline = [part for token in tokens if token.type == "inline" for part in token.children]
    links = {part.attrs["href"] for part in inline if part.type == "link_open"}
    assert len(links) >= 12 and {link[1:] for link in links} <= anchors
    sections = {item.section for item in checklists.CLAIM + checklists.TRIPOD_AI if item.section}
    assert sections <= set(headings), "also of items that this card does not answer"


def test_an_item_is_answered_only_where_its_facts_are(card_run):
    facts = facts_of(card_run)
    kinds = card_facts.available(facts)
    known = {f"about.{name}" for name in abouts.OF_THE_MODEL} | {f"sites.{name}" for name in abouts.OF_SITES}
    known |= {"config", "composition", "remarks", "evaluations", "internal", "external", "groups", "corruptions",
              "explanations", "audit"}  # fmt: skip
    for item in checklists.CLAIM + checklists.TRIPOD_AI:
        assert set(item.needs) <= known, item
        assert (checklists.where(item, kinds) != "not answered") == (bool(item.section) and set(item.needs) <= kinds)
    answered = {item.number: checklists.where(item, kinds) for item in checklists.CLAIM}
    assert answered["30"] == "[Corruptions](#corruptions)" and answered["44"] == "not answered"
    less = card_facts.available(facts._replace(corruptions={}))
    assert checklists.where(checklists.CLAIM[29], less) == "not answered"


def test_a_site_that_nothing_is_stated_of_leaves_the_item_open(tmp_path):
    facts = facts_of(write_run(tmp_path / "run", sites=("adults", "children")))
    one = {"sites": {"adults": {"license": "CC BY 4.0"}}}
    both = {"sites": one["sites"] | {"children": {"license": "CC BY 4.0"}}}
    assert "sites.license" not in card_facts.available(facts._replace(about=one))
    assert "sites.license" in card_facts.available(facts._replace(about=both))
