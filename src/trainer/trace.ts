import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { makeFolder } from '../folders.ts';
import { writable } from '../models/index.ts';
import { renderPerfetto, renderTimeline } from '../monitor/index.ts';
import type { WorkRecord } from '../native/index.ts';
import { gatherJson } from '../strategies/agree.ts';
import type { Training } from './setup.ts';
import type { WorkRecords } from './work-records.ts';

/**
 * Records the first `traceSteps` steps of a run on every rank; rank 0 then writes `trace.json` for
 * ui.perfetto.dev and `timeline.svg`.
 */
export class StepTrace {
  readonly #training: Training;
  readonly #source: WorkRecords;
  readonly #records: WorkRecord[] = [];
  #stop: (() => void) | undefined;
  #left: number;
  #traced = 0;

  constructor(training: Training, source: WorkRecords) {
    this.#training = training;
    this.#source = source;
    this.#left = training.args.traceSteps;
    if (this.#left === 0) return;
    this.#stop = source.follow((records) => {
      for (const record of records) this.#records.push(record);
    });
  }

  /** Call after every step. @returns the files, once, when the last traced step has ended */
  async afterStep(): Promise<string[]> {
    if (this.#left === 0) return [];
    this.#left -= 1;
    this.#traced += 1;
    return this.#left > 0 ? [] : this.#write();
  }

  /** A run that ends before `traceSteps` steps leaves what there is. */
  async finish(): Promise<string[]> {
    if (this.#left === 0 || this.#traced === 0) return [];
    this.#left = 0;
    return this.#write();
  }

  async #write(): Promise<string[]> {
    const { runtime, tracer, args } = this.#training;
    await runtime.engine.idle();
    this.#source.drain();
    this.#stop?.();
    const own = {
      rank: runtime.rank,
      records: this.#records.splice(0),
      spans: tracer?.take() ?? [],
    };
    const traces = await gatherJson(runtime, own);
    if (runtime.rank !== 0) return [];
    makeFolder(args.outputDir);
    const texts = {
      'trace.json': JSON.stringify(renderPerfetto(traces)),
      'timeline.svg': renderTimeline(traces, `First ${this.#traced} steps`),
    };
    const files = Object.entries(texts).map(([name, text]) => {
      const file = join(args.outputDir, name);
      return writable(file, async () => {
        await writeFile(file, text);
        return file;
      });
    });
    return Promise.all(files);
  }
}
