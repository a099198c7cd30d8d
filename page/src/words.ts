/** Numbers and places in words. */

export function percent(share: number): string {
  if (share < 0.001) return "below 0.1 %";
  if (share > 0.999) return "above 99.9 %";
  return `${(100 * share).toFixed(1)} %`;
}

export function ofHundred(share: number): string {
  if (share < 0.005) return "fewer than 1";
  if (share > 0.995) return "more than 99";
  return `about ${Math.round(100 * share)}`;
}

export function counted(count: number, thing: string): string {
  return `${count.toLocaleString("en-US")} ${thing}${count === 1 ? "" : "s"}`;
}

/** Return where in the picture a value of a square map is strongest, such as "upper left"; null if none is above 0. */
export function placeOfStrongest(map: Float32Array, size: number, sign: 1 | -1): string | null {
  let [place, most] = [-1, 0];
  map.forEach((value, index) => {
    if (sign * value > most) [place, most] = [index, sign * value];
  });
  if (place < 0) return null;
  const third = (position: number, names: [string, string, string]) => names[Math.min(Math.floor((3 * position) / size), 2)];
  const row = third(Math.floor(place / size), ["upper", "middle", "lower"]);
  const column = third(place % size, ["left", "middle", "right"]);
  return row === column ? "middle" : `${row} ${column}`;
}
