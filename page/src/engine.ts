/** The model: one film at a time, computed by ONNX Runtime in WebAssembly, in this page. */

import * as ort from "onnxruntime-web/wasm";

import { type Calibration, probability } from "./calibration";
import type { Row } from "./csv";
import { embedded, facts } from "./embedded";
import { type Film, Unreadable } from "./film";
import { qualityFlags } from "./flags";
import { isKnown, perceptualHash } from "./hash";
import { type Format, readFilm } from "./read";

/** What the page says of its model. */
export interface Facts {
  name: string;
  version: string;
  digest: string;
  site: string;
  image_size: number;
  calibration: Calibration;
}

/** What the model finds on a film. */
export interface Finding {
  film: Film;
  logit: number;
  oodScore: number;
  flags: string[];
  map: Float32Array; // of the square, positive where it is evidence for pneumonia
  square: Uint8Array; // what the model saw
  size: number; // of the square
}

export class Engine {
  private constructor(
    readonly facts: Facts,
    private readonly session: ort.InferenceSession,
    private readonly seen: Uint8Array,
  ) {}

  static async start(): Promise<Engine> {
    ort.env.wasm.wasmBinary = (await embedded("runtime")).buffer;
    ort.env.wasm.numThreads = 1;
    ort.env.logLevel = "error";
    const options: ort.InferenceSession.SessionOptions = { executionProviders: ["wasm"], enableCpuMemArena: false };
    const session = await ort.InferenceSession.create(await embedded("model"), options);
    return new Engine(facts<Facts>("facts"), session, await embedded("seen"));
  }

  /** Read a file and predict it. Throws `Unreadable` with a reason. */
  async look(bytes: Uint8Array<ArrayBuffer>): Promise<Finding> {
    const { film, format } = await readFilm(bytes);
    try {
      return await this.predict(film, format);
    } catch (error) {
      if (error instanceof Unreadable) throw error;
      throw new Unreadable(`this browser could not compute it (${error instanceof Error ? error.message : "no reason"})`);
    }
  }

  private async predict(film: Film, format: Format): Promise<Finding> {
    const input = new ort.Tensor("uint8", film.pixels, [film.height, film.width]);
    const found = await this.session.run({ film: input });
    const square = (found.square.data as Uint8Array).slice();
    const finding: Finding = {
      film,
      logit: (found.logit.data as Float32Array)[0],
      oodScore: (found.ood_score.data as Float32Array)[0],
      flags: qualityFlags(film, square, format !== "DICOM"),
      map: (found.map.data as Float32Array).slice(),
      square,
      size: this.facts.image_size,
    };
    if (Number((found.unlike_training.data as Uint8Array)[0])) finding.flags.push("unlike_training");
    if (isKnown(this.seen, perceptualHash(square))) finding.flags.push("in_training");
    Object.values(found).forEach((tensor) => tensor.dispose());
    return finding;
  }

  /** Return the row of a finding, or of a reason why there is none. */
  row(id: string, finding: Finding | string, calibration: Calibration): Row {
    const { name: model, version, digest, site } = this.facts;
    const nothing = { probability: null, decision: null, threshold: null, decision_at_sens95: null };
    const made = { model, version, digest, site };
    const row: Row = { id, ...nothing, threshold_sens95: null, ood_score: null, flags: [], error: null, ...made };
    if (typeof finding === "string") return { ...row, error: finding };
    const p = probability(finding.logit, calibration);
    const { threshold, threshold_sens95 } = calibration;
    const decided = (threshold: number) => (p >= threshold ? "pneumonia" : "normal");
    return {
      ...row, threshold, threshold_sens95, probability: p, decision: decided(threshold),
      decision_at_sens95: decided(threshold_sens95), ood_score: finding.oodScore, flags: finding.flags,
    };
  }
}
