/**
 * Dropout across segments. Layers can only share a program when their nodes are equal, so streams are
 * numbered within a segment, and what tells layers apart is an input: each segment has its own `rng`,
 * the batch's with the segment's number added to the high word of the seed.
 */
import { attribute, intAttribute, stringAttribute } from './attributes.ts';
import { attentionDims } from './attention-dims.ts';
import type { Emitter } from './emitter.ts';
import type { Node, ValueType } from './ir.ts';
import { operatorKey } from './operator-key.ts';
import { isTile } from './passes/tile-tables.ts';
import type { Division, Piece } from './segments.ts';

/** Operators with counter-based dropout → index of their input `rng`; `training` follows it. */
const randomInputs: Readonly<Record<string, number>> = {
  'deepspeed.Attention': 7,
  'deepspeed.AttentionGrad': 10,
  'deepspeed.Dropout': 1,
  'deepspeed.DropoutGrad': 1,
};

/** Index of the node's `rng`; undefined when it draws no numbers. */
export function rngIndex(node: Node): number | undefined {
  const index = randomInputs[operatorKey(node)];
  return index !== undefined && node.inputs[index] ? index : undefined;
}

/** Stream and shape of what a node drops elements of; undefined when it drops none. */
export function randomValueOf(
  node: Node,
  types: ReadonlyMap<string, ValueType>,
): { stream: number; shape: readonly number[] } | undefined {
  if (rngIndex(node) === undefined) return undefined;
  const stream = intAttribute(node, 'stream', 0);
  const shapeOf = (index: number) => types.get(node.inputs[index] ?? '')?.shape;
  if (node.opType.startsWith('Dropout')) return { stream, shape: shapeOf(0)! };
  const q = node.opType === 'Attention' ? 0 : 1;
  const heads = intAttribute(node, 'heads', 1);
  const layout = stringAttribute(node, 'layout', '');
  const kvHeads = intAttribute(node, 'kv_heads', heads);
  const dims = attentionDims(layout, heads, kvHeads, shapeOf(q)!, shapeOf(q + 1))!;
  return { stream, shape: [dims.batch, heads, dims.length, dims.keys] };
}

/** The division with dropout numbered per segment; the prologue computes `rng.<segment>`. */
export function separateRandomness(division: Division, emit: Emitter): Division {
  const prologue = [...division.prologue];
  let tiles = 0;
  const pieces = division.pieces.map((piece, index): Piece => {
    if (isTile(piece.name)) tiles += 1;
    const random = piece.nodes.find((node) => rngIndex(node) !== undefined);
    if (random === undefined) return piece;
    const source = random.inputs[rngIndex(random)!]!;
    const length = emit.shape(source)[0]!;
    // Tiles draw nothing, and others draw the same with and without them.
    const offset = emit.constant('int64', [length], segmentOffset(index - tiles, length));
    const own = `rng.${piece.name}`;
    emit.declare(own, { dtype: 'int64', shape: [length] });
    prologue.push({
      name: own,
      opType: 'Add',
      domain: '',
      inputs: [source, offset],
      outputs: [own],
      attributes: {},
    });
    let stream = 0;
    const nodes = piece.nodes.map((node): Node => {
      const rng = rngIndex(node);
      if (rng === undefined) return node;
      const attributes = { ...node.attributes, stream: attribute('stream', stream++) };
      return { ...node, inputs: node.inputs.with(rng, own), attributes };
    });
    return { ...piece, nodes };
  });
  return { prologue, pieces };
}

/** Added to rng [seed, step, sample...]: seeds below 2³² never meet another segment's. */
function segmentOffset(index: number, length: number): number[] {
  return [index * 2 ** 32, ...new Array(length - 1).fill(0)];
}

/** The graph as evaluation runs it: dropout passes its input on, attention drops nothing. */
export function withoutDropout(nodes: readonly Node[]): Node[] {
  return nodes.map((node) => {
    const key = operatorKey(node);
    if (key === 'deepspeed.Dropout' || (key === 'Dropout' && node.outputs.length === 1)) {
      const inputs = [node.inputs[0]!];
      return { ...node, opType: 'Identity', domain: '', inputs, attributes: {} };
    }
    const rng = rngIndex(node);
    if (rng === undefined) return node;
    const { ratio: _ratio, stream: _stream, ...attributes } = node.attributes;
    return { ...node, inputs: node.inputs.slice(0, rng), attributes };
  });
}
