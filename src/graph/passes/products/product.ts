/** Every matrix product as one operator, with what it takes besides its factors. */
import {
  attribute,
  floatAttribute,
  intAttribute,
  type PlainAttribute,
  stringAttribute,
} from '../../attributes.ts';
import { isFloat } from '../../emitter.ts';
import type { Node } from '../../ir.ts';
import { operatorKey } from '../../operator-key.ts';
import type { Workbench } from './workbench.ts';

/** Inputs of deepspeed.MatMul. */
export const port = { a: 0, b: 1, a2: 2, bias: 3, residual: 4, z: 5 } as const;

export const productKey = 'deepspeed.MatMul';

export function isProduct(node: Node | undefined): node is Node {
  return node !== undefined && operatorKey(node) === productKey;
}

export function has(node: Node, index: number): boolean {
  return Boolean(node.inputs[index]);
}

/** A copy with an input set. */
export function withInput(node: Node, index: number, value: string): Node {
  const inputs = Array.from(
    { length: Math.max(node.inputs.length, index + 1) },
    (_, i) => node.inputs[i] ?? '',
  );
  return { ...node, inputs: inputs.with(index, value) };
}

export function withAttribute(node: Node, name: string, value: PlainAttribute): Node {
  return { ...node, attributes: { ...node.attributes, [name]: attribute(name, value) } };
}

export function isPlain(node: Node, name: 'prologue' | 'prologueB' | 'epilogue'): boolean {
  return stringAttribute(node, name, 'none') === 'none';
}

/** Turns MatMul, FusedMatMul and Gemm into deepspeed.MatMul. */
export function unifyProducts(bench: Workbench): void {
  for (const node of bench.nodes()) {
    const made = asProduct(bench, node);
    if (made !== undefined) bench.replace([node], node, made);
  }
}

function asProduct(bench: Workbench, node: Node): Node | undefined {
  const key = operatorKey(node);
  if (!['MatMul', 'com.microsoft.FusedMatMul', 'Gemm'].includes(key)) return undefined;
  const [a, b, c] = node.inputs as [string, string, string?];
  const matrices = [a, b].every((factor) => bench.shape(factor).length >= 2);
  if (!matrices || !isFloat(bench.emit.dtype(a))) return undefined;
  if (intAttribute(node, 'transBatchA', 0) || intAttribute(node, 'transBatchB', 0))
    return undefined;
  const attributes = {
    transA: attribute('transA', intAttribute(node, 'transA', 0)),
    transB: attribute('transB', intAttribute(node, 'transB', 0)),
    alpha: attribute('alpha', key === 'MatMul' ? 1 : floatAttribute(node, 'alpha', 1)),
  };
  const product: Node = {
    ...node,
    opType: 'MatMul',
    domain: 'deepspeed',
    inputs: [a, b],
    attributes,
  };
  if (!c) return product;
  if (floatAttribute(node, 'beta', 1) !== 1) return undefined;
  const [shape, added] = [bench.shape(node.outputs[0]!), bench.shape(c)];
  if (added.join() === shape.join()) return withInput(product, port.residual, c);
  return added.join() === String(shape[1]) ? withInput(product, port.bias, c) : undefined;
}
