import type { NativeEngine, Region } from '../../native/contract.ts';
import type { MemoryCategory } from '../../native/index.ts';
import type { Shard } from '../../layout.ts';
import type { StrategyContext } from '../plugin.ts';
import { elementBytes } from '../precision/wire.ts';
import type { StorageType } from '../precision/precision.ts';
import type { HeldPart } from '../held.ts';
import { elementsKept, frozenKept, type OffloadSettings } from './settings.ts';
import { SwapSpace, type Tail } from './swap-space.ts';
import type { Split } from './walk.ts';

/** How a tensor is called, and what it is counted as. */
interface Kind {
  name: string;
  category: MemoryCategory;
}

/** Divides this rank's shard between memory and disk, as the settings say. */
export class Offload {
  readonly settings: OffloadSettings;
  readonly #engine: NativeEngine;
  readonly #count: number;
  readonly #optimizer: SwapSpace | null;
  readonly #parameters: SwapSpace | null;

  constructor(context: StrategyContext, settings: OffloadSettings) {
    this.settings = settings;
    this.#engine = context.engine;
    const { rank } = context.communicator;
    this.#count = context.layout.shards[rank]!.count;
    const { addon, lifecycle } = context;
    const spaces: SwapSpace[] = [];
    const space = (key: string, wanted: { path: string } | null) => {
      if (!wanted) return null;
      const folder = wanted.path;
      const made = new SwapSpace({ addon, key, folder, rank, aio: settings.aio });
      spaces.push(made);
      return made;
    };
    this.#optimizer = space('zero_optimization.offload_optimizer.nvme_path', settings.optimizer);
    this.#parameters = space('zero_optimization.offload_param.nvme_path', settings.parameters);
    lifecycle.tap('setup', 'acquire', 'offload.reserve', async () => {
      for (const one of spaces) await one.open(context);
    });
    const free = async () => {
      for (const one of spaces) one.dispose();
    };
    lifecycle.tap('shutdown', 'release', 'offload.free', free);
    lifecycle.tap('failed', 'release', 'offload.free', free);
  }

  /** The fp32 weights, which parameters are gathered from, or rounded from into those that are. */
  weights(storage: StorageType): { master: Split; copy16?: Split } {
    if (storage === 'float32') {
      return { master: this.#ofParameters(storage, 'parameter shard') };
    }
    return {
      master: this.#ofOptimizer({ category: 'master', name: 'parameter shard' }),
      copy16: this.#ofParameters(storage, `${storage} parameter shard`),
    };
  }

  /** Of the optimizer, fp32, zero. */
  states(count: number): Split[] {
    return Array.from({ length: count }, (_, index) =>
      this.#ofOptimizer({ category: 'optimizer', name: `optimizer state ${index + 1}` }),
    );
  }

  /** Room for the shard's gradient, where the optimizer's states go to disk; null where they do not. */
  gradient(): Tail | null {
    if (!this.#optimizer || this.settings.optimizer!.ratio === 0) return null;
    return this.#optimizer.reserve('float32', 0, this.#count);
  }

  /**
   * What training does not change, fp32: it has what the trained parameters leave of `max_in_cpu`.
   *
   * @param elements of this rank's shard
   */
  frozen(elements: number): Split {
    const kind = { name: 'frozen parameter shard', category: 'parameters' } as const;
    return this.#split(
      'float32',
      kind,
      this.#parameters,
      elements,
      frozenKept(this.settings, this.#count),
    );
  }

  #ofOptimizer(kind: Kind): Split {
    const ratio = this.settings.optimizer?.ratio ?? 0;
    const kept = this.#count - Math.round(ratio * this.#count);
    return this.#split('float32', kind, this.#optimizer, this.#count, kept);
  }

  #ofParameters(dtype: StorageType, name: string): Split {
    const kept = this.settings.parameters?.maxInMemory ?? this.#count;
    const kind = { name, category: 'parameters' } as const;
    return this.#split(dtype, kind, this.#parameters, this.#count, kept);
  }

  #split(
    dtype: StorageType,
    { name, category }: Kind,
    space: SwapSpace | null,
    elements: number,
    wanted: number,
  ): Split {
    const first = space ? elementsKept(elements, wanted) : elements;
    const count = elements - first;
    return {
      ...(first > 0 && { head: this.#allocate(dtype, first, { name, category }) }),
      ...(count > 0 && { tail: space!.reserve(dtype, first, count) }),
    };
  }

  #allocate(dtype: StorageType, count: number, { name, category }: Kind): Region {
    const buffer = this.#engine.allocate(count * elementBytes(dtype), { category, name });
    return { buffer, byteOffset: 0, count, dtype };
  }
}

/** Where a shard's fp32 values are, for checkpoints. */
export function heldSplit({ head, tail }: Split, shard: Shard): HeldPart[] {
  const parts: HeldPart[] = [];
  if (head) {
    const { buffer, byteOffset, count } = head;
    parts.push({
      range: { offset: shard.offset, count },
      place: { buffer, byteOffset, bytes: count * 4 },
    });
  }
  if (tail) {
    const { file, byteOffset, first, count } = tail;
    parts.push({
      range: { offset: shard.offset + first, count },
      place: { file, byteOffset, bytes: count * 4 },
    });
  }
  return parts;
}
