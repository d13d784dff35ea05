import { randomBytes } from 'node:crypto';
import { accessSync, constants, statSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { DeepSpeedError } from '../../errors.ts';
import { alignUp } from '../../layout.ts';
import type { FloatType, NativeAddon, SwapFile, SwapOptions } from '../../native/contract.ts';
import { agree, type Peers } from '../agree.ts';
import { elementBytes } from '../precision/wire.ts';
import { swapUnit } from './settings.ts';

/** The elements of a shard behind those that are in memory. */
export interface Tail {
  readonly file: SwapFile;
  readonly dtype: FloatType;
  /** Of the shard: where the tail begins, a multiple of `swapUnit`, and how many elements it has. */
  readonly first: number;
  readonly count: number;
  readonly byteOffset: number;
}

/** The byte of its file where element `index` of the shard is. */
export function tailByte(tail: Tail, index: number): number {
  return tail.byteOffset + (index - tail.first) * elementBytes(tail.dtype);
}

export interface SwapSpaceOptions {
  addon: NativeAddon;
  /** The config key that names the folder. */
  key: string;
  folder: string;
  rank: number;
  aio: SwapOptions;
}

/**
 * One swap file of a rank, and what lies where in it. Tails are reserved first; `open` then takes all the
 * space at once, so that a disk that is too small ends the run before its first step.
 */
export class SwapSpace {
  readonly #options: SwapSpaceOptions;
  #bytes = 0;
  #file: SwapFile | undefined;

  constructor(options: SwapSpaceOptions) {
    this.#options = options;
  }

  /** Place for elements [first, first + count) of the shard, zeros at first; usable once open. */
  reserve(dtype: FloatType, first: number, count: number): Tail {
    const space = this;
    const byteOffset = this.#bytes;
    this.#bytes += alignUp(count, swapUnit) * elementBytes(dtype);
    return {
      dtype,
      first,
      count,
      byteOffset,
      get file() {
        return space.#opened();
      },
    };
  }

  /**
   * Creates the file. Every rank must call it.
   *
   * @throws OFFLOAD_PATH or OFFLOAD_NO_SPACE on every rank, naming the key
   */
  async open(peers: Peers): Promise<void> {
    const { addon, key, rank, aio } = this.#options;
    const files = await agree(peers, async () => {
      const folder = this.#folder();
      // Everything may fit into what memory keeps.
      if (this.#bytes === 0) return { direct: true };
      const name = `deepspeed-js-${randomBytes(6).toString('hex')}-rank${rank}.swap`;
      try {
        this.#file = addon.createSwapFile(join(folder, name), this.#bytes, aio);
      } catch (cause) {
        throw this.#failure(cause as Error & { code?: string });
      }
      return { direct: this.#file.direct };
    });
    if (rank > 0 || files.every(({ direct }) => direct)) return;
    process.emitWarning(
      `${key} ${this.#folder()} is on a file system without direct I/O: the page cache is in between`,
      { code: 'DEEPSPEED_JS_BUFFERED_IO' },
    );
  }

  dispose(): void {
    this.#file?.dispose();
  }

  #opened(): SwapFile {
    if (this.#file) return this.#file;
    throw new DeepSpeedError('INTERNAL', 'internal: a swap file is used before setup');
  }

  #folder(): string {
    const { key } = this.#options;
    const folder = resolve(this.#options.folder);
    const wrong = (message: string) =>
      new DeepSpeedError('OFFLOAD_PATH', `${key}: ${message}`, { data: { key, path: folder } });
    const found = statSync(folder, { throwIfNoEntry: false });
    if (!found) throw wrong(`there is no folder ${folder}`);
    if (!found.isDirectory()) throw wrong(`${folder} is not a folder`);
    try {
      accessSync(folder, constants.W_OK | constants.X_OK);
    } catch {
      throw wrong(`${folder} cannot be written to`);
    }
    return folder;
  }

  #failure(cause: Error & { code?: string }): DeepSpeedError {
    const { key } = this.#options;
    const code = cause.code === 'IO_NO_SPACE' ? 'OFFLOAD_NO_SPACE' : 'OFFLOAD_PATH';
    return new DeepSpeedError(code, `${key}: ${cause.message}`, { cause, data: { key } });
  }
}
