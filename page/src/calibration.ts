/** From a logit to a probability and decisions: `pneumojax/evaluation/calibration.py`. */

export interface Calibration {
  temperature: number;
  threshold: number;
  threshold_sens95: number;
  prevalence: number;
  offset: number;
}

export function probability(logit: number, calibration: Calibration): number {
  const odds = logit / calibration.temperature + calibration.offset;
  if (odds >= 0) return 1 / (1 + Math.exp(-odds));
  return Math.exp(odds) / (1 + Math.exp(odds));
}

const logOdds = (share: number) => Math.log(share / (1 - share));
const share = (odds: number) => 1 / (1 + Math.exp(-odds));

/** Restate probabilities and thresholds for another share of pneumonia; decisions stay the same. */
export function atPrevalence(calibration: Calibration, prevalence: number): Calibration {
  if (prevalence === calibration.prevalence) return calibration;
  const shift = logOdds(prevalence) - logOdds(calibration.prevalence);
  return {
    ...calibration,
    prevalence,
    threshold: share(logOdds(calibration.threshold) + shift),
    threshold_sens95: share(logOdds(calibration.threshold_sens95) + shift),
    offset: calibration.offset + shift,
  };
}
