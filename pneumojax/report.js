// The confusion matrix that follows a slider: counts at each of its stops lie in data-counts.
"use strict";
for (const box of document.querySelectorAll(".any")) {
  const counts = JSON.parse(box.dataset.counts);
  const slider = box.querySelector("input");
  const cells = box.querySelectorAll("td[style]");
  const share = (part, whole) => (whole ? part / whole : NaN);
  const shown = (value) => (Number.isNaN(value) ? "undefined" : value.toFixed(3));
  const follow = () => {
    const tp = counts.tp[slider.value], fp = counts.fp[slider.value];
    const values = [counts.n0 - fp, fp, counts.n1 - tp, tp];
    const rows = [counts.n0, counts.n0, counts.n1, counts.n1];
    values.forEach((value, i) => {
      const part = share(value, rows[i]);
      cells[i].style.setProperty("--share", Number.isNaN(part) ? 0 : part);
      cells[i].firstChild.data = value.toLocaleString("en");
      cells[i].querySelector("small").textContent = Number.isNaN(part) ? "0.0%" : `${(100 * part).toFixed(1)}%`;
    });
    box.querySelector("output").textContent = (slider.value / slider.max).toFixed(3);
    box.querySelector(".rates").textContent =
      `Sensitivity ${shown(share(tp, counts.n1))}, specificity ${shown(share(counts.n0 - fp, counts.n0))}, ` +
      `positive predictive value ${shown(share(tp, tp + fp))}, ` +
      `negative predictive value ${shown(share(counts.n0 - fp, counts.n0 - fp + counts.n1 - tp))}.`;
  };
  slider.addEventListener("input", follow);
  follow();
}
