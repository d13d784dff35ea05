import { DeepSpeedError } from '../../errors.ts';
import { alignUp, type Shard } from '../../layout.ts';
import type { NativeBuffer, NativeEngine, Region, SwapPiece, Work } from '../../native/contract.ts';
import { elementBytes } from '../precision/wire.ts';
import { swapUnit } from './settings.ts';
import { type Tail, tailByte } from './swap-space.ts';

/** Values of a shard: the first in memory, the others behind them on disk. */
export interface Split {
  /** From element 0 of the shard; absent where none is in memory. */
  readonly head?: Region;
  readonly tail?: Tail;
}

export interface WalkOptions {
  engine: NativeEngine;
  groups: readonly Shard[];
  /** Sub-groups that have buffers at the same time. */
  slots: number;
  pipelineRead: boolean;
  pipelineWrite: boolean;
}

export interface Pass {
  /** What a visit reads, and what it changes. */
  reads: readonly Split[];
  writes: readonly Split[];
  /** Nothing is written when it counts values that are not finite. */
  norm?: { buffer: NativeBuffer; byteOffset: number };
  /** Enqueues the work on one sub-group; `at` says where its part of a tensor is. */
  visit(group: Shard, at: (tensor: Split) => Region, after: Work[]): Work;
  /** Works that visits wait for; reading does not. */
  after: Work[];
}

/**
 * Works through a shard sub-group by sub-group (ZeRO-Infinity, 2104.07857, section 5.2.2): what is on disk
 * is read before a visit and written after it. While sub-group k is visited on the compute queue, the io
 * queue writes k − 1 and reads k + 1, as far as the pipeline options and the buffers allow it.
 */
export class SubGroupWalk {
  readonly #options: WalkOptions;
  readonly #buffers = new Map<Tail, readonly NativeBuffer[]>();
  readonly #length: number;

  /** @param tensors all that a pass may read or write */
  constructor(options: WalkOptions, tensors: readonly Split[]) {
    this.#options = options;
    const { engine, groups, slots } = options;
    this.#length = alignUp(Math.max(0, ...groups.map(({ count }) => count)), swapUnit);
    for (const { tail } of tensors) {
      if (!tail || tail.count === 0) continue;
      const bytes = this.#length * elementBytes(tail.dtype);
      const buffers = Array.from({ length: Math.min(slots, groups.length) }, () =>
        engine.allocate(bytes, { category: 'io', name: 'sub-group buffer' }),
      );
      this.#buffers.set(tail, buffers);
    }
  }

  /** @returns the work after which all visits and all writes have ended */
  run({ reads, writes, norm, visit, after }: Pass): Work {
    const { engine, groups, slots, pipelineRead, pipelineWrite } = this.#options;
    const readWorks: (Work | undefined)[] = [];
    const visits: Work[] = [];
    const writeWorks: (Work | undefined)[] = [];
    for (const [index, group] of groups.entries()) {
      const ahead = pipelineRead ? Math.min(groups.length - 1, index + slots - 1) : index;
      for (let next = readWorks.length; next <= ahead; next += 1) {
        // Its buffers are free when the sub-group before it in them has been visited and written.
        const free = [visits[next - slots], writeWorks[next - slots]];
        const before = pipelineRead ? free : [...free, visits[index - 1]];
        readWorks.push(
          this.#eachFile(reads, next, known(before), (file, pieces, behind) =>
            engine.swapIn(file, pieces, behind),
          ),
        );
      }
      // The one before, too, so that what fails anywhere fails the last.
      const earlier = [visits[index - 1], writeWorks[index - (pipelineWrite ? slots : 1)]];
      const visited = visit(group, (tensor) => this.#at(tensor, index), [
        ...after,
        ...known([readWorks[index], ...earlier]),
      ]);
      visits.push(visited);
      writeWorks.push(
        this.#eachFile(
          writes,
          index,
          known([visited, writeWorks[index - 1]]),
          (file, pieces, behind) => engine.swapOut(file, pieces, norm, behind),
        ),
      );
    }
    return writeWorks.at(-1) ?? visits.at(-1)!;
  }

  /** One work for each file that has parts of the sub-group, one after the other; undefined for none. */
  #eachFile(
    tensors: readonly Split[],
    index: number,
    after: Work[],
    move: (file: Tail['file'], pieces: readonly SwapPiece[], after: Work[]) => Work,
  ): Work | undefined {
    let last: Work | undefined;
    for (const { file, pieces } of this.#pieces(tensors, index)) {
      last = move(file, pieces, last === undefined ? after : [last]);
    }
    return last;
  }

  /** The parts of tensors that a sub-group has on disk, by file. */
  #pieces(tensors: readonly Split[], index: number): FilePieces[] {
    const { offset, count } = this.#options.groups[index]!;
    const files: { file: Tail['file']; pieces: SwapPiece[] }[] = [];
    for (const tensor of tensors) {
      const { tail } = tensor;
      if (!tail || !isInTail(tail, offset)) continue;
      const region = { ...this.#at(tensor, index), count: alignUp(count, swapUnit) };
      const piece = { fileOffset: tailByte(tail, offset), region };
      const known = files.find(({ file }) => file === tail.file);
      if (known) known.pieces.push(piece);
      else files.push({ file: tail.file, pieces: [piece] });
    }
    return files;
  }

  #at({ head, tail }: Split, index: number): Region {
    const { groups } = this.#options;
    const { offset, count } = groups[index]!;
    if (tail && isInTail(tail, offset)) {
      const buffers = this.#buffers.get(tail)!;
      const buffer = buffers[index % buffers.length]!;
      return { buffer, byteOffset: 0, count, dtype: tail.dtype };
    }
    if (!head)
      throw new DeepSpeedError(
        'INTERNAL',
        'internal: a sub-group is neither in memory nor on disk',
      );
    const byteOffset = head.byteOffset + offset * elementBytes(head.dtype);
    return { ...head, byteOffset, count };
  }
}

interface FilePieces {
  readonly file: Tail['file'];
  readonly pieces: readonly SwapPiece[];
}

function known(works: readonly (Work | undefined)[]): Work[] {
  return works.filter((work) => work !== undefined);
}

function isInTail(tail: Tail, offset: number): boolean {
  return tail.count > 0 && offset >= tail.first;
}
