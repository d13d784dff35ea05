/** The strokes that layouts are drawn with, on one head's bitmap. Ranges are [start, end) in blocks. */
import { philox4x32 } from '../../philox.ts';

export class Canvas {
  readonly blocks: number;
  readonly bitmap: Uint8Array;

  constructor(blocks: number) {
    this.blocks = blocks;
    this.bitmap = new Uint8Array(blocks * blocks);
  }

  /** What lies outside the sequence is cut off. */
  fill(rows: readonly [number, number], columns: readonly [number, number]): void {
    const clip = (value: number) => Math.min(Math.max(value, 0), this.blocks);
    const [left, right] = [clip(columns[0]), clip(columns[1])];
    for (let row = clip(rows[0]); row < clip(rows[1]); row++) {
      this.bitmap.fill(1, row * this.blocks + left, row * this.blocks + right);
    }
  }

  /** Windows that do not overlap, of these sizes; the last size repeats. Each attends within itself. */
  windows(sizes: readonly number[]): void {
    let start = 0;
    for (let i = 0; start < this.blocks; i++) {
      const end = start + sizes[Math.min(i, sizes.length - 1)]!;
      this.fill([start, end], [start, end]);
      start = end;
    }
  }

  /** Every row attends to `reach` blocks on both sides and itself. */
  band(reach: number): void {
    for (let row = 0; row < this.blocks; row++)
      this.fill([row, row + 1], [row - reach, row + reach + 1]);
  }

  /** All rows attend to these columns. */
  columns(range: readonly [number, number]): void {
    this.fill([0, this.blocks], range);
  }

  /** These rows attend to all columns. */
  rows(range: readonly [number, number]): void {
    this.fill(range, [0, this.blocks]);
  }

  /**
   * `count` different columns of each row, each choice equally likely (Floyd's sampling, CACM 30(9), 1987);
   * of the columns up to the row's own for `upToDiagonal`, all of them where there are fewer. A function
   * of (seed, head, row) alone.
   */
  random(count: number, seed: number, head: number, upToDiagonal: boolean): void {
    const bits = new Uint32Array(4);
    for (let row = 0; row < this.blocks; row++) {
      const columns = upToDiagonal ? row + 1 : this.blocks;
      const chosen = new Set<number>();
      for (let last = Math.max(0, columns - count); last < columns; last++) {
        philox4x32(seed >>> 0, Math.floor(seed / 2 ** 32), [last, row, head, 0], bits);
        const column = Math.floor((bits[0]! / 2 ** 32) * (last + 1));
        chosen.add(chosen.has(column) ? last : column);
      }
      for (const column of chosen) this.fill([row, row + 1], [column, column + 1]);
    }
  }

  /** Removes what lies above the diagonal. */
  lowerTriangle(): void {
    for (let row = 0; row < this.blocks; row++)
      this.bitmap.fill(0, row * this.blocks + row + 1, (row + 1) * this.blocks);
  }
}
