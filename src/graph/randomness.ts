/**
 * Dropout across segments. Layers can only share a program when their nodes are equal, so streams are
 * numbered within a segment, and what tells layers apart is an input: each segment has its own `rng`,
 * the batch's with the segment's number added to the high word of the seed.
 */
import { attribute } from './attributes.ts';
import type { Emitter } from './emitter.ts';
import type { Node } from './ir.ts';
import { operatorKey } from './operator-key.ts';
import type { Division, Piece } from './segments.ts';

const isDropout = (node: Node) => operatorKey(node) === 'deepspeed.Dropout';

/** The division with dropout numbered per segment; the prologue computes `rng.<segment>`. */
export function separateRandomness(division: Division, emit: Emitter): Division {
  const prologue = [...division.prologue];
  const pieces = division.pieces.map((piece, index): Piece => {
    const source = piece.nodes.find(isDropout)?.inputs[1];
    if (source === undefined) return piece;
    const length = emit.shape(source)[0]!;
    const offset = emit.constant('int64', [length], segmentOffset(index, length));
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
      if (!isDropout(node)) return node;
      const attributes = { ...node.attributes, stream: attribute('stream', stream++) };
      return { ...node, inputs: [node.inputs[0]!, own, node.inputs[2]!], attributes };
    });
    return { ...piece, nodes };
  });
  return { prologue, pieces };
}

/** Added to rng [seed, step, sample...]: seeds below 2³² never meet another segment's. */
function segmentOffset(index: number, length: number): number[] {
  return [index * 2 ** 32, ...new Array(length - 1).fill(0)];
}

/** The graph as evaluation runs it: dropout passes its input on. */
export function withoutDropout(nodes: readonly Node[]): Node[] {
  return nodes.map((node) =>
    isDropout(node) || (operatorKey(node) === 'Dropout' && node.outputs.length === 1)
      ? {
          ...node,
          opType: 'Identity',
          domain: '',
          inputs: [node.inputs[0]!],
          attributes: {},
        }
      : node,
  );
}
