/** Layer and root-mean-square normalisation over the last axis. */
import { floatAttribute, intAttribute } from '../../attributes.ts';
import { positiveAxis, sameShape } from '../../emitter.ts';
import type { Node } from '../../ir.ts';
import { operatorKey } from '../../operator-key.ts';
import type { Fusion, GraphView, Replacement } from './pattern.ts';

interface Norm {
  x: string;
  gamma: string;
  beta?: string | undefined;
  epsilon: number;
}

function layerNorm(view: GraphView, { x, gamma, beta, epsilon }: Norm): Replacement | undefined {
  if (!fits(view, x, gamma) || (beta !== undefined && !fits(view, x, beta))) return undefined;
  const { dtype, shape } = view.type(x);
  const rows = { dtype, shape: shape.slice(0, -1) };
  const inputs = [x, gamma, beta];
  return () => {
    const outputs = [{ dtype, shape }, rows, rows];
    return view.emit
      .node('LayerNormalization', inputs, outputs, { epsilon }, 'deepspeed')
      .slice(0, 1);
  };
}

function rmsNorm(view: GraphView, { x, gamma, epsilon }: Norm): Replacement | undefined {
  if (!fits(view, x, gamma)) return undefined;
  const { dtype, shape } = view.type(x);
  const outputs = [
    { dtype, shape },
    { dtype, shape: shape.slice(0, -1) },
  ];
  return () =>
    view.emit.node('RMSNormalization', [x, gamma], outputs, { epsilon }, 'deepspeed').slice(0, 1);
}

/** The kernels take a vector of the last axis. */
function fits(view: GraphView, x: string, vector: string): boolean {
  const width = view.shape(x).at(-1);
  return width !== undefined && sameShape(view.shape(vector), [width]);
}

/** A node's operands if it normalises the last axis and only its first output is read. */
function lastAxisOnly(node: Node, view: GraphView, live: ReadonlySet<string>): boolean {
  const rank = view.shape(node.inputs[0]!).length;
  const axis = positiveAxis(intAttribute(node, 'axis', -1), rank);
  return axis === rank - 1 && node.outputs.slice(1).every((output) => !live.has(output));
}

export const onnxLayerNorm: Fusion = {
  name: 'LayerNormalization → deepspeed.LayerNormalization',
  match(node, view, live) {
    if (operatorKey(node) !== 'LayerNormalization') return undefined;
    if (!lastAxisOnly(node, view, live)) return undefined;
    const [x, gamma, beta] = node.inputs as [string, string, string | undefined];
    const epsilon = floatAttribute(node, 'epsilon', 1e-5);
    return layerNorm(view, { x, gamma, beta: beta || undefined, epsilon });
  },
};

export const onnxRmsNorm: Fusion = {
  name: 'RMSNormalization → deepspeed.RMSNormalization',
  match(node, view, live) {
    const operators = ['RMSNormalization', 'SimplifiedLayerNormalization'];
    if (!operators.includes(operatorKey(node))) return undefined;
    if (!lastAxisOnly(node, view, live)) return undefined;
    const [x, gamma] = node.inputs as [string, string];
    return rmsNorm(view, { x, gamma, epsilon: floatAttribute(node, 'epsilon', 1e-5) });
  },
};

/** (x − mean)/√(mean((x − mean)²) + ε)·γ + β in single operators, as PyTorch's exporter writes it. */
export const decomposedLayerNorm: Fusion = {
  name: 'decomposed layer normalisation → deepspeed.LayerNormalization',
  match(node, view) {
    if (operatorKey(node) === 'Add') {
      for (const [scaled, beta] of view.orders(node)) {
        const norm = scaledNorm(view, view.from(scaled, 'Mul'), deviationOf);
        if (norm !== undefined) return layerNorm(view, { ...norm, beta });
      }
    }
    const norm = scaledNorm(view, operatorKey(node) === 'Mul' ? node : undefined, deviationOf);
    return norm && layerNorm(view, norm);
  },
};

/** x/√(mean(x²) + ε)·γ. */
export const decomposedRmsNorm: Fusion = {
  name: 'decomposed RMS normalisation → deepspeed.RMSNormalization',
  match(node, view) {
    if (operatorKey(node) !== 'Mul') return undefined;
    const norm = scaledNorm(view, node, (_, value) => value);
    return norm && rmsNorm(view, norm);
  },
};

/** Mul(normalised, γ), where what is normalised is `sourceOf` the value that is squared. */
function scaledNorm(
  view: GraphView,
  node: Node | undefined,
  sourceOf: (view: GraphView, deviation: string) => string | undefined,
): Norm | undefined {
  if (node === undefined) return undefined;
  for (const [normalised, gamma] of view.orders(node)) {
    const found = dividedByRoot(view, normalised);
    const x = found && sourceOf(view, found.value);
    if (found !== undefined && x !== undefined) return { x, gamma, epsilon: found.epsilon };
  }
  return undefined;
}

/** x of x − mean(x) over the last axis. */
function deviationOf(view: GraphView, deviation: string): string | undefined {
  const difference = view.from(deviation, 'Sub');
  const [x, mean] = difference?.inputs ?? [];
  const reduced = view.from(mean, 'ReduceMean');
  if (reduced === undefined || reduced.inputs[0] !== x) return undefined;
  return view.reducesLastAxis(reduced) ? x : undefined;
}

/** `value` of value/√(mean(value²) + ε), also written with a reciprocal or a power of −1/2. */
function dividedByRoot(
  view: GraphView,
  normalised: string,
): { value: string; epsilon: number } | undefined {
  const division = view.from(normalised, 'Div');
  if (division !== undefined) return rootOf(view, division.inputs[0]!, division.inputs[1]!);
  const product = view.from(normalised, 'Mul');
  for (const [value, inverse] of product ? view.orders(product) : []) {
    const found = rootOf(view, value, inverseOf(view, inverse));
    if (found !== undefined) return found;
  }
  return undefined;
}

/** r of 1/r. */
function inverseOf(view: GraphView, value: string): string | undefined {
  const reciprocal = view.from(value, 'Reciprocal');
  if (reciprocal !== undefined) return reciprocal.inputs[0];
  const division = view.from(value, 'Div');
  if (division !== undefined && view.scalar(division.inputs[0]) === 1) return division.inputs[1];
  const power = view.from(value, 'Pow');
  return power !== undefined && view.scalar(power.inputs[1]) === -0.5 ? value : undefined;
}

/** Is `root` √(mean(value²) + ε), or (mean(value²) + ε)^±½? */
function rootOf(
  view: GraphView,
  value: string,
  root: string | undefined,
): { value: string; epsilon: number } | undefined {
  const node = view.from(root, 'Sqrt', 'Pow');
  if (node === undefined) return undefined;
  if (node.opType === 'Pow' && Math.abs(view.scalar(node.inputs[1]) ?? 0) !== 0.5) return undefined;
  const shifted = view.withScalar(view.from(node.inputs[0], 'Add'));
  const mean = view.from(shifted?.other, 'ReduceMean');
  if (mean === undefined || !view.reducesLastAxis(mean)) return undefined;
  const square = view.from(mean.inputs[0], 'Pow', 'Mul');
  if (square?.inputs[0] !== value) return undefined;
  const isSquare =
    square.opType === 'Mul' ? square.inputs[1] === value : view.scalar(square.inputs[1]) === 2;
  return isSquare ? { value, epsilon: shifted!.number } : undefined;
}
