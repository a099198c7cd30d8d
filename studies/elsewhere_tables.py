"""The tables on models in other hospitals: the guard, calibration on site, and operating points by the worst group."""

from studies.table import Table

_LEFT_OUT = {
    "trained on": "{trained_on}",
    "scored on": "{scored_on}",
    "films": "{films:,}",
    "runs": "{runs}",
    "AUC": "{auc:.3f} ± {auc_sd:.3f}|{auc:.3f}",
    "balanced accuracy": "{balanced_accuracy:.3f}",
    "sensitivity, specificity": "{sensitivity:.3f}, {specificity:.3f}",
    "ECE": "{ece:.3f}",
}

ELSEWHERE = {
    "travel": Table(
        "travel",
        "rows",
        {
            "training and input": "{tried}",
            "AUC, adults": "{adults_auc:.3f}",
            "balanced accuracy, adults": "{adults:.3f}",
            "AUC, held-out children": "{home_auc:.3f}",
            "balanced accuracy, held-out children": "{home:.3f}",
        },
    ),
    "travel-whole": Table(
        "travel",
        "full",
        {
            "recipe": "{tried}",
            "AUC, adults": "{adults_auc:.3f}",
            "balanced accuracy, adults": "{adults:.3f}",
            "AUC, held-out children": "{home_auc:.3f}",
            "balanced accuracy, held-out children": "{home:.3f}",
            "of the worst corruption": "{worst:.3f}",
        },
    ),
    "travel-trust": Table(
        "travel",
        "trust",
        {
            "trained on adults by": "{tried}",
            "AUC, adults": "{adults_auc:.3f} ({adults_folds[0]:.3f}, {adults_folds[1]:.3f})",
            "sensitivity, specificity, adults": "{sensitivity:.3f}, {specificity:.3f}",
            "AUC, children": "{home_auc:.3f}",
            "balanced accuracy, children": "{home:.3f}",
        },
    ),
    "travel-number": Table(
        "travel",
        "number_of_films",
        {
            "films read by radiologists": "{films}",
            "by reports, at a weight of 0.3": "{text:,}",
            "AUC on 5,232 children": "{auc:.3f} ± {auc_sd:.3f}",
        },
    ),
    "travel-further": Table(
        "travel",
        "further",
        {
            "trained on": "{trained_on}",
            "by": "{tried}",
            "scored on": "{scored_on}",
            "AUC": "{each}",
            "balanced accuracy": "{balanced:.3f}",
            "AUC, own val": "{home_auc:.3f}",
        },
    ),
    "both-sites": Table(
        "travel",
        "both",
        {
            "trained on": "{trained_on}",
            "scored on": "{scored_on}",
            "films": "{films:,}",
            "AUC (95 %)": "{auc:.3f} ({low:.3f}-{high:.3f})",
            "sensitivity, specificity": "{sensitivity:.3f}, {specificity:.3f}",
        },
    ),
    "both-seeds": Table(
        "travel",
        "both_seeds",
        {
            "scored on": "{scored_on}",
            "films": "{films:,}",
            "seeds": "{seeds}",
            "AUC": "{auc:.3f} ± {auc_sd:.3f} ({each})",
            "sensitivity, specificity": "{sensitivity:.3f}, {specificity:.3f}",
        },
    ),
    "left-out": Table("left_out", "rows", _LEFT_OUT),
    "left-out-before": Table("left_out", "before", _LEFT_OUT),
    "guard": Table(
        "guard",
        "rows",
        {
            "images": "{images}",
            "number": "{count:,}",
            "to be flagged": "{flag}",
            "by features alone": "{features_alone:.3f}",
            "by statistics alone": "{statistics_alone:.3f}",
            "flagged by the guard": "{both:.3f}",
            "AUC against val": "{auc:.3f}|",
        },
    ),
    "site-calibration": Table(
        "site_calibration",
        "rows",
        {
            "films": "{films}",
            "thresholds and probabilities": "{way}",
            "ECE": "{ece:.3f} ± {ece_sd:.3f}",
            "ECE of perfect probabilities there": "{ece_of_perfect:.3f}",
            "balanced accuracy": "{balanced_accuracy:.3f} ± {balanced_accuracy_sd:.3f}",
            "less than the best threshold there: mean, 90 % of draws": "{lost:.3f}, {lost_90:.3f}",
            "sensitivity, specificity": "{sensitivity:.3f}, {specificity:.3f}",
            "said to be enough": "{enough:.0%}|",
        },
    ),
    "prevalence": Table(
        "site_calibration",
        "prevalence",
        {
            "films of": "{where}",
            "number": "{films}",
            "share of pneumonia": "{share:.2f}",
            "by EM": "{em:.2f} ± {em_sd:.2f}",
            "by black-box shift": "{shift:.2f} ± {shift_sd:.2f}",
            "all other conditions hold": "{trusted:.0%}",
        },
    ),
    "worst-group": Table(
        "worst_group",
        "rows",
        {
            "run": "{run}",
            "scored on": "{where}",
            "threshold by": "{by}",
            "balanced accuracy": "{balanced_accuracy:.3f}",
            "sensitivity, specificity": "{sensitivity:.3f}, {specificity:.3f}",
            "ECE": "{ece:.3f}",
        },
    ),
}
