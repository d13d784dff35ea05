import { DeepSpeedError } from '../../errors.ts';
import type { NativeAddon, NativeCommunicator } from '../../native/index.ts';
import type { Batch } from './library.ts';

/** What ranks are about to do together. Everything must be equal on all of them but the value. */
export interface Intent {
  /** E.g. `step 12 of model_1`: for errors, and compared. */
  what: string;
  /** Rows of the batch. */
  rows: number;
  /** Of the batch's values, and of weights that the script replaced since the last step. */
  digest: number;
  /** A learning rate, or whatever else ranks may have their own opinion of: rank 0's holds. Default 0. */
  value?: number;
}

const fields = 4;

/**
 * Compares what ranks see before they add up anything: one small all-gather. Ranks that see other data, or
 * take steps in another order, stop here with the reason.
 */
export class Agreement {
  readonly #communicator: NativeCommunicator;
  readonly #addon: NativeAddon;

  constructor(communicator: NativeCommunicator, addon: NativeAddon) {
    this.#communicator = communicator;
    this.#addon = addon;
  }

  /** @returns rank 0's value */
  on(intent: Intent): number {
    const own = Float64Array.of(
      this.#addon.crc32c(Buffer.from(intent.what)),
      intent.rows,
      intent.digest,
      intent.value ?? 0,
    );
    const bytes = this.#communicator.allGather(new Uint8Array(own.buffer));
    const all = new Float64Array(bytes.slice().buffer);
    for (let rank = 1; rank < this.#communicator.size; rank += 1) {
      const theirs = all.subarray(rank * fields, (rank + 1) * fields);
      if (theirs[0] !== all[0]) this.#differ(rank, 'take other steps', intent);
      if (theirs[1] !== all[1]) {
        this.#differ(rank, `see batches of ${all[1]} and ${theirs[1]} rows`, intent);
      }
      if (theirs[2] !== all[2]) this.#differ(rank, 'see other data', intent);
    }
    return all[3]!;
  }

  /** Of a batch's shapes and values; equal batches have equal digests. */
  digest(batch: Batch, seed = 0): number {
    let digest = seed;
    for (const tensor of batch) {
      const shape = tensor ? `${tensor.dtype} ${tensor.shape}` : 'none';
      digest = this.#addon.crc32c(Buffer.from(shape), digest);
      if (tensor) digest = this.bytes(tensor.dataSync(), digest);
    }
    return digest;
  }

  bytes(values: ArrayBufferView, seed = 0): number {
    const { buffer, byteOffset, byteLength } = values;
    return this.#addon.crc32c(new Uint8Array(buffer as ArrayBuffer, byteOffset, byteLength), seed);
  }

  #differ(rank: number, how: string, { what }: Intent): never {
    throw new DeepSpeedError('RANKS_DIFFER', `at ${what}, ranks 0 and ${rank} ${how}`, {
      fix: 'Every rank runs the whole script and must see the same batches: seed what is random by Math.random, and take no data from the clock, the rank, standard input or a file that another rank writes.',
      data: { ranks: [0, rank], at: what },
    });
  }
}
