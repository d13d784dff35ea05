import type { Location, ParameterOwner } from '../hooks/index.ts';
import type { FlatLayout } from '../layout.ts';
import type { NativeBuffer, NativeEngine, Work } from '../native/contract.ts';

const bytesPerElement = 4;

/** All trainable parameters on every rank, in one fp32 buffer by the layout. */
export class WholeParameters implements ParameterOwner {
  readonly gathers = false;
  readonly #engine: NativeEngine;
  readonly #layout: FlatLayout;
  readonly #buffer: NativeBuffer;
  readonly #shared: boolean;

  constructor(engine: NativeEngine, layout: FlatLayout, buffer: NativeBuffer, worldSize: number) {
    this.#engine = engine;
    this.#layout = layout;
    this.#buffer = buffer;
    this.#shared = worldSize > 1;
  }

  location(parameter: string): Location {
    const { offset } = this.#layout.byName.get(parameter)!;
    return { buffer: this.#buffer, byteOffset: offset * bytesPerElement };
  }

  ready(): Work[] {
    return [];
  }

  write(parameter: string, read: (start: number, count: number) => Float32Array): void {
    const values = this.read(parameter);
    values.set(read(0, values.length));
  }

  /** Every rank computed the same values, or read the same files; rank 0's are made the truth. */
  share(): Work | null {
    if (!this.#shared) return null;
    const count = this.#layout.total;
    const whole = { buffer: this.#buffer, byteOffset: 0, count, dtype: 'float32' } as const;
    return this.#engine.broadcast(whole, 0);
  }

  read(parameter: string): Float32Array {
    const { offset, count } = this.#layout.byName.get(parameter)!;
    return new Float32Array(this.#buffer.view(), offset * bytesPerElement, count);
  }
}
