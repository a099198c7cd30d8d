/** Whether the model was trained or chosen on a picture: `pneumojax/evaluation/known_pictures.py`. */

const THUMBNAIL = 32;
const FREQUENCIES = 16;
const BYTES = (FREQUENCIES * FREQUENCIES) / 8;
const MAX_BITS = 24;
const NOISE = 1e-3;
const BITS_OF = Uint8Array.from({ length: 256 }, (_, byte) => byte.toString(2).replaceAll("0", "").length);

/** Shrink a square to 32 x 32 by the mean over boxes, as Pillow does for float images. */
export function shrunk(square: Uint8Array): Float32Array {
  const side = Math.round(Math.sqrt(square.length));
  const weights = boxes(side);
  const narrow = new Float32Array(side * THUMBNAIL);
  for (let y = 0; y < side; y++) {
    weights.forEach(({ start, shares }, x) => {
      let sum = 0;
      shares.forEach((share, index) => (sum += share * square[y * side + start + index]));
      narrow[y * THUMBNAIL + x] = sum;
    });
  }
  const small = new Float32Array(THUMBNAIL * THUMBNAIL);
  weights.forEach(({ start, shares }, y) => {
    for (let x = 0; x < THUMBNAIL; x++) {
      let sum = 0;
      shares.forEach((share, index) => (sum += share * narrow[(start + index) * THUMBNAIL + x]));
      small[y * THUMBNAIL + x] = sum;
    }
  });
  return small;
}

interface Box {
  start: number;
  shares: number[];
}

/** The pixels of a side whose centres lie in each box, each with the same share. */
function boxes(side: number): Box[] {
  const scale = side / THUMBNAIL;
  const reach = 0.5 * Math.max(scale, 1);
  return Array.from({ length: THUMBNAIL }, (_, place) => {
    const centre = (place + 0.5) * scale;
    const start = Math.max(Math.trunc(centre - reach + 0.5), 0);
    const end = Math.min(Math.trunc(centre + reach + 0.5), side);
    const inside = Array.from({ length: end - start }, (_, index) => {
      const away = (start + index - centre + 0.5) / Math.max(scale, 1);
      return away > -0.5 && away <= 0.5 ? 1 : 0;
    });
    const total = inside.reduce((sum: number, weight) => sum + weight, 0);
    return { start, shares: inside.map((weight) => weight / total) };
  });
}

const COSINES = Array.from({ length: FREQUENCIES }, (_, frequency) =>
  Array.from({ length: THUMBNAIL }, (_, place) => 2 * Math.cos((Math.PI * frequency * (2 * place + 1)) / (2 * THUMBNAIL))),
);

/** The signs of the 256 lowest frequencies of a square's cosine transform, 32 bytes. */
export function perceptualHash(square: Uint8Array): Uint8Array {
  const small = Float64Array.from(shrunk(square));
  const mean = small.reduce((sum, level) => sum + level, 0) / small.length;
  const rows = COSINES.map((cosines) =>
    Array.from({ length: THUMBNAIL }, (_, x) =>
      cosines.reduce((sum, cosine, y) => sum + cosine * (small[y * THUMBNAIL + x] - mean), 0),
    ),
  );
  const hash = new Uint8Array(BYTES);
  rows.forEach((row, v) => {
    COSINES.forEach((cosines, u) => {
      const value = cosines.reduce((sum, cosine, x) => sum + cosine * row[x], 0);
      const place = v * FREQUENCIES + u;
      if (place > 0 && value > NOISE) hash[place >> 3] |= 0x80 >> (place & 7);
    });
  });
  return hash;
}

/** Whether one of the pictures `seen`, 32 bytes each, has nearly this hash. */
export function isKnown(seen: Uint8Array, hash: Uint8Array): boolean {
  for (let start = 0; start < seen.length; start += BYTES) {
    let bits = 0;
    for (let place = 0; place < BYTES && bits <= MAX_BITS; place++) bits += BITS_OF[seen[start + place] ^ hash[place]];
    if (bits <= MAX_BITS) return true;
  }
  return false;
}
