/** From the bytes of a file to a film, by what the file is and not by its name. */

import { isDicom, readDicom } from "./dicom";
import { type Film, Unreadable } from "./film";
import { readJpeg } from "./jpeg";
import { startsWith } from "./orientation";
import { readPng } from "./png";

export type Format = "PNG" | "JPEG" | "DICOM";
const MAX_FILE_BYTES = 300_000_000;
const OTHERS: [start: string, name: string][] = [
  ["II*\0", "TIFF"], ["MM\0*", "TIFF"], ["BM", "BMP"], ["RIFF", "WebP"], ["GIF8", "GIF"], ["%PDF", "PDF"], ["PK\x03\x04", "ZIP"],
];

export async function readFilm(bytes: Uint8Array<ArrayBuffer>): Promise<{ film: Film; format: Format }> {
  if (!bytes.length) throw new Unreadable("the file is empty");
  if (bytes.length > MAX_FILE_BYTES) throw new Unreadable(`a file of more than ${MAX_FILE_BYTES.toLocaleString("en-US")} bytes`);
  const format = formatOf(bytes);
  if (format === "PNG") return { film: await readPng(bytes), format };
  if (format === "JPEG") return { film: await readJpeg(bytes), format };
  return { film: await readDicom(bytes), format };
}

function formatOf(bytes: Uint8Array): Format {
  if (startsWith(bytes, 0, "\x89PNG\r\n\x1a\n")) return "PNG";
  if (startsWith(bytes, 0, "\xff\xd8\xff")) return "JPEG";
  if (isDicom(bytes)) return "DICOM";
  const other = OTHERS.find(([start]) => startsWith(bytes, 0, start));
  throw new Unreadable(other ? `a ${other[1]} file: this page reads PNG, JPEG and DICOM` : "neither PNG, JPEG nor DICOM");
}
