/**
 * Large tables by tiles of rows: an embedding [V, D] that tokens are looked up in, and a head [V, D] whose
 * scores a cross-entropy reads, tied or not. Each tile is a parameter and a segment of its own, so that whoever
 * holds parameters elsewhere brings one tile at a time (memory-centric tiling, ZeRO-Infinity, 2104.07857,
 * section 5.1.3).
 *
 * Lookup: the tiles' rows are added up; a token has its row in one of them, and zeros from the others.
 * Loss: −log p(class) = −log p(tile) − log p(class | tile). A tile gives the second term, where it has the label, and
 * the log-sum-exp of its scores; the first is the cross-entropy over those of all tiles.
 */
import { floatAttribute, intAttribute } from '../attributes.ts';
import { Emitter } from '../emitter.ts';
import type { Graph, Node, ValueInfo } from '../ir.ts';
import { operatorKey } from '../operator-key.ts';
import { consumersOf, producersOf } from '../topology.ts';
import { replacement, type TypedGraph, withoutDeadNodes } from './rewrite.ts';

/** Rows [row, row + rows) of a table. */
export interface Tile {
  readonly name: string;
  readonly of: string;
  readonly row: number;
  readonly rows: number;
}

/** Names a segment that exists for tiles alone. */
function tileSegment(segment: string, part: number | 'sum'): string {
  return `${segment}/tile.${part}`;
}

export function isTile(segment: string): boolean {
  return /\/tile\.(\d+|sum)$/.test(segment);
}

/** How many rows of a parameter make a tile; null: it stays whole. */
export type TileRows = (name: string, shape: readonly number[]) => number | null;

export interface Tiled extends TypedGraph {
  /** By table. */
  tiles: ReadonlyMap<string, readonly Tile[]>;
}

/**
 * Tiles those of `parameters` that `rowsOf` wants tiled and that nothing reads but lookups and losses.
 * Graphs whose nodes name no segments stay as they are.
 */
export function tileTables(
  { graph, types }: TypedGraph,
  parameters: Iterable<string>,
  rowsOf: TileRows,
): Tiled {
  const uses = new Uses(graph);
  const tiles = new Map<string, readonly Tile[]>();
  for (const name of parameters) {
    const shape = types.get(name)?.shape ?? [];
    const rows = shape.length === 2 ? rowsOf(name, shape) : null;
    if (rows === null || rows >= shape[0]! || !uses.canTile(name)) continue;
    tiles.set(name, tilesOf(name, shape[0]!, Math.max(1, rows)));
  }
  if (tiles.size === 0) return { graph, types, tiles };
  const made = new Map(types);
  const inputs = graph.inputs.flatMap((input): ValueInfo[] => {
    const parts = tiles.get(input.name);
    if (!parts) return [input];
    const { dtype, shape } = types.get(input.name)!;
    return parts.map((tile) => {
      const part = { dtype, shape: [tile.rows, shape[1]!] };
      made.set(tile.name, part);
      return { name: tile.name, ...part };
    });
  });
  const emit = new Emitter(made, 'tiled/');
  const nodes = new TiledNodes(emit, uses, tiles).all(graph.nodes);
  const initializers = new Map([...graph.initializers, ...emit.constants]);
  return { graph: withoutDeadNodes({ ...graph, inputs, nodes, initializers }), types: made, tiles };
}

function tilesOf(of: string, total: number, rows: number): Tile[] {
  return Array.from({ length: Math.ceil(total / rows) }, (_, index) => {
    const row = index * rows;
    const count = Math.min(rows, total - row);
    return { name: `${of}[${row}:${row + count}]`, of, row, rows: count };
  });
}

/** Of the whole table. */
function totalRows(tiles: readonly Tile[]): number {
  const { row, rows } = tiles.at(-1)!;
  return row + rows;
}

/** A product of rows with a table whose scores go into one cross-entropy. */
interface Head {
  x: string;
  table: string;
  product: Node;
  loss: Node;
}

/** Who reads tables, and how. */
class Uses {
  readonly #readers: Map<string, Node[]>;
  readonly #headOf = new Map<Node, Head>();

  constructor(graph: Graph) {
    this.#readers = consumersOf(graph);
    const makers = producersOf(graph);
    for (const node of graph.nodes) {
      if (operatorKey(node) !== 'deepspeed.SoftmaxCrossEntropy' || this.#isRead(node.outputs[1]))
        continue;
      let product = makers.get(node.inputs[0]!);
      while (product && operatorKey(product) === 'Reshape') {
        product = makers.get(product.inputs[0]!);
      }
      if (!product || !isScores(product) || this.#headOf.has(product)) continue;
      const [x, table] = product.inputs as [string, string];
      const head = { x, table, product, loss: node };
      this.#headOf.set(product, head);
      this.#headOf.set(node, head);
    }
  }

  head(node: Node): Head | undefined {
    return this.#headOf.get(node);
  }

  canTile(table: string): boolean {
    const readers = this.#readers.get(table) ?? [];
    return readers.every(
      (node) =>
        node.metadata?.segment !== undefined &&
        (isLookup(node, table) || this.#headOf.get(node)?.table === table),
    );
  }

  #isRead(value: string | undefined): boolean {
    return value !== undefined && this.#readers.has(value);
  }
}

/** X · Wᵀ of a table W. */
function isScores(node: Node): boolean {
  return (
    operatorKey(node) === 'com.microsoft.FusedMatMul' &&
    intAttribute(node, 'transA', 0) === 0 &&
    intAttribute(node, 'transB', 0) === 1 &&
    intAttribute(node, 'transBatchA', 0) === 0 &&
    intAttribute(node, 'transBatchB', 0) === 0 &&
    floatAttribute(node, 'alpha', 1) === 1
  );
}

function isLookup(node: Node, table: string): boolean {
  const [from, indices] = node.inputs;
  const axis = intAttribute(node, 'axis', 0);
  return operatorKey(node) === 'Gather' && from === table && indices !== table && axis === 0;
}

/** The nodes that take the place of lookups, products and losses. */
class TiledNodes {
  readonly #emit: Emitter;
  readonly #uses: Uses;
  readonly #tiles: ReadonlyMap<string, readonly Tile[]>;
  /** Scores by tile, of the products met so far. */
  readonly #scores = new Map<Node, readonly string[]>();

  constructor(emit: Emitter, uses: Uses, tiles: ReadonlyMap<string, readonly Tile[]>) {
    this.#emit = emit;
    this.#uses = uses;
    this.#tiles = tiles;
  }

  all(nodes: readonly Node[]): Node[] {
    return nodes.flatMap((node) => {
      const lookedUp = this.#tiles.get(node.inputs[0]!);
      if (lookedUp && isLookup(node, node.inputs[0]!)) {
        return this.#replace(node, () => this.#rows(node, lookedUp));
      }
      const head = this.#uses.head(node);
      const tiles = head && this.#tiles.get(head.table);
      if (!tiles) return [node];
      if (node === head.loss) return this.#replace(node, () => this.#loss(head, tiles));
      return this.#replace(node, () => this.#logits(head, tiles));
    });
  }

  #replace(node: Node, make: () => string): Node[] {
    return replacement(node, this.#emit, () => [make()]);
  }

  /** Nodes emitted from now on are in a segment of their own, beside that of `node`. */
  #enter(node: Node, part: number | 'sum'): void {
    this.#emit.metadata = { segment: tileSegment(node.metadata!.segment!, part) };
  }

  #rows(node: Node, tiles: readonly Tile[]): string {
    const emit = this.#emit;
    const at = emit.shape(node.inputs[1]!);
    const indices = this.#fromFront(node.inputs[1]!, totalRows(tiles));
    let sum: string | undefined;
    for (const [index, tile] of tiles.entries()) {
      this.#enter(node, index);
      const inside = this.#inside(indices, tile);
      const relative = this.#relative(indices, tile, tiles, 0);
      const { dtype, shape } = emit.type(tile.name);
      const type = { dtype, shape: [...at, shape[1]!] };
      const found = emit.one('Gather', [tile.name, relative], type, { axis: 0 });
      const rows = emit.keepWhere(emit.reshape(inside, [...at, 1]), found);
      sum = sum === undefined ? rows : emit.add(sum, rows);
    }
    return sum!;
  }

  /** Evaluation may want the scores as a whole; training does not read them. */
  #logits({ x, product }: Head, tiles: readonly Tile[]): string {
    const emit = this.#emit;
    const scores = tiles.map((tile, index) => {
      this.#enter(product, index);
      return emit.product(x, tile.name, { transB: true });
    });
    this.#scores.set(product, scores);
    this.#enter(product, 'sum');
    return emit.concat(scores, emit.shape(x).length - 1);
  }

  #loss({ product, loss }: Head, tiles: readonly Tile[]): string {
    const emit = this.#emit;
    const labels = loss.inputs[1]!;
    const ignore_index = intAttribute(loss, 'ignore_index', -100);
    const shape = emit.shape(labels);
    const ignored = emit.compare('Equal', labels, this.#integer(ignore_index, labels));
    // What counts for nothing is one past the last class: no label of those classes, whatever `ignore_index` is.
    const crossEntropy = (scores: string, classes: number, of: string) => {
      const type = { dtype: emit.dtype(scores), shape };
      const inputs = [scores, emit.where(ignored, this.#integer(classes, labels), of)];
      const attributes = { ignore_index: classes };
      return emit.node('SoftmaxCrossEntropy', inputs, [type, type], attributes, 'deepspeed');
    };
    const parts = tiles.map((tile, index) => {
      this.#enter(product, index);
      const scores = emit.reshape(this.#scores.get(product)![index]!, [...shape, tile.rows]);
      return crossEntropy(scores, tile.rows, this.#relative(labels, tile, tiles, tile.rows));
    });
    this.#enter(product, 'sum');
    const columns = parts.map(([, lse]) => emit.reshape(lse!, [...shape, 1]));
    const tileOf = emit.div(labels, this.#integer(tiles[0]!.rows, labels));
    const [across] = crossEntropy(emit.concat(columns, shape.length), tiles.length, tileOf);
    return parts.reduce((sum, [within]) => emit.add(sum, within!), across!);
  }

  #integer(value: number, like: string): string {
    return this.#emit.constant(this.#emit.dtype(like), [], [value]);
  }

  /** bool: does an index fall into the tile? */
  #inside(indices: string, { row, rows }: Pick<Tile, 'row' | 'rows'>): string {
    const emit = this.#emit;
    const from = emit.compare('GreaterOrEqual', indices, this.#integer(row, indices));
    const to = emit.compare('Less', indices, this.#integer(row + rows, indices));
    return emit.one('And', [from, to], { dtype: 'bool', shape: emit.shape(indices) });
  }

  /**
   * Indices from the tile's first row on, `otherwise` where another tile has them. The first tile gets those that
   * none has as they are: who reads them there refuses them.
   */
  #relative(indices: string, tile: Tile, tiles: readonly Tile[], otherwise: number): string {
    const emit = this.#emit;
    const { row, rows } = tile;
    const other = this.#integer(otherwise, indices);
    if (row === 0) {
      const others = { row: rows, rows: totalRows(tiles) - rows };
      return emit.where(this.#inside(indices, others), other, indices);
    }
    const moved = emit.sub(indices, this.#integer(row, indices));
    return emit.where(this.#inside(indices, tile), moved, other);
  }

  /** Indices of a lookup may count from the end, −1 being the last row. */
  #fromFront(indices: string, rows: number): string {
    const emit = this.#emit;
    const moved = emit.add(indices, this.#integer(rows, indices));
    return emit.where(this.#inside(indices, { row: -rows, rows }), moved, indices);
  }
}
