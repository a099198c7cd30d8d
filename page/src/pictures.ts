/** Pictures for the page: a film, and the heat map over it. They are only shown; no number comes from a canvas. */

import type { Film } from "./film";

const SHOWN_SIDE = 640; // px of a film's longer side
const FOR = [213, 94, 0]; // orange and blue, safe for colour-blind readers, as in `inference/overlay.py`
const AGAINST = [0, 114, 178];

/** Return a small picture of a film. */
export function pictureOf(film: Film): Promise<Blob> {
  const scale = Math.max(1, Math.max(film.width, film.height) / SHOWN_SIDE);
  const [width, height] = [film.width, film.height].map((side) => Math.max(1, Math.round(side / scale)));
  const picture = new ImageData(width, height);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const level = mean(film, x * scale, y * scale, scale);
      picture.data.set([level, level, level, 255], 4 * (y * width + x));
    }
  }
  const canvas = canvasOf(picture);
  return new Promise((resolve, reject) => {
    canvas.toBlob((blob) => (blob ? resolve(blob) : reject(new Error("the film cannot be drawn"))), "image/png");
  });
}

/** Return the mean of the pixels that a box of the film covers. */
function mean(film: Film, left: number, top: number, side: number): number {
  const [right, bottom] = [Math.min(left + side, film.width), Math.min(top + side, film.height)];
  let [sum, count] = [0, 0];
  for (let y = Math.floor(top); y < bottom; y++) {
    for (let x = Math.floor(left); x < right; x++) {
      sum += film.pixels[y * film.width + x];
      count++;
    }
  }
  return count ? sum / count : 0;
}

/** Draw a map: orange is evidence for pneumonia, blue against it, the stronger the less transparent. */
export function mapCanvas(map: Float32Array, size: number): HTMLCanvasElement {
  const most = strongest(map) || 1;
  const picture = new ImageData(size, size);
  map.forEach((value, place) => {
    const colour = value > 0 ? FOR : AGAINST;
    picture.data.set([...colour, Math.round((255 * Math.abs(value)) / most)], 4 * place);
  });
  return canvasOf(picture);
}

/** Return the largest absolute value. */
export function strongest(map: Float32Array): number {
  return map.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
}

function canvasOf(picture: ImageData): HTMLCanvasElement {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [picture.width, picture.height];
  canvas.getContext("2d")?.putImageData(picture, 0, 0);
  return canvas;
}
