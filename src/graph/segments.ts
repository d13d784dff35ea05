/**
 * Cutting a training graph into pieces that run one after the other. What depends on no parameter is
 * split off as the prologue. The rest is cut where its nodes say (`metadata.segment`), or, in a model
 * from elsewhere, where few activations are alive and the structure repeats: at the layers.
 */
import { canonicalize, graphKey, type Role } from './canonical.ts';
import type { Graph, Node } from './ir.ts';
import type { TypedGraph } from './passes/rewrite.ts';
import { readsOf, valuesReachableFrom, writesOf } from './topology.ts';

export interface Piece {
  name: string;
  /** In the graph's order. */
  nodes: Node[];
}

export interface Division {
  /** Nodes that depend on no parameter: masks, position ids, rotary tables. */
  prologue: Node[];
  /** In execution order: a piece reads only the prologue and pieces before it. */
  pieces: Piece[];
}

/**
 * Divides a sorted graph whose parameters are inputs. `loss` is the output that training follows: other
 * outputs do not keep a value alive when cuts are searched.
 */
export function divide(typed: TypedGraph, parameters: ReadonlySet<string>, loss: string): Division {
  const dependent = valuesReachableFrom(typed.graph, parameters);
  const isDependent = (node: Node) => writesOf(node).some((output) => dependent.has(output));
  const nodes = typed.graph.nodes.filter(isDependent);
  const prologue = typed.graph.nodes.filter((node) => !isDependent(node));
  const labelled = nodes.some((node) => node.metadata?.segment !== undefined);
  const pieces = labelled ? byLabel(nodes) : byStructure(typed, nodes, parameters, loss);
  return { prologue, pieces };
}

/** Pieces in the order in which their labels appear; a node without one follows its inputs. */
function byLabel(nodes: readonly Node[]): Piece[] {
  const names = [...new Set(nodes.flatMap((node) => node.metadata?.segment ?? []))];
  const pieceOf = new Map<string, number>();
  const pieces: Piece[] = names.map((name) => ({ name, nodes: [] }));
  for (const node of nodes) {
    const label = node.metadata?.segment;
    const own = label === undefined ? 0 : names.indexOf(label);
    // Never before a piece that it reads from, whatever its label says.
    const index = Math.max(own, ...readsOf(node).map((input) => pieceOf.get(input) ?? 0));
    for (const output of writesOf(node)) pieceOf.set(output, index);
    pieces[index]!.nodes.push(node);
  }
  return pieces.filter((piece) => piece.nodes.length > 0);
}

function byStructure(
  typed: TypedGraph,
  nodes: readonly Node[],
  parameters: ReadonlySet<string>,
  loss: string,
): Piece[] {
  const steps = narrowSteps(nodes, loss);
  const repeat = longestRepeat(
    steps.map((step) => structureKey(typed, step, parameters)),
    steps.map((step) => step.length),
  );
  if (repeat === undefined) return [{ name: 'model', nodes: [...nodes] }];
  const { start, period, count } = repeat;
  const join = (from: number, to: number) => steps.slice(from, to).flat();
  const pieces: Piece[] = [{ name: 'embed', nodes: join(0, start) }];
  for (let i = 0; i < count; i++) {
    const at = start + i * period;
    pieces.push({ name: `layer.${i}`, nodes: join(at, at + period) });
  }
  pieces.push({ name: 'head', nodes: join(start + count * period, steps.length) });
  return pieces.filter((piece) => piece.nodes.length > 0);
}

/**
 * Cuts at every position where the fewest activations are alive: in a transformer the residual stream
 * alone (with an encoder's output beside it, two).
 */
function narrowSteps(nodes: readonly Node[], loss: string): Node[][] {
  const lastUse = new Map<string, number>();
  nodes.forEach((node, i) => {
    for (const output of writesOf(node)) lastUse.set(output, output === loss ? nodes.length : -1);
    for (const input of readsOf(node)) {
      if (lastUse.has(input)) lastUse.set(input, Math.max(lastUse.get(input)!, i));
    }
  });
  let alive = 0;
  const ending = new Map<number, number>();
  const width = nodes.map((node, i) => {
    for (const output of writesOf(node)) {
      const end = lastUse.get(output)!;
      if (end <= i) continue;
      alive += 1;
      ending.set(end, (ending.get(end) ?? 0) + 1);
    }
    alive -= ending.get(i) ?? 0;
    return alive;
  });
  const narrowest = Math.min(...width.slice(0, -1));
  const steps: Node[][] = [[]];
  nodes.forEach((node, i) => {
    steps.at(-1)!.push(node);
    if (width[i] === narrowest && i < nodes.length - 1) steps.push([]);
  });
  return steps;
}

/** Equal for steps with the same operators, attributes and shapes. */
function structureKey(typed: TypedGraph, nodes: Node[], parameters: ReadonlySet<string>): string {
  const { graph, types } = typed;
  const roleOf = (value: string): Role => {
    if (parameters.has(value)) return 'parameter';
    return graph.initializers.has(value) ? 'constant' : 'activation';
  };
  return graphKey(canonicalize(nodes, [], roleOf, types, graph.initializers).graph);
}

interface Repeat {
  /** Index of the first step, steps in one round, number of rounds (at least 2). */
  start: number;
  period: number;
  count: number;
}

/** The consecutive repetition that covers most nodes; the shortest period of those, then the first. */
export function longestRepeat(
  keys: readonly string[],
  weights: readonly number[],
): Repeat | undefined {
  let best: Repeat | undefined;
  let bestWeight = 0;
  for (let period = 1; period <= keys.length / 2; period++) {
    let matched = 0;
    for (let i = keys.length - period - 1; i >= -1; i--) {
      if (i >= 0 && keys[i] === keys[i + period]) {
        matched += 1;
        continue;
      }
      const count = Math.floor(matched / period) + 1;
      const start = i + 1;
      matched = 0;
      if (count < 2) continue;
      const covered = weights.slice(start, start + count * period);
      const weight = covered.reduce((a, b) => a + b, 0);
      const better = weight > bestWeight || (weight === bestWeight && period === best?.period);
      if (better) {
        best = { start, period, count };
        bestWeight = weight;
      }
    }
  }
  return best;
}

/** Values that a piece computes and someone else reads, in the order they are computed. */
export function valuesLeaving(
  piece: Piece,
  others: readonly Piece[],
  graphOutputs: ReadonlySet<string>,
): string[] {
  const readElsewhere = new Set(
    others.filter((other) => other !== piece).flatMap((other) => other.nodes.flatMap(readsOf)),
  );
  return piece.nodes
    .flatMap(writesOf)
    .filter((value) => readElsewhere.has(value) || graphOutputs.has(value));
}

/** The graph's output names. */
export function outputNames(graph: Graph): Set<string> {
  return new Set(graph.outputs.map((output) => output.name));
}
