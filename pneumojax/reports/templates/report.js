// The confusion matrix that follows a slider: data-counts has the false and true positives at each step.
"use strict";
for (const box of document.querySelectorAll(".any")) {
  const { fp: falsePositives, tp: truePositives } = JSON.parse(box.dataset.counts);
  const [normal, pneumonia] = [falsePositives[0], truePositives[0]]; // at threshold 0, all are positive
  const slider = box.querySelector("input");
  const cells = box.querySelectorAll("td[style]");
  const rate = (part, whole) => (whole ? (part / whole).toFixed(3) : "undefined");
  const update = () => {
    const fp = falsePositives[slider.value], tp = truePositives[slider.value];
    const tn = normal - fp, fn = pneumonia - tp;
    [[tn, normal], [fp, normal], [fn, pneumonia], [tp, pneumonia]].forEach(([count, total], i) => {
      const share = count / (total || 1);
      cells[i].style.setProperty("--share", share);
      cells[i].firstChild.data = count.toLocaleString("en");
      cells[i].querySelector("small").textContent = `${(100 * share).toFixed(1)}%`;
    });
    box.querySelector("output").textContent = (slider.value / slider.max).toFixed(3);
    box.querySelector(".rates").textContent =
      `Sensitivity ${rate(tp, pneumonia)}, specificity ${rate(tn, normal)}, ` +
      `positive predictive value ${rate(tp, tp + fp)}, negative predictive value ${rate(tn, tn + fn)}.`;
  };
  slider.addEventListener("input", update);
  update();
}
