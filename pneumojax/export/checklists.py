"""Where a model card answers the items of two reporting guidelines.

CLAIM: Tejani et al., "Checklist for Artificial Intelligence in Medical Imaging (CLAIM): 2024 Update", Radiology:
Artificial Intelligence 6(4), 2024. TRIPOD+AI: Collins et al., "TRIPOD+AI statement", BMJ 385:e078378, 2024. The items'
numbers are theirs, the topics are in short words.
"""

from collections.abc import Set
from typing import NamedTuple

from pneumojax.export.card_text import Markdown, table

NOT_ANSWERED = Markdown("not answered")


class Item(NamedTuple):
    """An item of a guideline.

    Attributes:
      number: such as "12a".
      topic: in short words.
      section: heading of the card that answers it; empty if no card does.
      needs: kinds of facts without which the section has no answer, see `card_facts.available`.
      lacks: what the section does not say of the item; empty if it says all.
    """

    number: str
    topic: str
    section: str = ""
    needs: tuple[str, ...] = ()
    lacks: str = ""


SUMMARY, USES, DIRECTIONS = "Model Summary", "Uses and Directions", "How to use"
POPULATION = "Targeted patient population"
WARNINGS, FAILURES, BIASES = "Known risks and limitations", "Known failures", "Known biases and ethical considerations"
OUTPUTS, MODEL, TYPES = "Outcomes and outputs", "Model type", "Output and input data types"
SOURCES, DATA, TRAINING = "Input data source", "Development data characterization", "Training"
MITIGATION, TRANSPARENCY = "Bias mitigation approaches", "Transparency Information"
USEFULNESS, FAIRNESS = "Usefulness, Usability and Efficacy", "Fairness and Equity"
CORRUPTIONS, GUARD = "Corruptions", "Images unlike the training images"
EXPLANATIONS, RESOURCES = "Explanation checks", "Resources"

CLAIM = (
    Item("1", "AI methodology and its technology in the title or abstract", SUMMARY),
    Item("2", "structured abstract", SUMMARY, ("evaluations",), "design and conclusions"),
    Item("3", "scientific and clinical background", USES, ("about.background",)),
    Item("4", "aims, objectives and hypotheses", USES, ("about.objectives",)),
    Item("5", "prospective or retrospective", DATA, ("about.study_design",)),
    Item("6", "goal of the study", USES),
    Item("7", "data sources", SOURCES, ("sites.title",)),
    Item("8", "eligibility: inclusion and exclusion", SOURCES, ("sites.eligibility",)),
    Item("9", "preprocessing", TYPES),
    Item("10", "selection of data subsets", TRAINING, ("config",)),
    Item("11", "de-identification", SOURCES, ("sites.deidentification",)),
    Item("12", "missing data", SOURCES, ("sites.missing_data",)),
    Item("13", "image acquisition protocol", SOURCES, ("sites.acquisition",)),
    Item("14", "definition of the reference standard", SOURCES, ("sites.labels",)),
    Item("15", "rationale for the reference standard", SOURCES, ("sites.label_rationale",)),
    Item("16", "source and qualifications of annotators", SOURCES, ("sites.annotators",)),
    Item("17", "annotation procedure of the test set", SOURCES, ("sites.annotation",)),
    Item("18", "variability within and between annotators", SOURCES, ("sites.agreement",)),
    Item("19", "how data were assigned to partitions", DATA, ("composition", "remarks")),
    Item("20", "level at which partitions are disjoint", DATA, ("remarks",)),
    Item("21", "intended sample size of the test set", DATA, ("about.sample_size",)),
    Item("22", "model: inputs, outputs, layers", MODEL),
    Item("23", "software and versions", MODEL, (), "versions of the libraries at training"),
    Item("24", "initialization of parameters", TRAINING, ("config",)),
    Item("25", "training procedure, augmentation, hyperparameters", TRAINING, ("config",)),
    Item("26", "selection of the final model", TRAINING, ("config",)),
    Item("27", "ensembling", MODEL),
    Item("28", "performance metrics", USEFULNESS, ("evaluations",), "comparison with published models"),
    Item("29", "measures of uncertainty", USEFULNESS, ("evaluations",), "tests of significance"),
    Item("30", "robustness or sensitivity analysis", CORRUPTIONS, ("corruptions",)),
    Item("31", "explainability methods and their validation", EXPLANATIONS, ("explanations",)),
    Item("32", "testing on internal data", USEFULNESS, ("internal",)),
    Item("33", "testing on external data", USEFULNESS, ("external",)),
    Item("34", "registration of clinical trials", TRANSPARENCY, ("about.registration",)),
    Item("35", "numbers included and excluded", DATA, ("composition",), "a flow diagram"),
    Item("36", "demographic and clinical characteristics of partitions", DATA, ("groups",)),
    Item("37", "performance on all partitions and subgroups", FAIRNESS, ("evaluations", "groups")),
    Item("38", "estimates of diagnostic accuracy, with intervals", USEFULNESS, ("evaluations",)),
    Item("39", "failure analysis", FAILURES, ("evaluations",)),
    Item("40", "limitations", WARNINGS),
    Item("41", "implications for practice, intended use", USES),
    Item("42", "full protocol", TRANSPARENCY, ("about.protocol",)),
    Item("43", "availability of software, model and data", RESOURCES, ("sites.license",)),
    Item("44", "funding and the funders' role", TRANSPARENCY, ("about.funding",)),
)

TRIPOD_AI = (
    Item("1", "title: prediction model, population, outcome", SUMMARY, ("about.population",)),
    Item("2", "abstract", SUMMARY, ("evaluations",), "a structured abstract"),
    Item("3a", "healthcare context and rationale", USES, ("about.background",)),
    Item("3b", "target population, purpose, users", POPULATION, ("about.population",)),
    Item("3c", "known health inequalities", BIASES, ("about.biases",)),
    Item("4", "objectives", USES, ("about.objectives",)),
    Item("5a", "sources of data, and how far they represent the population", SOURCES, ("sites.title",)),
    Item("5b", "dates of the data", SOURCES, ("sites.dates",)),
    Item("6a", "setting and number of centres", SOURCES, ("sites.setting",)),
    Item("6b", "eligibility", SOURCES, ("sites.eligibility",)),
    Item("6c", "treatments received"),
    Item("7", "data preparation and quality checks", DATA, ("remarks",)),
    Item("8a", "outcome, and how it was assessed", SOURCES, ("sites.labels",)),
    Item("8b", "qualifications of outcome assessors", SOURCES, ("sites.annotators",)),
    Item("8c", "blinding of outcome assessors", SOURCES, ("sites.annotation",)),
    Item("9a", "choice of predictors", TYPES),
    Item("9b", "definition of predictors", TYPES),
    Item("9c", "qualifications of predictor assessors"),
    Item("10", "study size", DATA, ("about.sample_size",)),
    Item("11", "missing data", SOURCES, ("sites.missing_data",)),
    Item("12a", "use of the data for development and evaluation", DATA, ("composition",)),
    Item("12b", "handling of predictors", TYPES),
    Item("12c", "type of model, building, tuning, internal validation", TRAINING, ("config",)),
    Item("12d", "heterogeneity between clusters, such as sites", FAIRNESS, ("groups",)),
    Item("12e", "performance measures", USEFULNESS, ("evaluations",)),
    Item("12f", "model updating"),
    Item("12g", "how predictions are calculated for evaluation", OUTPUTS),
    Item("13", "class imbalance", TRAINING, ("config",)),
    Item("14", "fairness", MITIGATION, ("config",)),
    Item("15", "model output, thresholds and their rationale", OUTPUTS),
    Item("16", "differences between development and evaluation data", GUARD, ("external",), "other characteristics"),
    Item("17", "ethical approval", TRANSPARENCY, ("about.ethics",)),
    Item("18a", "funding", TRANSPARENCY, ("about.funding",)),
    Item("18b", "conflicts of interest", TRANSPARENCY, ("about.competing_interests",)),
    Item("18c", "protocol", TRANSPARENCY, ("about.protocol",)),
    Item("18d", "registration", TRANSPARENCY, ("about.registration",)),
    Item("18e", "data sharing", SOURCES, ("sites.license",)),
    Item("18f", "code sharing", RESOURCES),
    Item("19", "patient and public involvement", TRANSPARENCY, ("about.patient_involvement",)),
    Item("20a", "flow of participants", DATA, ("composition",), "a flow diagram"),
    Item("20b", "characteristics of participants", DATA, ("groups",)),
    Item("20c", "comparison of evaluation and development data", GUARD, ("external",), "other characteristics"),
    Item("21", "participants and events in each analysis", USEFULNESS, ("evaluations",)),
    Item("22", "full model, for predictions on new individuals", DIRECTIONS),
    Item("23a", "performance with intervals, also of subgroups", FAIRNESS, ("evaluations", "groups")),
    Item("23b", "heterogeneity of performance between clusters", FAIRNESS, ("groups",)),
    Item("24", "results of model updating"),
    Item("25", "interpretation", USEFULNESS, ("evaluations",)),
    Item("26", "limitations", WARNINGS),
    Item("27a", "input data of poor quality, or missing", TYPES),
    Item("27b", "interaction and expertise that users need", USES, ("about.intended_users",)),
    Item("27c", "next steps of research"),
)


def answers(items: tuple[Item, ...], available: Set[str]) -> Markdown:
    """Format the table of a guideline's items, and where a card with these facts answers them."""
    return table(("Item", "Topic", "Where"), [(item.number, item.topic, where(item, available)) for item in items])


def where(item: Item, available: Set[str]) -> Markdown:
    """Return a link to the section that answers an item, or that none does."""
    if not item.section or not available >= set(item.needs):
        return NOT_ANSWERED
    link = f"[{item.section}](#{anchor(item.section)})"
    return Markdown(f"{link}, without {item.lacks}" if item.lacks else link)


def anchor(heading: str) -> str:
    """Return the anchor of a heading, as GitHub and Hugging Face make it."""
    return "".join(char for char in heading.lower().replace(" ", "-") if char.isalnum() or char in "-_")
