import type { FlatLayout } from '../../layout.ts';
import type { CompressorId, NativeEngine, Region, Work } from '../../native/contract.ts';
import type { BeingSaved } from '../being-saved.ts';
import type { LocalState } from '../local-state.ts';

const bytesPerElement = 4;

/** The mean over ranks of a vector by the flat layout, in one bit an element, and what it has left out so far. */
export class CompressedMean {
  readonly #engine: NativeEngine;
  readonly #worldSize: number;
  readonly #compressor: CompressorId;
  readonly #beingSaved: BeingSaved;
  /** What this rank has not sent yet, and what it has not passed on as a server; in the vector's unit. */
  readonly errors: readonly LocalState[];

  constructor(engine: NativeEngine, layout: FlatLayout, worldSize: number, beingSaved: BeingSaved) {
    this.#beingSaved = beingSaved;
    this.#engine = engine;
    this.#worldSize = worldSize;
    const compressor = engine.createCompressor(stretches(layout));
    this.#compressor = compressor.id;
    this.errors = [
      { name: 'worker error', count: layout.total },
      { name: 'server error', count: compressor.served },
    ].map(({ name, count }) => ({
      name,
      count,
      buffer: engine.allocate(Math.max(count, 1) * bytesPerElement, {
        category: 'optimizer',
        name: `compression: ${name}`,
      }),
    }));
  }

  /** `vector` becomes its compressed mean. One rank has nobody to tell. */
  exchange(vector: Region, after: Work): Work {
    if (this.#worldSize === 1) return after;
    const [worker, server] = this.#regions();
    const served = server!.count === 0 ? null : server!;
    const ready = [after, ...this.#beingSaved.local];
    return this.#engine.compressedAllReduce(this.#compressor, vector, worker!, served, ready);
  }

  /** For a vector that is `factor` times as large from now on. */
  rescale(factor: number): void {
    for (const error of this.#regions()) {
      if (error.count > 0) this.#engine.axpby(error, error, 0, factor, [...this.#beingSaved.local]);
    }
  }

  #regions(): Region[] {
    return this.errors.map(({ buffer, count }) => ({
      buffer,
      byteOffset: 0,
      count,
      dtype: 'float32',
    }));
  }
}

/** Elements of one scale on the wire (addon/compress/compressed_all_reduce.h). */
const blockLength = 1024;

/** Bytes of the errors on the rank that serves the most. */
export function errorBytes(layout: FlatLayout, worldSize: number): number {
  const starts = stretches(layout).reduce<{ blocks: number[]; end: number }>(
    ({ blocks, end }, length) => {
      for (let done = 0; done < length; done += blockLength) blocks.push(end + done);
      return { blocks, end: end + length };
    },
    { blocks: [], end: 0 },
  );
  // A rank serves the blocks that begin in its share.
  const bounds = Array.from(
    { length: worldSize + 1 },
    (_, rank) =>
      starts.blocks.find((block) => block >= Math.floor((layout.total * rank) / worldSize)) ??
      layout.total,
  );
  const served = bounds.slice(1).map((bound, rank) => bound - bounds[rank]!);
  return (layout.total + Math.max(1, ...served)) * bytesPerElement;
}

/** Lengths of the parameters and of the padding between them, which no block may mix. */
function stretches(layout: FlatLayout): number[] {
  const lengths: number[] = [];
  let end = 0;
  for (const { offset, count } of layout.slots) {
    lengths.push(offset - end, count);
    end = offset + count;
  }
  return [...lengths, layout.total - end].filter((length) => length > 0);
}
