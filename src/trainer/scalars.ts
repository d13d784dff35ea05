import type { NativeBuffer } from '../native/index.ts';
import type { Runtime } from '../runtime.ts';

const capacity = 32;

/** Sums a few numbers over ranks on the comm queue, so that the JavaScript thread stays free. */
export class ScalarSum {
  readonly #runtime: Runtime;
  readonly #buffer: NativeBuffer | undefined;

  constructor(runtime: Runtime) {
    this.#runtime = runtime;
    if (runtime.worldSize === 1) return;
    this.#buffer = runtime.engine.allocate(capacity * 8, {
      category: 'communication',
      shared: true,
      name: 'scalars',
    });
  }

  /** float64 sums in rank order; at most 32 values. Every rank must call it. */
  async sum(values: readonly number[]): Promise<number[]> {
    if (!this.#buffer) return [...values];
    const view = new Float64Array(this.#buffer.view(), 0, values.length);
    view.set(values);
    const { engine } = this.#runtime;
    const region = {
      buffer: this.#buffer,
      byteOffset: 0,
      count: values.length,
      dtype: 'float64',
    } as const;
    await engine.wait(engine.allReduce(region, 'sum'));
    return Array.from(view);
  }
}
