/** A DICOM radiograph as a viewer would show it: `pneumojax/data/decode/dicom.py`, with the same refusals. */

import { type DataSet, parseDicom, type ParseDicomOptions, readPart10Header } from "dicom-parser";

import { inflated } from "./embedded";
import { storedValues, type Stored } from "./dicom_pixels";
import { shadesOf } from "./dicom_shades";
import { type Film, refuseLarge, Unreadable } from "./film";
import { greyOf } from "./jpeg";

const MAX_INFLATED = 120_000_000;
const IMPLICIT = "1.2.840.10008.1.2";
const DEFLATED = "1.2.840.10008.1.2.1.99";
const BIG_ENDIAN = "1.2.840.10008.1.2.2";
const EXPLICIT = "1.2.840.10008.1.2.1";

const MODALITIES = new Set(["", "CR", "DX", "DR", "RG", "RF", "OT", "SC"]);
const OTHER_MODALITIES = new Set(
  ("BI BMD CT DOC ECG ES GM IO IVUS KO MG MR NM OP OPT PR PT PX REG RTDOSE RTIMAGE SEG SM SR US XA XC").split(" "),
);
const OTHER_PARTS = new Set(
  ("ABDOMEN ANKLE ARM BREAST BUTTOCK CALCANEUS CALF CSPINE ELBOW EXTREMITY EYE FACE FEMUR FINGER FOOT FOREARM HAND HEAD " +
    "HIP HUMERUS JAW KNEE LEG LSPINE MANDIBLE NECK NOSE ORBIT PATELLA PELVIS PENIS SACRUM SINUS SKULL SPINE SSPINE THIGH " +
    "THUMB TIBIA TOE UTERUS WRIST ZYGOMA").split(" "),
);
const LATERAL = new Set(["LL", "RL", "LLD", "RLD", "LLO", "RLO", "L", "R"]);
const PHOTOMETRIC = new Set(["MONOCHROME1", "MONOCHROME2", "RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT"]);

/** What the header says of the pixels. */
export interface Header {
  rows: number;
  columns: number;
  allocated: number; // bits of a sample
  bits: number; // of them, those in use
  highBit: number;
  signed: boolean;
  samples: number;
  planar: boolean;
  photometric: string;
  syntax: string;
}

export async function readDicom(bytes: Uint8Array<ArrayBuffer>): Promise<Film> {
  const { data, syntax, isCut } = await reasons("its header", () => parsed(bytes));
  const header = await reasons("its header", () => checked(data, syntax));
  if (isCut) throw new Unreadable("its pixel data is cut short");
  refuseLarge(header.columns, header.rows);
  const stored = await reasons("its PixelData", () => storedValues(data, header));
  const size = { width: header.columns, height: header.rows, guessed: false };
  const flags = isLateral(data) ? ["lateral"] : [];
  if (header.samples === 3) return { ...size, flags, pixels: ofColours(stored) };
  const { pixels, clipped } = await reasons("its rescaling or its window", () => shadesOf(stored.values, header, data));
  return { ...size, flags: clipped ? [...flags, "clipped"] : flags, pixels };
}

/** Turn errors of any kind into words that quote nothing of the header, which identifies the patient. */
async function reasons<Result>(what: string, read: () => Result | Promise<Result>): Promise<Result> {
  try {
    return await read();
  } catch (error) {
    if (error instanceof Unreadable) throw error;
    throw new Unreadable(`broken DICOM: ${what} cannot be read`);
  }
}

interface Parsed {
  data: DataSet;
  syntax: string;
  isCut: boolean; // whether the file ends within an element
}

async function parsed(bytes: Uint8Array<ArrayBuffer>): Promise<Parsed> {
  if (!isPart10(bytes)) return bare(bytes);
  const start = metaEnd(bytes);
  const syntax = start > 132 ? readPart10Header(bytes).string("x00020010") : undefined;
  if (!syntax) return bare(bytes.slice(start));
  if (syntax !== DEFLATED) return { ...elements(bytes), syntax };
  return bare(await inflated(bytes.slice(start), "deflate-raw", MAX_INFLATED), EXPLICIT);
}

/** Parse elements without a preamble. */
function bare(bytes: Uint8Array, syntax = encodingOf(bytes) ?? IMPLICIT): Parsed {
  return { ...elements(bytes, { TransferSyntaxUID: syntax }), syntax };
}

/** Parse as many elements as there are. */
function elements(bytes: Uint8Array, options: ParseDicomOptions = {}): Omit<Parsed, "syntax"> {
  try {
    return { data: parseDicom(bytes, options), isCut: false };
  } catch (error) {
    const { dataSet } = error as { dataSet?: DataSet }; // the parser passes on what it has
    if (!dataSet?.elements) throw error;
    return { data: dataSet, isCut: true };
  }
}

function isPart10(bytes: Uint8Array): boolean {
  return String.fromCharCode(...bytes.subarray(128, 132)) === "DICM";
}

/** Return where the elements of group 2 end: they are explicit, little-endian. */
function metaEnd(bytes: Uint8Array): number {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let place = 132;
  while (view.getUint16(place, true) === 2) {
    const long = ["OB", "OW", "UN", "SQ", "UT"].includes(String.fromCharCode(bytes[place + 4], bytes[place + 5]));
    place += long ? 12 + view.getUint32(place + 8, true) : 8 + view.getUint16(place + 6, true);
  }
  return place;
}

/** Whether a file starts as DICOM does: with a preamble, or in old files with its first element. */
export function isDicom(bytes: Uint8Array): boolean {
  return isPart10(bytes) || encodingOf(bytes) !== null;
}

/** Return the transfer syntax in which a file without a preamble starts with two sound elements. */
function encodingOf(bytes: Uint8Array): string | null {
  const known: [string, boolean, boolean][] = [[EXPLICIT, true, true], [IMPLICIT, true, false], [BIG_ENDIAN, false, true]];
  return known.find(([, little, explicit]) => startsSound(bytes, little, explicit))?.[0] ?? null;
}

function startsSound(bytes: Uint8Array, little: boolean, explicit: boolean): boolean {
  const first = element(bytes, 0, little, explicit);
  if (!first || ![0x0002, 0x0008].includes(first.tag >>> 16)) return false;
  const second = element(bytes, first.end, little, explicit);
  return second !== null && first.tag < second.tag && second.tag < 0x7fe00011;
}

const LONG = new Set(["OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"]);
const SHORT = new Set("AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split(" "));

function element(bytes: Uint8Array, place: number, little: boolean, explicit: boolean): { tag: number; end: number } | null {
  if (place + 12 > Math.min(bytes.length, 512)) return null;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const tag = view.getUint16(place, little) * 65536 + view.getUint16(place + 2, little);
  const kind = String.fromCharCode(bytes[place + 4], bytes[place + 5]);
  let [start, length] = [place + 8, view.getUint32(place + 4, little)];
  if (explicit && LONG.has(kind)) [start, length] = [place + 12, view.getUint32(place + 8, little)];
  else if (explicit && SHORT.has(kind)) length = view.getUint16(place + 6, little);
  else if (explicit) return null;
  return length <= 1024 && length % 2 === 0 ? { tag, end: start + length } : null;
}

/** Return the header of a radiograph that can be decoded. */
function checked(data: DataSet, syntax: string): Header {
  const header: Header = {
    rows: data.uint16("x00280010") ?? 0,
    columns: data.uint16("x00280011") ?? 0,
    allocated: data.uint16("x00280100") ?? 0,
    bits: data.uint16("x00280101") ?? 0,
    highBit: data.uint16("x00280102") ?? 0,
    signed: data.uint16("x00280103") === 1,
    samples: data.uint16("x00280002") || 1,
    planar: data.uint16("x00280006") === 1,
    photometric: text(data, "x00280004") || "MONOCHROME2",
    syntax,
  };
  const needed = { Rows: header.rows, Columns: header.columns, BitsAllocated: header.allocated };
  const missing = Object.entries(needed).find(([, value]) => !value);
  if (missing) throw new Unreadable(`it has no ${missing[0]}, or one that is 0 or no number`);
  header.bits ||= header.allocated;
  refuseUnfit(data, header);
  return header;
}

/** Return the first of an element's values, in capitals. */
export function text(data: DataSet, tag: string): string {
  return (data.string(tag, 0) ?? "").replaceAll("\0", "").trim().toUpperCase();
}

function refuseUnfit(data: DataSet, header: Header): void {
  const [modality, part] = [text(data, "x00080060"), text(data, "x00180015")];
  if (!MODALITIES.has(modality)) {
    const shown = OTHER_MODALITIES.has(modality) ? modality : "unknown";
    throw new Unreadable(`not a radiograph: its modality is ${shown}`);
  }
  if (OTHER_PARTS.has(part)) throw new Unreadable(`not a chest: its body part is ${part}`);
  if ((data.intString("x00280008") ?? 1) > 1) throw new Unreadable("more than one frame");
  if (!PHOTOMETRIC.has(header.photometric)) {
    throw new Unreadable("its photometric interpretation is neither monochrome, RGB nor YBR");
  }
  const { samples, bits, allocated } = header;
  if (samples !== (header.photometric.startsWith("MONO") ? 1 : 3)) {
    throw new Unreadable(`samples per pixel (${samples}) do not fit its photometric interpretation`);
  }
  if (![8, 16].includes(allocated) || !(bits > 0 && bits <= allocated) || (samples === 3 && allocated !== 8)) {
    throw new Unreadable(`${bits} of ${allocated} bits, samples per pixel ${samples}: not supported`);
  }
}

function isLateral(data: DataSet): boolean {
  const view = text(data, "x00185101");
  return LATERAL.has(view) || view.includes("LATERAL") || view === "LAT";
}

function ofColours({ values, photometric }: Stored): Uint8Array {
  if (!photometric.startsWith("YBR")) return greyOf(values as Uint8Array);
  return Uint8Array.from({ length: values.length / 3 }, (_, place) => values[3 * place]);
}
