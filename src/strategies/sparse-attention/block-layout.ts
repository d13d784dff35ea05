import { DeepSpeedError } from '../../errors.ts';

/**
 * Which blocks of attention a head computes. `rows[h]` is head h's bitmap, [blocks, blocks] row-major: 1
 * where the queries of block row r attend to the keys of block column c. Heads with equal layouts may
 * share one bitmap.
 */
export class BlockLayout {
  /** Query and key positions of a block. */
  readonly block: number;
  /** Block rows, and block columns. */
  readonly blocks: number;
  readonly heads: readonly Uint8Array[];

  /** @throws LAYOUT_INVALID for a bitmap of another size, and for a row that attends to nothing */
  constructor(block: number, blocks: number, heads: readonly Uint8Array[]) {
    this.block = block;
    this.blocks = blocks;
    this.heads = heads;
    for (const [head, bitmap] of heads.entries()) {
      if (bitmap.length !== blocks * blocks) {
        throw new DeepSpeedError(
          'LAYOUT_INVALID',
          `head ${head}: ${bitmap.length} blocks, where ${blocks} x ${blocks} are needed`,
        );
      }
    }
  }

  get sequenceLength(): number {
    return this.block * this.blocks;
  }

  /** Does the head compute the block of this row and column of blocks? */
  attends(head: number, row: number, column: number): boolean {
    return this.heads[head]![row * this.blocks + column] === 1;
  }

  /** What is left of it for sequences of fewer blocks. */
  cut(blocks: number): BlockLayout {
    const { bitmaps, indices } = this.distinct();
    const cut = bitmaps.map((bitmap) => {
      const corner = new Uint8Array(blocks * blocks);
      for (let row = 0; row < blocks; row++) {
        const start = row * this.blocks;
        corner.set(bitmap.subarray(start, start + blocks), row * blocks);
      }
      return corner;
    });
    return new BlockLayout(
      this.block,
      blocks,
      indices.map((index) => cut[index]!),
    );
  }

  /** Bitmaps that differ, and for each head the index of its own. */
  distinct(): { bitmaps: Uint8Array[]; indices: number[] } {
    const bitmaps: Uint8Array[] = [];
    const indices = this.heads.map((bitmap) => {
      const known = bitmaps.findIndex((other) => other === bitmap || equal(other, bitmap));
      return known >= 0 ? known : bitmaps.push(bitmap) - 1;
    });
    return { bitmaps, indices };
  }

  /** Blocks that are computed, over all heads; `causal`: of those not wholly above the diagonal. */
  count({ causal }: { causal: boolean }): number {
    let total = 0;
    for (const bitmap of this.heads) {
      for (let row = 0; row < this.blocks; row++) {
        const end = causal ? row + 1 : this.blocks;
        for (let column = 0; column < end; column++) total += bitmap[row * this.blocks + column]!;
      }
    }
    return total;
  }

  /**
   * @param causal keys behind the query are hidden besides
   * @throws LAYOUT_INVALID naming a row of blocks in which nothing is left to attend to
   */
  requireAttendingRows({ causal }: { causal: boolean }): void {
    for (const [head, bitmap] of this.heads.entries()) {
      for (let row = 0; row < this.blocks; row++) {
        const end = causal ? row + 1 : this.blocks;
        if (bitmap.subarray(row * this.blocks, row * this.blocks + end).includes(1)) continue;
        throw new DeepSpeedError(
          'LAYOUT_INVALID',
          `head ${head}: block row ${row} (positions ${row * this.block} to ${(row + 1) * this.block - 1}) attends to nothing`,
          { data: { head, row } },
        );
      }
    }
  }
}

function equal(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && a.every((value, i) => value === b[i]);
}
